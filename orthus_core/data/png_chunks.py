"""The chunks of a PNG file, read without a decoder.

A decoder refuses a whole picture for one text chunk that it cannot read. Here the pixels and the
texts are taken apart, so that each can be used, or reported, without the other.

Source: PNG (Third Edition), W3C, sections 5 (chunks and their CRC) and 11 (tEXt, zTXt, iTXt).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# The chunks that the pixels consist of, then those that change how they are shown.
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_SHOWN = (*_PIXELS, b"tRNS", b"eXIf")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# A text that unpacks to more than this is refused, whoever wrote it.
_LARGEST_TEXT = 16 * 2**20


class Chunk(NamedTuple):
    """One chunk; `is_whole` says whether its checksum is right."""

    kind: bytes
    data: bytes
    is_whole: bool


def is_png(content: bytes) -> bool:
    """Whether a file begins as PNG files do."""
    return content.startswith(SIGNATURE)


def chunks(content: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG file in order, up to where it is cut short."""
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            return
        kind, data = content[place + 4 : place + 8], content[place + 8 : end]
        (stated,) = struct.unpack_from(">I", content, end)
        yield Chunk(kind, data, zlib.crc32(kind + data) == stated)
        place = end + 4


def pixels_alone(content: bytes, *, bare: bool = False) -> bytes:
    """The same picture as a PNG file without texts, colour profiles and other side chunks.

    Args:
        content: A PNG file.
        bare: Leaves out transparency and the camera's rotation too.
    """
    kept = _PIXELS if bare else _SHOWN
    file = bytearray(SIGNATURE)
    for chunk in chunks(content):
        # A wrong checksum of the pixels stays wrong: the decoder has to see it.
        if chunk.kind in _PIXELS or (chunk.kind in kept and chunk.is_whole):
            checksum = zlib.crc32(chunk.kind + chunk.data) ^ (0 if chunk.is_whole else 1)
            file += struct.pack(">I", len(chunk.data)) + chunk.kind + chunk.data
            file += struct.pack(">I", checksum)
    return bytes(file)


def text_of(content: bytes, keyword: str) -> str | None:
    """The text under a keyword; None without one.

    Raises:
        ValueError: When there is one that cannot be read, with the reason.
    """
    wanted = keyword.encode("latin-1") + b"\0"
    for chunk in chunks(content):
        if chunk.kind in _TEXTS and chunk.data.startswith(wanted):
            if not chunk.is_whole:
                raise ValueError("its checksum is wrong")
            return _text(chunk.kind, chunk.data[len(wanted) :])
    return None


def _text(kind: bytes, rest: bytes) -> str:
    try:
        if kind == b"tEXt":
            return rest.decode("latin-1")
        if kind == b"zTXt":
            return _unpacked(rest[1:]).decode("latin-1")
        is_packed, (_, _, words) = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
        return (_unpacked(words) if is_packed else words).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except zlib.error as error:
        raise ValueError("its compressed text is damaged") from error
    except ValueError as error:  # fewer fields than the format has
        raise ValueError(str(error) if "larger" in str(error) else "it is cut short") from error


def _unpacked(packed: bytes) -> bytes:
    reader = zlib.decompressobj()
    text = reader.decompress(packed, _LARGEST_TEXT)
    if reader.unconsumed_tail:
        raise ValueError(f"its text is larger than {_LARGEST_TEXT // 2**20} MB")
    return text
