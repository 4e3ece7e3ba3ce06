"""Pictures as people have them: a file's name, its bytes, or an image in memory."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from orthus_core.data.pictures import BytesPicture, FilePicture
from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.results.picture import pixel_hash

PictureLike = str | os.PathLike[str] | bytes | Image.Image


class Given(NamedTuple):
    """A picture that the model is given.

    picture: As prompts take it.
    image: As a viewer shows it, RGB.
    file: Its file, where it has one.
    """

    picture: FilePicture | BytesPicture
    image: Image.Image
    file: Path | None

    @property
    def pixels(self) -> str:
        """The hash of its pixels."""
        return pixel_hash(self.image)


def given(source: PictureLike) -> Given:
    """A picture, opened.

    Raises:
        DataError: When it is no picture, or does not read.
    """
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        # PNG holds neither CMYK nor floats; with transparency it is laid over white, as in files.
        mode = "RGBA" if source.has_transparency_data else "RGB"
        source.convert(mode).save(file, "PNG")
        source = file.getvalue()
    if isinstance(source, bytes):
        return Given(BytesPicture(source), open_image(source), None)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        return Given(FilePicture(path), open_image(path), path)
    raise DataError(
        f"a picture cannot be a {type(source).__name__}",
        hint="give a file's name, its bytes, or a PIL image",
    )


def all_given(sources: PictureLike | Sequence[PictureLike]) -> list[Given]:
    """One picture, or several. Raises: DataError as `given`."""
    one = isinstance(sources, (str, os.PathLike, bytes, Image.Image))
    return [given(source) for source in ([sources] if one else sources)]  # type: ignore[list-item]


def hashes_of(pictures: Sequence[Given]) -> tuple[str, ...]:
    """The hash of each picture's pixels."""
    return tuple(picture.pixels for picture in pictures)


def files_of(pictures: Sequence[Given]) -> tuple[str, ...]:
    """Where the pictures lie; none unless all have files, because a place stands for its number."""
    files = [picture.file for picture in pictures]
    return tuple(str(file.absolute()) for file in files if file) if all(files) else ()
