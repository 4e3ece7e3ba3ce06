"""Files of one JSON object a line, and our own records among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orthus_core.data.document import from_record
from orthus_core.data.formats.reading import Reading
from orthus_core.errors import DataError


def objects(path: Path, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line; blank lines are passed over, bad ones left out.

    Raises:
        DataError: if the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    reading.leave_out(path, number, DataError(f"the line is no JSON: {error}"))
                    continue
                if isinstance(value, dict):
                    yield number, value
                else:
                    problem = f"the line is a {type(value).__name__}, not an object"
                    reading.leave_out(path, number, DataError(problem))
    except OSError as error:
        raise DataError(f"cannot read the records: {error.strerror}", where=str(path)) from error


def read_records(path: Path, *, strict: bool = False) -> Reading:
    """Documents of a file of records (`orthus_core.data.document`), pictures beside it.

    Args:
        strict: Whether the first bad record ends the reading.

    Raises:
        DataError: if the file cannot be opened, or when strict at the first bad record.
    """
    reading = Reading(strict)
    for line, value in objects(path, reading):
        try:
            document = from_record(value, root=path.parent)
            reading.documents.append(document)
        except DataError as error:
            reading.leave_out(path, line, error)
    return reading
