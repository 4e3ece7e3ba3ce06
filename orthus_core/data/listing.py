"""Lists picture files: named files, and all pictures in named folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orthus_core.data.formats.image_folder import PICTURE_SUFFIXES
from orthus_core.errors import DataError


def picture_files(named: Iterable[Path]) -> list[Path]:
    """The named files, and the pictures in named folders and their subfolders, sorted by name.

    A named file is returned whatever its suffix, and even if it does not exist: opening it will
    raise the error.

    Raises:
        DataError: if a folder contains no picture.
    """
    found: list[Path] = []
    for path in (path.expanduser() for path in named):
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")
        ]
        if not inside:
            raise DataError(
                "there is no picture in this folder",
                where=str(path),
                hint=f"pictures end in {', '.join(sorted(PICTURE_SUFFIXES))}",
            )
        found += inside
    return found
