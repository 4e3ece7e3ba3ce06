"""From picture files to the input of a vision autoencoder and back, with the release's arithmetic.

Legend: M images, H height, W width, 3 colours.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from orthus_core.errors import DataError

# The release's rescale factor. It is not 1/127.5: white becomes 0.989.
RESCALE = 0.0078

# No training picture is larger than a 64-megapixel photograph; decompression bombs are.
MAX_PIXELS = 64_000_000

# Formats that Pillow knows by their content and decodes itself. EPS and WMF need other programs.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO", "ICO", "ICNS"),
    *("PSD", "QOI", "DDS", "FITS", "FLI", "SGI", "SUN", "XPM", "BLP", "FTEX"),
    *("PCX", "DCX", "CUR", "MSP", "PCD", "PIXAR", "XBM", "GBR"),
)
# Formats whose content could be anything: they are tried only on a file with their suffix.
FORMATS_BY_SUFFIX = ("TGA", "DIB", "IM")

FORMATS_HINT = "a whole PNG, JPEG, WebP, GIF, BMP or TIFF file is needed"

ImageSource = str | os.PathLike[str] | bytes | BinaryIO


def open_image(source: ImageSource) -> Image.Image:
    """Opens a picture from a path, a file's bytes or an open file, as RGB.

    The result is what a viewer shows: the camera's rotation is applied, transparent pixels are
    composited over white, an animation is reduced to its first frame, and 16-bit and CMYK pictures
    are converted.

    Raises:
        DataError: if it is missing, not a picture, truncated, or larger than `MAX_PIXELS`.
    """
    where = _name_of(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=formats_for(where)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"the picture is {width} x {height} pixels",
                    where=where,
                    hint=f"scale it down to at most {MAX_PIXELS // 1_000_000} megapixels",
                )
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError("there is no such picture", where=where) from error
    except IsADirectoryError as error:
        raise DataError("this is a folder, and not a picture", where=where) from error
    except PermissionError as error:
        raise DataError(
            "the picture may not be read", where=where, hint="change its rights, or copy it"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError("this is no picture", where=where, hint=FORMATS_HINT) from error
    # Pillow's decoders may raise any exception on a damaged file: struct.error, IndexError ...
    except Exception as error:
        raise DataError(
            f"cannot read the picture: {error}",
            where=where,
            hint=FORMATS_HINT,
        ) from error


@cache
def picture_suffixes() -> Mapping[str, str]:
    """The suffixes of pictures that can be read here, in lower case, and the format of each."""
    readable = {*FORMATS, *FORMATS_BY_SUFFIX} & {*_installed()}
    found = Image.registered_extensions()
    return {suffix: name for suffix, name in found.items() if name in readable}


def formats_for(name: str) -> list[str]:
    """The formats that a file may be in: all that are known by content, and its suffix's own."""
    own = picture_suffixes().get(os.path.splitext(name)[1].lower(), "")
    known = [each for each in FORMATS if each in _installed()]
    return [*known, own] if own in FORMATS_BY_SUFFIX else known


def is_picture(path: Path) -> bool:
    """Whether a file's content begins as a picture's does; it may still be cut short."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is only alike
            with Image.open(path, formats=formats_for(path.name)):
                return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # as in `open_image`
        return False


@cache
def _installed() -> frozenset[str]:
    """The formats that this Pillow opens; AVIF and others depend on how it was built."""
    Image.init()
    return frozenset(Image.OPEN)


def square(image: Image.Image, size: int) -> np.ndarray:
    """Scales the shortest edge to `size` (Lanczos) and crops the centre, as the release does.

    Returns uint8 [size, size, 3].

    Raises:
        DataError: if the picture is so thin that the scaled picture would not fit in memory.
    """
    width, height = image.size
    short = min(width, height)
    # As in transformers: sizes are rounded down, an odd pixel is cropped at the bottom and right.
    width, height = size * width // short, size * height // short
    if width * height > MAX_PIXELS:
        raise DataError(
            f"the picture is {image.width} x {image.height} pixels, too thin to be cropped",
            hint="cut it to the part that matters",
        )
    scaled = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return np.array(scaled.crop((left, top, left + size, top + size)))


def pack_pixels(squares: Sequence[np.ndarray]) -> Tensor:
    """The autoencoder's input, [M, 3, H, W], from uint8 [H, W, 3] arrays of equal size."""
    return as_input(torch.from_numpy(np.stack(squares)))


def as_input(pixels_MHW3: Tensor) -> Tensor:
    """The autoencoder's input, [M, 3, H, W] in [-1, 1], from uint8 pixels."""
    # In double precision and rounded once, so that the last bit equals the release's.
    scaled_MHW3 = (pixels_MHW3.double() * RESCALE).float()
    return (scaled_MHW3 - 1.0).permute(0, 3, 1, 2).contiguous()


def to_image(pixels_3HW: Tensor) -> Image.Image:
    """A decoded picture from values of about [-1, 1], clipped and truncated as in the release."""
    # In double precision, like numpy in the release; in single, some values would be truncated
    # differently.
    values_3HW = (pixels_3HW.detach().cpu().double() + 1.0) / RESCALE
    levels_HW3 = values_3HW.clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(levels_HW3.contiguous().numpy())


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":  # 16-bit values in 32-bit integers
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its values are no 16-bit greys")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed white")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _name_of(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"{len(source)} bytes in memory"
    if isinstance(source, (str, os.PathLike)):
        return str(Path(source))
    return str(getattr(source, "name", "an open file"))
