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

_ORIENTATION = 0x0112  # EXIF's tag; its value, and what undoes it:
_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ImageSource = str | os.PathLike[str] | bytes | BinaryIO


def open_image(source: ImageSource, *, max_pixels: int | None = None) -> Image.Image:
    """Opens a picture from a path, a file's bytes or an open file, as RGB.

    The result is what a viewer shows: the camera's rotation is applied, transparent pixels are
    composited over white, an animation is reduced to its first frame, and 16-bit and CMYK pictures
    are converted.

    Args:
        source: Picture to open.
        max_pixels: Largest number of pixels; `MAX_PIXELS` by default.

    Raises:
        DataError: if it is missing, not a picture, truncated, or larger than `max_pixels`.
    """
    where, max_pixels = _name_of(source), max_pixels or MAX_PIXELS
    try:
        return _decoded(source, where, max_pixels)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise anything: struct.error, IndexError ...
        image = _without_side_chunks(source, where, max_pixels)
        if image is None:
            raise _open_error(source, where, error, max_pixels) from error
        return image


def _decoded(source: ImageSource, where: str, max_pixels: int) -> Image.Image:
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(file, formats=formats_for(where)) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise DataError(
                f"the picture is {width} x {height} pixels",
                where=where,
                hint=f"scale it down to at most {max_pixels // 1_000_000} megapixels",
            )
        image.load()
        return as_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """The picture with the camera's rotation applied; other metadata may be broken."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as undefined as what decoders raise
        pass
    try:
        method = _ROTATIONS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return image
    return image if method is None else image.transpose(method)


def _without_side_chunks(source: ImageSource, where: str, max_pixels: int) -> Image.Image | None:
    """A PNG picture from its pixels alone, where something else in the file cannot be read; None
    when that is not the cause.
    """
    from orthus_core.data.png_chunks import is_png, pixels_alone

    try:
        content = _content(source)
        if not is_png(content):
            return None
    except (OSError, ValueError, MemoryError):
        return None
    for bare in (False, True):
        try:
            return _decoded(pixels_alone(content, bare=bare), where, max_pixels)
        except DataError:
            raise
        except Exception:
            continue
    return None


def _content(source: ImageSource) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Path(source).read_bytes()
    source.seek(0)
    return source.read()


def _open_error(source: ImageSource, where: str, error: Exception, max_pixels: int) -> DataError:
    """The reason why a picture cannot be opened: of the place, of what is in it, of its format."""
    from orthus_core.wrong_content import true_cause

    if isinstance(error, FileNotFoundError):
        return DataError("there is no such picture", where=where)
    if isinstance(error, IsADirectoryError):
        return DataError("this is a folder, and not a picture", where=where)
    if isinstance(error, PermissionError):
        return DataError(
            "the picture may not be read", where=where, hint="change its rights, or copy it"
        )
    if isinstance(error, Image.DecompressionBombError):
        return DataError(
            "the picture has too many pixels",
            where=where,
            hint=f"scale it down to at most {max_pixels // 1_000_000} megapixels",
        )
    if isinstance(error, UnidentifiedImageError):
        kind = _begins_as(source)
        how = f": it begins as a {kind} file, and is damaged or cut short" if kind else ""
        damaged = DataError("this is no picture" + how, where=where, hint=FORMATS_HINT)
    elif "truncated" in str(error).lower():
        damaged = DataError(
            f"cannot read the picture, it is cut short: {error}",
            where=where,
            hint="copy or download it again; " + FORMATS_HINT,
        )
    else:
        damaged = DataError(f"cannot read the picture: {error}", where=where, hint=FORMATS_HINT)
    content = source if isinstance(source, (bytes, str, os.PathLike)) else _head(source)
    return true_cause(damaged, content, error)


def _begins_as(source: ImageSource) -> str | None:
    """The format that a file's signature states, if it is a common one."""
    try:
        head = _content(source)[:8]
    except (OSError, ValueError, MemoryError):
        return None
    kinds = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF"}
    return next((kind for mark, kind in kinds.items() if head.startswith(mark)), None)


def _head(file: BinaryIO) -> bytes:
    try:
        return _content(file)
    except (OSError, ValueError):
        return b"unread"


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


def enlarged(image: Image.Image, times: int | None) -> Image.Image:
    """The picture, `times` as wide and as high (Lanczos); None leaves it as it is."""
    if not times:
        return image
    size = (image.width * times, image.height * times)
    return image.resize(size, Image.Resampling.LANCZOS)


def pack_pixels(squares: Sequence[np.ndarray]) -> Tensor:
    """The autoencoder's input, [M, 3, H, W], from uint8 [H, W, 3] arrays of equal size."""
    # A table of the 256 levels is three times as fast as arithmetic.
    scaled_MHW3 = torch.from_numpy(_input_levels()[np.stack(squares)])
    return scaled_MHW3.permute(0, 3, 1, 2).contiguous()


@cache
def _input_levels() -> np.ndarray:
    """Each level of a byte as the autoencoder's input: float32 [256]."""
    levels = torch.arange(256, dtype=torch.uint8)
    return as_input(levels[:, None, None, None].expand(256, 1, 1, 3))[:, 0, 0, 0].numpy()


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


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB: transparent pixels over white, 16-bit greys by their upper bits.

    Raises:
        ValueError: For floating-point pixels, and greys beyond 16 bits.
    """
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
