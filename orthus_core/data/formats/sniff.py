"""Any data set by its path: a folder of pictures, or a file of records."""

from __future__ import annotations

from pathlib import Path

from orthus_core.data.formats.folder import read_folder
from orthus_core.data.formats.jsonl import read_records
from orthus_core.data.formats.reading import Reading
from orthus_core.data.sprites import SpritePack
from orthus_core.errors import DataError


def read(path: Path, *, strict: bool = False, pack: SpritePack | None = None) -> Reading:
    """The documents at a path.

    Args:
        path: A folder (`formats.folder`) or a .jsonl file (`formats.jsonl`).
        strict: Whether the first bad record ends the reading.
        pack: Where sprites that records name are looked up.

    Raises:
        DataError: if nothing there can be read, or when strict at the first bad record.
    """
    if path.is_dir():
        return read_folder(path, strict=strict)
    if path.is_file() and path.suffix == ".jsonl":
        return read_records(path, strict=strict, pack=pack)
    raise DataError(
        "there is no such file or folder" if not path.exists() else "this is no known data set",
        where=str(path),
        hint="give a folder of pictures with words, or a .jsonl file of records",
    )
