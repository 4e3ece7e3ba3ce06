"""Pictures that clients send: read once, at the model's size, and with fewer pixels than a file on
one's own disk may have.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from orthus_core.data.pixels import open_image, square
from orthus_core.errors import DataError
from orthus_core.results.metadata import pixel_hash

# A picture takes three bytes a pixel while it is read, and several are read at once.
MAX_PIXELS = 16_000_000
FORMATS = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff",
    "WebP": b"RIFF",
    "GIF": b"GIF8",
    "BMP": b"BM",
}
"""How the files of the formats that are read begin. Decoders of rarer formats are tested less."""

_DATA_URL = re.compile(
    r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(;[\w.+-]+=[\w.+-]+)*;base64,", re.A | re.I
)


@dataclass(frozen=True)
class UploadedPicture:
    """A picture as the model reads it; it takes the place of an `InputImage` in an edit.

    Attributes:
        content: A hash of the file.
        pixels: The hash of the picture's pixels at its own size, as metadata records it.
    """

    content: str
    pixels: str
    pixels_HW3: np.ndarray = field(repr=False, compare=False)
    file: Path | None = None

    @property
    def picture(self) -> UploadedPicture:
        return self

    @property
    def key(self) -> str:
        return f"uploaded:{len(self.pixels_HW3)}:{self.content}"

    def load(self, size: int) -> np.ndarray:
        assert len(self.pixels_HW3) == size, "it was scaled for another model"
        return self.pixels_HW3

    def image(self) -> Image.Image:
        """The picture at the model's size."""
        return Image.fromarray(self.pixels_HW3)


def read_picture(content: bytes, size: int, where: str) -> UploadedPicture:
    """Reads a file that a client sent.

    Args:
        content: The file.
        size: Pixels of the model's pictures along a side.
        where: Field of the request, for messages.

    Raises:
        DataError: When it is no picture of one of `FORMATS`, is damaged, or has more than
            `MAX_PIXELS`.
    """
    if not content.startswith(tuple(FORMATS.values())):
        raise DataError("this is no picture", where=where, hint=f"send a {', '.join(FORMATS)} file")
    try:
        image = open_image(content, max_pixels=MAX_PIXELS)
        return UploadedPicture(
            hashlib.sha256(content).hexdigest(), pixel_hash(image), square(image, size)
        )
    except DataError as error:
        raise DataError(error.message, where=where, hint=error.hint) from error
    except MemoryError as error:
        raise DataError("the picture does not fit into memory", where=where) from error


def content_of_url(url: str, where: str) -> bytes:
    """The file in a `data:` URL.

    Raises:
        DataError: When it is another URL, or its base64 is damaged.
    """
    begins = _DATA_URL.match(url[:200])
    if begins is None:
        raise DataError(
            "only data: URLs are read; this server fetches nothing",
            where=where,
            hint="send the picture itself, as data:image/png;base64,...",
        )
    try:
        # Many encoders break lines, and browsers read such URLs.
        return base64.b64decode("".join(url[begins.end() :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"its base64 does not read: {error}", where=where) from error
