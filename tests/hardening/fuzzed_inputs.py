"""Inputs drawn at random, each from a seed of its own: what is valid, with some of it replaced,
cut, doubled, or made hostile.
"""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zlib
from typing import Any

from PIL import Image

from tests.bad_inputs.pictures import chunk, damaged_record, encoded, plain

HOSTILE = (
    *(None, True, -1, 0, 1, 10**9, 10**30, -(10**18), 0.5, 1e308, -1e-300),
    *("", " ", "\x00", "\ud800", "../../etc/passwd", "a" * 5000, "🦊", "<image>", "%s%n{0}", "NaN"),
    *([], [[]], {}, {"a": {}}, [None] * 50, ["a", 1, {}], float("nan"), float("inf")),
)
"""Values that stand where others are meant."""

CHUNKS = (*(b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"gAMA", b"tRNS", b"pHYs", b"sRGB"),)
CHUNKS += (b"PLTE", b"acTL", b"fcTL", b"tIME", b"bKGD", b"IDAT", b"IEND", b"IHDR", b"oRTh")


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """With a few bytes changed, doubled, or cut."""
    letters = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at, kind = rng.randrange(max(1, len(letters))), rng.random()
        if kind < 0.5:
            letters[at : at + 1] = bytes([rng.randrange(256)])
        elif kind < 0.7:
            letters[at:at] = letters[at : at + rng.randint(1, 40)]
        elif kind < 0.9:
            del letters[at : at + rng.randint(1, 40)]
        else:
            del letters[at:]
    return bytes(letters)


def mutated_json(rng: random.Random, value: Any) -> Any:
    """A copy in which one or two of its values, at any depth, are hostile, gone, or unknown."""
    made = copy.deepcopy(value)
    for _ in range(rng.randint(1, 2)):
        inner = made
        while True:
            if not isinstance(inner, (dict, list)) or not inner:
                break
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            key = rng.choice(list(keys))
            if isinstance(inner[key], (dict, list)) and inner[key] and rng.random() < 0.8:
                inner = inner[key]
                continue
            if rng.random() < 0.15:
                del inner[key]
            elif rng.random() < 0.1 and isinstance(inner, dict):
                inner[str(rng.choice(HOSTILE))] = inner[key]
            else:
                inner[key] = copy.deepcopy(rng.choice(HOSTILE))
            break
    return made


def picture_with_chunks(rng: random.Random) -> bytes:
    """A PNG with up to three chunks too many, of random content."""
    whole = encoded(plain())
    for _ in range(rng.randint(1, 3)):
        name, size = rng.choice(CHUNKS), rng.choice((0, 1, 4, 13, 200, 70_000))
        kind = rng.random()
        if kind < 0.4:
            content = rng.randbytes(size)
        elif kind < 0.6:
            name, content = (
                b"iTXt",
                b"orthus\0\0\0\0\0" + damaged_record(rng.randrange(10**9)).encode(),
            )
        elif kind < 0.8:
            name, content = b"zTXt", b"parameters\0\0" + zlib.compress(rng.randbytes(size))
        else:
            name, content = b"eXIf", mutated_bytes(rng, exif())
        added = bytearray(chunk(name, content))
        if rng.random() < 0.2:  # a size that is a lie
            added[:4] = struct.pack(">I", rng.choice((0, 2**31 - 1, 2**32 - 1, len(content) + 1)))
        at = rng.choice((33, len(whole) - 12, len(whole)))
        whole = whole[:at] + bytes(added) + whole[at:]
    return whole


def picture_with_exif(rng: random.Random) -> bytes:
    """A JPEG or WebP whose EXIF block is damaged."""
    return encoded(plain(), rng.choice(("JPEG", "WEBP")), exif=mutated_bytes(rng, exif()))


def exif() -> bytes:
    """An EXIF block with the way up, and a record as our own pictures hold it."""
    block = Image.Exif()
    block[0x0112] = 6
    block[0x010E] = "a red fox"
    block[0x9286] = b"UNICODE\0" + damaged_record(0).encode("utf-16-le")
    return block.tobytes()


def safetensors_header(rng: random.Random, content: bytes) -> bytes:
    """The file with a header that is no JSON, of a wrong length, or says what is not so."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    kind = rng.random()
    if kind < 0.25:
        header = mutated_bytes(rng, header)
    elif kind < 0.85:
        header = json.dumps(mutated_json(rng, json.loads(header))).encode()
    else:
        data = data[: rng.randrange(len(data))]
    length = len(header)
    if rng.random() < 0.15:
        length = rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + header + data


def text(rng: random.Random) -> str:
    """Words in any letters, with marks, controls, and names of tokens."""
    pieces = [
        "a red fox",
        "☃",
        "雪だるま",
        "\u202e",
        "\x1b[2J",
        "\x00",
        "\n",
        "<image>",
        "IMGIMGAZ",
    ]
    pieces += [
        "IMGIMGAZ",
        "<racm3:break>",
        "{seed}",
        "../",
        "--",
        "'\"`$(id)",
        "e\u0301" * 9,
        "\ufeff",
        "🏳️‍🌈",
    ]
    chosen = rng.choices(pieces, k=rng.randint(1, 6))
    chosen += [chr(rng.choice((rng.randrange(32, 0xD800), rng.randrange(0xE000, 0x110000))))]
    rng.shuffle(chosen)
    return rng.choice((" ", "")).join(chosen)


def png_of_noise(rng: random.Random) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (8, 8), rng.randbytes(192)).save(file, "PNG")
    return file.getvalue()
