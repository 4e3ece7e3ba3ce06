"""Records that are held in memory, by number."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orthus_core.data.document import Place
from orthus_core.data.rows import SourceOptions, row_key
from orthus_core.errors import DataError
from orthus_core.events import Event
from orthus_core.user_files import text_of


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
