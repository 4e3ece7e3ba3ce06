"""Folders of pictures to be scored: which files they are, and their pixels at one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from orthus_core.data.pixels import is_picture, open_image
from orthus_core.errors import DataError


def pictures_in(folder: Path) -> list[Path]:
    """The pictures below a folder, in the order of their paths.

    Raises:
        DataError: When there are none.
    """
    if not folder.is_dir():
        raise DataError("there is no such folder", where=str(folder), hint="give one with pictures")
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and is_picture(path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise DataError("a folder without pictures", where=str(folder), hint="PNG, JPEG or WebP")
    return found


def stretched(paths: Sequence[Path], size: int) -> Tensor:
    """Pictures resized to a square without keeping their shape, by Pillow's bicubic filter: fp32
    [M, 3, size, size] in 0..1.

    Raises:
        DataError: When one cannot be read.
    """
    resized = [open_image(path).resize((size, size), Image.Resampling.BICUBIC) for path in paths]
    return unit_pixels(resized)


def unit_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as fp32 [M, 3, H, W] in 0..1."""
    return torch.stack(
        [torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 for picture in pictures]
    )


class NamedPictures:
    """The pictures of a folder, and of those in it, by names without a suffix: `a/00000` is
    `a/00000.png` or the like. Each folder is listed once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[Path, dict[str, list[Path]]] = {}

    def find(self, name: str) -> Path:
        """The picture of a name; a file that has exactly this name comes first.

        Raises:
            DataError: When there is none, or there are several.
        """
        exact = self._folder / name
        if exact.is_file():
            return exact
        found = [path for path in self._list(exact.parent).get(exact.name, ()) if is_picture(path)]
        if len(found) != 1:
            what = f"{len(found)} pictures" if found else "no picture"
            raise DataError(
                f"there is {what} for {name!r}",
                where=str(self._folder),
                hint=f"name the picture {name}.png, {name}.jpg or {name}.webp, and keep one of "
                "them",
            )
        return found[0]

    def _list(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._listed:
            files = self._listed[folder] = {}
            for path in folder.iterdir() if folder.is_dir() else ():
                pieces = path.name.split(".")
                for count in range(1, len(pieces)):
                    files.setdefault(".".join(pieces[:count]), []).append(path)
        return self._listed[folder]
