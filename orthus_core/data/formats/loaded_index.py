"""Records that are held in memory, by number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from orthus_core.data.document import Place
from orthus_core.data.formats.reading import ReadResult
from orthus_core.data.rows import SourceOptions, row_key
from orthus_core.errors import DataError
from orthus_core.events import Event
from orthus_core.user_files import LONGEST_MARK, marked_encoding, text_of
from orthus_core.wrong_content import true_cause


@dataclass
class LoadedIndex:
    records: Sequence[Any]
    places: Sequence[Place]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def identity(self) -> str:
        return hashlib.sha256(repr(self.records).encode()).hexdigest()[:16]

    def keys(self) -> np.ndarray:
        return np.array([row_key(repr(each)) for each in self.records], np.uint64)

    def place(self, number: int) -> Place:
        return self.places[number]

    def record(self, number: int) -> Any:
        record = self.records[number]
        if isinstance(record, DataError):
            raise record
        return record


def json_lines(file: Path, options: SourceOptions) -> Generator[Event, None, LoadedIndex]:
    yield from ()
    result = ReadResult()
    found = {line: value for line, value in objects(file, result)}
    found |= {fault.line: DataError(fault.problem) for fault in result.faults}
    numbers = sorted(found)
    return LoadedIndex([found[line] for line in numbers], [Place(file, line) for line in numbers])


def json_array(file: Path, options: SourceOptions) -> Generator[Event, None, LoadedIndex]:
    yield from ()
    records = json.loads(file.read_text())
    return LoadedIndex(records, [Place(file, 0, f"record {n + 1}") for n in range(len(records))])


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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose keys are each there once: of two, one would be lost in silence."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return table


def csv_rows(file: Path, options: SourceOptions) -> Generator[Event, None, LoadedIndex]:
    yield from ()
    import csv
    reader = csv.DictReader(text_of(file.read_bytes()).splitlines(keepends=True))
    records, places = [], []
    for record in reader:
        records.append(record)
        places.append(Place(file, reader.line_num))
    return LoadedIndex(records, places)


def parquet_rows(file: Path, options: SourceOptions) -> Generator[Event, None, LoadedIndex]:
    yield from ()
    import pyarrow.parquet

    records = pyarrow.parquet.read_table(file).to_pylist()
    return LoadedIndex(records, [Place(file, 0, f"row {n}") for n in range(len(records))])
