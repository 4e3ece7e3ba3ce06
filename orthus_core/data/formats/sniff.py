"""Reads a data set of any known format: a folder of pictures, or a file of records."""

from __future__ import annotations

from pathlib import Path

from orthus_core.data.formats.image_folder import read_folder
from orthus_core.data.formats.jsonl import read_records
from orthus_core.data.formats.reading import ReadResult
from orthus_core.errors import DataError

RECORDS = "records.jsonl"


def read(path: Path, *, strict: bool = False) -> ReadResult:
    """Reads the documents at a path.

    Args:
        path: A .jsonl file of records (`formats.jsonl`), a folder that contains records.jsonl, or a
            folder of pictures with captions (`formats.image_folder`).
        strict: Whether the first bad record raises an error, instead of being skipped.

    Raises:
        DataError: if no known format is found, or if `strict` at the first bad record.
    """
    records = path / RECORDS if path.is_dir() else path
    if records.is_file() and records.suffix == ".jsonl":
        return read_records(records, strict=strict)
    if path.is_dir():
        return read_folder(path, strict=strict)
    raise DataError(
        "there is no such file or folder" if not path.exists() else "this is no known data set",
        where=str(path),
        hint="give a folder of pictures with words, or a .jsonl file of records",
    )
