"""Files with one JSON object in each line, such as our records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from orthus_core.data.document import from_record
from orthus_core.data.formats.reading import ReadResult
from orthus_core.errors import DataError
from orthus_core.user_files import LONGEST_MARK, marked_encoding, text_of
from orthus_core.wrong_content import true_cause


def objects(path: Path, result: ReadResult) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) for each line; blank and bad lines are skipped.

    Raises:
        DataError: if the file cannot be opened, or is damaged UTF-16.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), start=1):
                if not line.strip():
                    continue
                try:
                    text = text_of(line, number)
                except ValueError as error:
                    result.skip_record(path, number, DataError(str(error)))
                    continue
                try:
                    value = json.loads(text, object_pairs_hook=_once)
                except (ValueError, RecursionError) as error:
                    fault = DataError(f"the line is no JSON: {error}", where=str(path))
                    if number == 1 and (cause := true_cause(fault, path)) is not fault:
                        raise cause from error
                    result.skip_record(path, number, fault)
                    continue
                if isinstance(value, dict):
                    yield number, value
                else:
                    problem = f"the line is a {type(value).__name__}, not an object"
                    result.skip_record(path, number, DataError(problem))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the records: {reason}", where=str(path)) from error


def _lines(file: BinaryIO) -> Iterable[bytes]:
    """The lines of a file, in UTF-8 where a byte order mark names another encoding."""
    encoding, _ = marked_encoding(file.read(LONGEST_MARK))
    file.seek(0)
    return file if encoding == "utf-8" else text_of(file.read()).encode().split(b"\n")


def read_records(path: Path, *, strict: bool = False) -> ReadResult:
    """Reads a file of records (`orthus_core.data.document`); paths are relative to its folder.

    Args:
        path: File of the records.
        strict: Whether the first bad record raises an error, instead of being skipped.

    Raises:
        DataError: if the file cannot be opened, or if `strict` at the first bad record.
    """
    result = ReadResult(strict)
    for line, value in objects(path, result):
        try:
            document = from_record(value, root=path.parent)
        except Exception as error:
            result.skip_record(path, line, error)
        else:
            result.add(document, path, line)
    return result


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose keys are each there once: of two, one would be lost in silence."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return table
