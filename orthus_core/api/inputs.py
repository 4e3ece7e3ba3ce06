"""Images as users pass them (a path, bytes, an array, or an image in memory), and edits made from
them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from orthus_core.data.pictures import BytesPicture, FilePicture
from orthus_core.data.pixels import as_rgb, open_image
from orthus_core.errors import DataError, PromptError
from orthus_core.results.metadata import pixel_hash
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.prompt_builder import PromptBuilder, by_example
from orthus_core.user_files import user_path

PictureLike = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray
)
"""A file's name, its bytes, an open file, a PIL image, or numpy values [h, w] or [h, w, 1, 3 or 4]:
uint8, or floats from 0 to 1.
"""
_ADDRESS = re.compile(r"(https?|s3|gs|data|file):", re.I)


class InputImage(NamedTuple):
    """An image that the model reads.

    Attributes:
        picture: Picture for prompts.
        image: RGB image for display.
        file: File of the image, if it has one.
    """

    picture: FilePicture | BytesPicture
    image: Image.Image
    file: Path | None

    @property
    def pixels(self) -> str:
        """The hash of its pixels."""
        return pixel_hash(self.image)


def input_image(source: PictureLike) -> InputImage:
    """Opens an image.

    Raises:
        DataError: When it is not a picture, or cannot be read.
    """
    if isinstance(source, np.ndarray):
        source = _of_array(source)
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        try:
            as_rgb(source).save(file, "PNG")
        except Exception as error:  # its file is read only now, and Pillow raises anything
            raise DataError(
                f"this picture in memory cannot be read: {error}",
                hint="give an open PIL image that has pixels, of whole numbers",
            ) from error
        source = file.getvalue()
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if _is_open_file(source):
        source = _content_of(source)
    if isinstance(source, bytes):
        return InputImage(BytesPicture(source), open_image(source), None)
    if isinstance(source, str) and _ADDRESS.match(source):
        raise DataError(
            "a picture is not fetched from an address",
            where=source[:80],
            hint="give the name of a file, or what you fetched, as bytes",
        )
    if isinstance(source, (str, os.PathLike)):
        path = user_path(source)
        return InputImage(FilePicture(path), open_image(path), path)
    raise DataError(
        f"a picture cannot be a {type(source).__name__}",
        hint="give a file's name, its bytes, a PIL image, or numpy values [h, w, 3]",
    )


def input_images(sources: PictureLike | Sequence[PictureLike]) -> list[InputImage]:
    """Opens one image, or several. Raises: DataError as `input_image`."""
    several = isinstance(sources, Iterable)
    alone = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    one = isinstance(sources, alone) or _is_open_file(sources) or not several
    if isinstance(sources, np.ndarray):
        one = sources.ndim < 4  # a fourth axis counts pictures
    return [input_image(source) for source in ([sources] if one else sources)]  # type: ignore[list-item]


def _is_open_file(source: Any) -> bool:
    return callable(getattr(source, "read", None))


def _content_of(file: Any) -> bytes:
    """All that an open file holds, from its beginning. Raises: DataError."""
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"the open file does not read: {error}", where=repr(file)[:80]) from error
    if not isinstance(content, bytes):
        raise DataError(
            "the open file is one of text", where=repr(file)[:80], hint='open it with "rb"'
        )
    return content


def _of_array(values: np.ndarray) -> Image.Image:
    """Numpy values as an image. Raises: DataError for another shape, type or range."""
    levels = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    is_picture = levels.ndim == 2 or (levels.ndim == 3 and levels.shape[2] in (3, 4))
    is_float = np.issubdtype(levels.dtype, np.floating)
    in_range = not is_float or (levels.size and 0 <= levels.min() and levels.max() <= 1)
    if not (is_picture and levels.size and in_range and (is_float or levels.dtype == np.uint8)):
        raise DataError(
            f"an array of shape {list(values.shape)} and type {values.dtype} is no picture",
            hint="give [h, w, 3] of uint8, or of floats from 0 to 1",
        )
    return Image.fromarray(np.round(levels * 255).astype(np.uint8) if is_float else levels)


def hashes_of(pictures: Sequence[InputImage]) -> tuple[str, ...]:
    """The hash of each picture's pixels."""
    return tuple(picture.pixels for picture in pictures)


def files_of(pictures: Sequence[InputImage]) -> tuple[str, ...]:
    """Files of the pictures; empty unless all have files, because the position identifies the
    picture.
    """
    files = [picture.file for picture in pictures]
    return tuple(str(file.absolute()) for file in files if file) if all(files) else ()


class Edit(NamedTuple):
    """One image to draw from others.

    Attributes:
        images: Images it is made from, in reading order: the example before and after, if there is
            one, then the images to change.
        instruction: Instruction in words; empty where an example replaces it.
        has_example: Whether the first two are an example.
    """

    images: list[InputImage]
    instruction: str
    has_example: bool = False

    def prompt(self, builder: PromptBuilder, params: SamplingParams) -> Prompt:
        """The prompt for this edit, without a seed.

        Raises:
            PromptError: When there is no picture to change, or neither an instruction nor an
                example.
        """
        pictures = [each.picture for each in self.images]
        if not self.has_example:
            return builder.edit(pictures, self.instruction, params)
        if self.instruction:
            raise PromptError(
                "an example says what to do without words",
                where="edit",
                hint="leave out the instruction, or the example",
            )
        if len(pictures) < 3:
            raise PromptError(
                "an example is two pictures, and there must be one more to change",
                where="edit",
                hint="orthus edit PICTURE --example BEFORE AFTER",
            )
        before, after, *rest = pictures
        return by_example(builder, before, after, rest, params)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Pixel hashes of all images that it is made from."""
        return hashes_of(self.images)

    @property
    def files(self) -> tuple[str, ...]:
        """Files of all images that it is made from."""
        return files_of(self.images)


def edits_of(
    pictures: Sequence[InputImage],
    instruction: str,
    example: Sequence[InputImage] = (),
    *,
    each: bool,
) -> list[Edit]:
    """One edit of all the pictures together, or one edit for each."""
    groups = [[picture] for picture in pictures] if each else [list(pictures)]
    return [Edit([*example, *group], instruction, bool(example)) for group in groups]
