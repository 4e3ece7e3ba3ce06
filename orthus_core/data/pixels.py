"""From picture files to what a vision autoencoder reads, and back, by the release's arithmetic.

Legend: M images, H height, W width, 3 colours.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from orthus_core.errors import DataError

# The release's rescale factor. It is not 1/127.5: white becomes 0.989.
RESCALE = 0.0078

# A 64-megapixel photograph is the largest anyone trains on; a bomb says more in its header.
MAX_PIXELS = 64_000_000

# Formats decoded inside Pillow. Others start foreign programs (EPS) or are rarely pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

KNOWN = "a whole PNG, JPEG, WebP, GIF, BMP or TIFF file is needed"

ImageSource = str | os.PathLike[str] | bytes | BinaryIO


def open_image(source: ImageSource) -> Image.Image:
    """A picture from a file, a file's bytes or an open file, as RGB the way a viewer shows it.

    The camera's rotation is applied, transparency laid over white, the first frame of an animation
    taken, 16-bit and CMYK pictures converted.

    Raises:
        DataError: if it is missing, no picture, truncated, or larger than `MAX_PIXELS`.
    """
    where = _name_of(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
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
        raise DataError("this is no picture", where=where, hint=KNOWN) from error
    # Pillow's decoders raise almost anything on a damaged file: struct.error, IndexError ...
    except Exception as error:
        raise DataError(
            f"cannot read the picture: {error}",
            where=where,
            hint=KNOWN,
        ) from error


def square(image: Image.Image, size: int) -> np.ndarray:
    """The picture as the release frames it: shortest edge to `size` (Lanczos), centre crop.

    Returns uint8 [size, size, 3].

    Raises:
        DataError: if the picture is a thread whose scaled length would not fit in memory.
    """
    width, height = image.size
    short = min(width, height)
    # Rounding down, and the crop's odd pixel at the bottom and right, are transformers' own.
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
    """Equal uint8 [H, W, 3] arrays as one batch of the autoencoder's input, [M, 3, H, W]."""
    return as_input(torch.from_numpy(np.stack(squares)))


def as_input(pixels_MHW3: Tensor) -> Tensor:
    """uint8 pixels as the autoencoder reads them, [M, 3, H, W]: x of 0..255 is `x * 0.0078 - 1`."""
    # In double, then rounded once: the last bit is then the release's too.
    scaled_MHW3 = (pixels_MHW3.double() * RESCALE).float()
    return (scaled_MHW3 - 1.0).permute(0, 3, 1, 2).contiguous()


def to_image(pixels_3HW: Tensor) -> Image.Image:
    """A decoded picture from values of about [-1, 1], clipped and truncated as in the release."""
    # In double, as the release's numpy computes: single would truncate some values elsewhere.
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
