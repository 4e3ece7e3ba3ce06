"""Texts in the EXIF data of JPEG and WebP files, which have no text chunks as PNG files have.

The text `parameters` is the EXIF field UserComment, where other tools write and look for it; any
other text is the field MakerNote, after its keyword. Nothing is decoded but the few bytes that lead
to them, and no offset or length of a file is trusted.

Source: Exif 3.0 (CIPA DC-008), sections 4.5.4 (segments), 4.6.2 (IFD structure), 4.6.6 (fields);
RIFF chunks of WebP: RFC 9649, section 2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COMMON = "parameters"
_EXIF = b"Exif\0\0"
# Tags, and the type of a field of bytes without a meaning of their own.
_SOFTWARE, _EXIF_FIELDS, _MAKER_NOTE, _USER_COMMENT = 0x0131, 0x8769, 0x927C, 0x9286
_ASCII, _LONG, _UNDEFINED = 2, 4, 7
_UTF_16, _PLAIN, _UNSTATED = b"UNICODE\0", b"ASCII\0\0\0", b"\0" * 8
# JPEG markers without a length, and those that the segments end with.
_ALONE, _ENDS = {0x01, *range(0xD0, 0xD8)}, {0xDA, 0xD9}
# As for the texts of PNG files.
_LARGEST_TEXT = 16 * 2**20
MOST_FIELDS = 1000


class _Field(NamedTuple):
    """A field of an IFD: its tag, its type, and its bytes if these are not numbers."""

    tag: int
    kind: int
    data: bytes


def is_exif_format(content: bytes) -> bool:
    """Whether a file begins as JPEG or WebP files do."""
    return content.startswith(b"\xff\xd8") or content[:4] + content[8:12] == b"RIFFWEBP"


def exif_block(texts: Mapping[str, str], software: str) -> bytes:
    """EXIF data with these texts: `parameters`, and one under another keyword."""
    fields = []
    for keyword, text in texts.items():
        if keyword == COMMON:
            # Readers of this field take UTF-16 to be in the order of the numbers, or big-endian.
            comment = _UTF_16 + text.encode("utf-16-be", "backslashreplace")
            fields.append(_Field(_USER_COMMENT, _UNDEFINED, comment))
        else:
            note = keyword.encode() + b"\0" + text.encode(errors="backslashreplace")
            fields.append(_Field(_MAKER_NOTE, _UNDEFINED, note))
    name = _Field(_SOFTWARE, _ASCII, software.encode("ascii", "replace") + b"\0")
    first = 8  # after the header
    pointer = _Field(_EXIF_FIELDS, _LONG, struct.pack(">I", 0))
    second = first + len(_ifd([name, pointer], first))
    pointer = pointer._replace(data=struct.pack(">I", second))
    inner = _ifd(sorted(fields), second)
    return _EXIF + b"MM\0*" + struct.pack(">I", first) + _ifd([name, pointer], first) + inner


def text_of(content: bytes, keyword: str) -> str | None:
    """The text under a keyword in a JPEG or WebP file; None without one.

    Raises:
        ValueError: When there is one that cannot be read, with the reason.
    """
    exif = _exif_of(content)
    if exif is None:
        return None
    mark = keyword.encode() + b"\0"
    try:
        if keyword == COMMON:
            comment = _find(exif, _USER_COMMENT)
            return None if comment is None else _comment(comment, _order(exif))
        note = _find(exif, _MAKER_NOTE)
        if note is None or not note.startswith(mark):
            return None
        return note[len(mark) :].decode()
    except UnicodeDecodeError as error:
        raise ValueError("it is no valid text") from error
    except struct.error as error:
        # Damaged EXIF data of a camera hides no text of ours.
        if keyword != COMMON and mark in exif:
            raise ValueError("its EXIF data is cut short") from error
        return None


def _exif_of(content: bytes) -> bytes | None:
    """The EXIF data of a file, without its prefix."""
    for data in _riff(content) if content.startswith(b"RIFF") else _segments(content):
        if len(data) > _LARGEST_TEXT:
            raise ValueError(f"its EXIF data is larger than {_LARGEST_TEXT // 2**20} MB")
        return data
    return None


def _segments(content: bytes) -> Iterator[bytes]:
    """The EXIF data in the application segments of a JPEG file, before its pixels."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF or marker in _ALONE:  # a fill byte; a marker alone
            place += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", content, place + 2)
        if marker in _ENDS or length < 2:
            return
        data = content[place + 4 : place + 2 + length]
        if marker == 0xE1 and data.startswith(_EXIF):
            yield data[len(_EXIF) :]
        place += 2 + length


def _riff(content: bytes) -> Iterator[bytes]:
    """The EXIF data in the chunks of a WebP file."""
    place = 12
    while place + 8 <= len(content):
        (length,) = struct.unpack_from("<I", content, place + 4)
        if content[place : place + 4] == b"EXIF":
            yield content[place + 8 : place + 8 + length].removeprefix(_EXIF)
        place += 8 + length + length % 2


def _order(exif: bytes) -> str:
    """Byte order of the numbers, as `struct` writes it."""
    orders = {b"MM": ">", b"II": "<"}
    if exif[:2] not in orders:
        raise struct.error("no byte order")
    return orders[exif[:2]]


def _find(exif: bytes, tag: int) -> bytes | None:
    """The bytes of a field among those of EXIF.

    Raises:
        struct.error: When the way to it leads outside of the data.
    """
    order = _order(exif)
    (first,) = struct.unpack_from(order + "I", exif, 4)
    pointers = [field for field in _fields(exif, order, first) if field.tag == _EXIF_FIELDS]
    for pointer in pointers[:1]:
        (place,) = struct.unpack(order + "I", pointer.data)
        for field in _fields(exif, order, place):
            if field.tag == tag:
                return field.data
    return None


def _fields(exif: bytes, order: str, place: int) -> Iterator[_Field]:
    """The fields of bytes, of text, and of one number, at an offset."""
    (count,) = struct.unpack_from(order + "H", exif, place)
    for number in range(min(count, MOST_FIELDS)):
        at = place + 2 + 12 * number
        tag, kind, length = struct.unpack_from(order + "HHI", exif, at)
        inline = exif[at + 8 : at + 12]
        if kind == _LONG and length == 1:
            yield _Field(tag, kind, inline)
        elif kind in (1, _ASCII, _UNDEFINED):
            if length <= 4:
                yield _Field(tag, kind, inline[:length])
                continue
            (start,) = struct.unpack(order + "I", inline)
            if start + length > len(exif) and tag in (_MAKER_NOTE, _USER_COMMENT):
                raise struct.error("a field ends outside of the data")
            yield _Field(tag, kind, exif[start : start + length])


def _comment(comment: bytes, order: str) -> str:
    """The text of a UserComment, which begins with its encoding."""
    kind, text = comment[:8], comment[8:]
    if kind == _UTF_16:
        return text.decode("utf-16-be" if order == ">" else "utf-16-le")
    if kind in (_PLAIN, _UNSTATED):
        return text.rstrip(b"\0 ").decode()
    raise ValueError("its encoding is not known")


def _ifd(fields: list[_Field], place: int) -> bytes:
    """A list of fields at an offset, then their data."""
    after = place + 2 + 12 * len(fields) + 4
    entries, data = b"", b""
    for tag, kind, value in fields:
        count = 1 if kind == _LONG else len(value)
        inline = len(value) <= 4
        stands = value.ljust(4, b"\0") if inline else struct.pack(">I", after + len(data))
        entries += struct.pack(">HHI", tag, kind, count) + stands
        data += b"" if inline else value + b"\0" * (len(value) % 2)
    return struct.pack(">H", len(fields)) + entries + struct.pack(">I", 0) + data
