"""Pictures by name: files as they are named, and all pictures in folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orthus_core.data.formats.image_folder import PICTURE_SUFFIXES
from orthus_core.errors import DataError


def picture_files(named: Iterable[Path]) -> list[Path]:
    """Each file, and for each folder the pictures in it and below it, in the order of their names.

    A file is taken whatever it is called, and whether it is there or not: who opens it will see.

    Raises:
        DataError: When a folder holds no picture.
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
