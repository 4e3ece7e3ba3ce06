"""Picture files of every awkward kind, by name: some are fine and only unusual, some are broken.

Damage is drawn from a seed of its own for each file, so a failure can be looked at again.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

Content = Callable[[], bytes]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((40, 24))


def chunk(name: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file, checksum and all."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def header_of(width: int, height: int) -> bytes:
    """A PNG that says how large it is and brings hardly any of it."""
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + size + pixels + chunk(b"IEND", b"")


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me a quarter to the right"
    return encoded(plain(), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in (0, 120, 240)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def bloated() -> bytes:
    """A text chunk that unpacks to far more than its file."""
    text = chunk(b"zTXt", b"orthus\0\0" + zlib.compress(b"a" * 70_000_000))
    whole = encoded(plain())
    return whole[:33] + text + whole[33:]


def with_record(text: str) -> bytes:
    whole = encoded(plain())
    return whole[:33] + chunk(b"iTXt", b"orthus\0\0\0\0\0" + text.encode()) + whole[33:]


GOOD: dict[str, Content] = {
    "plain.png": lambda: encoded(plain()),
    "animated.gif": animated,
    "cmyk.jpg": lambda: encoded(plain().convert("CMYK"), "JPEG"),
    "sixteen.png": lambda: encoded(Image.fromarray(np.full((20, 30), 40_000, np.uint16))),
    "alpha.png": lambda: encoded(Image.new("RGBA", (30, 20), (255, 0, 0, 40))),
    "grey-alpha.png": lambda: encoded(Image.new("LA", (30, 20), (9, 40))),
    "palette.png": lambda: encoded(plain().quantize(8)),
    "bits.png": lambda: encoded(plain().convert("1")),
    "rotated.jpg": rotated,
    "one-pixel.png": lambda: encoded(Image.new("RGB", (1, 1), (7, 8, 9))),
    "wide.png": lambda: encoded(Image.new("RGB", (2000, 3))),
    "webp.webp": lambda: encoded(plain(), "WEBP"),
    "bmp.bmp": lambda: encoded(plain(), "BMP"),
    "tiff.tiff": lambda: encoded(plain(), "TIFF"),
    "misnamed.png": lambda: encoded(plain(), "JPEG"),
    "märchen 🦊.png": lambda: encoded(plain()),
}

BROKEN: dict[str, Content] = {
    "text.png": lambda: b"once upon a time",
    "empty.png": lambda: b"",
    "zeros.png": lambda: bytes(5000),
    "signature.png": lambda: b"\x89PNG\r\n\x1a\n",
    "bomb.png": lambda: header_of(50_000, 50_000),
    "huge.png": lambda: header_of(2**31 - 1, 2**31 - 1),
    "flat.png": lambda: header_of(0, 10),
    "short.png": lambda: header_of(400, 400),
    "float.tiff": lambda: encoded(Image.new("F", (8, 8), 0.5), "TIFF"),
    "bloated.png": bloated,
    "page.svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "script.eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "folder.png": lambda: b"",  # made a folder by the test
}


def damaged(seed: int) -> bytes:
    """A good picture, cut short or with bytes changed, as a bad disk leaves it."""
    draw = random.Random(seed)
    kind = draw.choice(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
    content = bytearray(encoded(plain(), kind))
    if draw.random() < 0.4:
        return bytes(content[: draw.randrange(len(content))])
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def damaged_record(seed: int) -> str:
    """A record as JSON, with letters changed, cut or doubled."""
    draw = random.Random(seed)
    text = (
        '{"version": "0.1.0", "recipe": {"command": "generate", "model": "mini", "steps": 4, '
        '"seeds": [7]}, "prompt": "a fox", "seed": 7, "sampling": {"steps": 4}, "model": '
        '{"name": "mini", "hash": "00", "device": "cpu", "dtype": "fp32"}, "pixels": "00"}'
    )
    letters = list(text)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(letters))
        letters[place] = draw.choice(['"', "{", "}", "[", ",", "9", "-", "null", "\\ud800", "é"])
    return "".join(letters)
