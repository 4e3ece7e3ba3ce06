"""Pictures as JPEG and WebP files, with the texts of our PNG files in their EXIF data.

A WebP file keeps every pixel and is smaller than a PNG file. A JPEG file loses a little, so its
record holds two hashes: that of the drawn pixels, as every record does, and under `stored` that of
the pixels as they are read from the file.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from orthus_core.data.exif_texts import exif_block
from orthus_core.errors import OutputError
from orthus_core.results.metadata import (
    COMMON_CHUNK,
    OUR_CHUNK,
    GenerationInfo,
    common_text,
    pixel_hash,
    record_of,
)
from orthus_core.results.output_names import json_text
from orthus_core.version import __version__

JPEG_QUALITY = 95
# Colours are not halved in size: drawn pictures have sharp coloured edges. WebP's `exact` would
# matter for transparent pixels alone.
SETTINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": JPEG_QUALITY, "subsampling": 0, "optimize": True},
    "WEBP": {"lossless": True},
}
# A JPEG segment has two bytes for its length.
LONGEST_JPEG_EXIF = 65533


def exif_picture(image: Image.Image, info: GenerationInfo | None, kind: str) -> bytes:
    """The picture as a file of this kind, `JPEG` or `WEBP`.

    A JPEG file holds 64 KB of EXIF data: where that is too little, the record does without the
    other pictures of its run, then the file without the text of other tools.

    Raises:
        OutputError: When the record does not fit even so.
    """
    if info is None:
        return _encoded(image, kind)
    record = record_of(image, info)
    if kind == "JPEG":
        with Image.open(io.BytesIO(_encoded(image, kind))) as lossy:
            seen = pixel_hash(lossy)
        record["stored"] = {"format": kind, "quality": JPEG_QUALITY, "pixels": seen}
    alone = {name: value for name, value in record.items() if name != "among"}
    common = {COMMON_CHUNK: common_text(image, info)}
    for texts in (
        {**common, OUR_CHUNK: json_text(record)},
        {**common, OUR_CHUNK: json_text(alone)},
        {OUR_CHUNK: json_text(alone)},
    ):
        exif = exif_block(texts, f"orthus {__version__}")
        if kind != "JPEG" or len(exif) <= LONGEST_JPEG_EXIF:
            return _encoded(image, kind, exif=exif)
    raise OutputError(
        "the record of how it was made is too long for a JPEG file",
        where="metadata",
        hint="give -o a name that ends in .png or .webp, or --no-metadata",
    )


def _encoded(image: Image.Image, kind: str, **more: Any) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, kind, **SETTINGS[kind], **more)
    return file.getvalue()
