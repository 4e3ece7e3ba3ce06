"""An index of Arrow tables, whose rows are read one by one from files that are mapped into memory.

Pictures are not decoded: a column of pictures holds the bytes of a file, or its path.

Rows are counted from 1 in places, as lines are.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import weakref
from array import array
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from orthus_core.data.document import Place
from orthus_core.data.index.index_file import (
    CHANGED_HINT,
    FileState,
    IndexArrays,
    as_numpy,
    changed,
)
from orthus_core.data.index.record_hash import content_key
from orthus_core.data.index.store import SMALL_BYTES, Built, file_state, open_index
from orthus_core.data.index.table_file import LINE, PROBLEM, readable_table
from orthus_core.errors import ChangedDataError, DataError
from orthus_core.events import Event, Progress

if TYPE_CHECKING:
    import pyarrow

KEY_COLUMNS = ("id", "key", "__key__", "url")
"""Columns that name a row, most likely first; matched without case."""

_MOST_OPEN = 64
_READS_MAPPED = 64


class TablePart(NamedTuple):
    """Some rows of a data set that lie together.

    Attributes:
        file: File that the user knows them by.
        content: File in Arrow's formats, or the rows themselves.
    """

    file: Path
    content: Path | pyarrow.Table


class ArrowTable:
    """The rows of some tables; see `RecordIndex`.

    Args:
        parts: The tables.
        arrays: Their index.

    Attributes:
        columns: Names of the columns; of the first table where they differ.
    """

    def __init__(self, parts: Sequence[TablePart], arrays: IndexArrays) -> None:
        self.parts = [*parts]
        self.identity: str = arrays.about["identity"]
        self._arrays = arrays
        batches = np.concatenate([[0], np.cumsum(arrays["batches"], dtype=np.int64)])
        self._counts = np.split(np.asarray(arrays["batch_rows"], np.int64), batches[1:-1])
        self._begins = np.cumsum([0, *(int(counts.sum()) for counts in self._counts[: len(parts)])])
        self._open: dict[int, _MappedTable] = {}
        names = self._part(0).names if parts else []
        self.columns = [name for name in names if name not in (LINE, PROBLEM)]

    def __len__(self) -> int:
        return int(self._begins[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def keys(self) -> np.ndarray:
        """A hash of the row's value in the first of `KEY_COLUMNS` that is there and tells rows
        apart; else of its file's name and its number: uint64 [N]."""
        return self._arrays["key"]

    def place(self, number: int) -> Place:
        part, row = self._find(number)
        table = self._part(part)
        if LINE in table.names:
            return Place(self.parts[part].file, table.value(row, LINE))
        return Place(self.parts[part].file, part=f"row {row + 1}")

    def record(self, number: int) -> dict[str, Any]:
        """The columns of row `number`.

        Raises:
            DataError: if the row cannot be read.
            ChangedDataError: if its file was changed after it was indexed.
        """
        part, row = self._find(number)
        try:
            table = self._part(part)
            record = {name: table.value(row, name) for name in table.names}
        except (OSError, ValueError) as error:  # ArrowInvalid and UnicodeError are of these
            problem, record = f"the row cannot be read: {error}", {}
        else:
            problem = record.pop(PROBLEM, None)
            record.pop(LINE, None)
        if problem:
            raise DataError(problem, where=str(self.place(number)))
        return record

    def _find(self, number: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._begins, number, "right")) - 1
        return part, number - int(self._begins[part])

    def _part(self, part: int) -> _MappedTable:
        """One of the tables. Raises: ChangedDataError if it is no longer what was indexed."""
        table, (file, content) = self._open.get(part), self.parts[part]
        if table is None:
            if isinstance(content, Path) and content != file and not content.is_file():
                raise ChangedDataError(
                    f"the table's copy is no longer there ({content})",
                    where=str(file),
                    hint=CHANGED_HINT,
                )
            while len(self._open) >= _MOST_OPEN:
                del self._open[next(iter(self._open))]
            table = self._open[part] = _MappedTable(content, self._counts[part])
        # A copy has another state, and nobody writes to it.
        if content == file and not table.is_in(self._arrays.files[part]):
            self._open.pop(part)
            raise changed(file)
        return table


def tables(
    files: Sequence[Path], *, folder: Path | None = None
) -> Generator[Event, None, ArrowTable]:
    """The rows of some parquet and CSV files, as one data set.

    Args:
        files: The files.
        folder: Folder of indices, and of the files' copies; None takes the user's.

    Raises:
        DataError: if one cannot be read.
        OutputError: if a copy cannot be written.
    """
    parts = list[TablePart]()
    states = [file_state(file) for file in files]
    total, done = sum(state.size for state in states), 0
    for file, state in zip(files, states, strict=True):
        reading = readable_table(file, state, folder, total < SMALL_BYTES)
        while True:
            try:
                event = next(reading)
            except StopIteration as end:
                content = end.value
                break
            if isinstance(event, (int, float)):
                event = Progress(
                    "index", done + int(event * state.size) >> 20, total >> 20, unit="MB"
                )
            yield event
        done += state.size
        parts.append(TablePart(file, content))
    return (yield from table_of(parts, folder=folder, states=states))


def arrow_tables(
    files: Sequence[Path], *, folder: Path | None = None
) -> Generator[Event, None, ArrowTable]:
    """The rows of some files in Arrow's formats, as `datasets` keeps them.

    Raises:
        DataError: if one cannot be read.
    """
    return (yield from table_of([TablePart(file, file) for file in files], folder=folder))


def table_of(
    parts: Sequence[TablePart],
    *,
    folder: Path | None = None,
    states: Sequence[FileState] | None = None,
) -> Generator[Event, None, ArrowTable]:
    """The rows of some parts, as one data set.

    Args:
        parts: The parts.
        folder: Folder of indices; None takes the user's.
        states: State of each part's file when its rows were read; None if they lie in it itself.

    Raises:
        DataError: as `tables`.
    """
    files = [part.file for part in parts]
    arrays = yield from open_index("rows", files, lambda: _build(parts), folder, states)
    return ArrowTable(parts, arrays)


def _build(parts: Sequence[TablePart]) -> Generator[Event, None, Built]:
    digest, keys = hashlib.blake2b(digest_size=16), array("Q")
    opened = [_batch_rows(part) for part in parts]
    rows = [int(counts.sum()) for counts in opened]
    total = sum(rows)
    for part, count in zip(parts, rows, strict=True):
        size = part.file.stat().st_size
        digest.update(f"{part.file.name} {size} {count}\n".encode("utf-8", "surrogateescape"))
    for part, counts in zip(parts, opened, strict=True):
        table = _MappedTable(part.content, counts)
        column = next(
            (name for key in KEY_COLUMNS for name in table.names if name.lower() == key), None
        )
        if column is None:
            break
        for values in table.batches(column):
            keys.extend(content_key(str(value).encode("utf-8", "replace")) for value in values)
            yield Progress("index", len(keys), total, unit="rows")
    key = as_numpy(keys)
    if len(key) < total or 2 * len(np.unique(key)) < total:
        names = (
            f"{part.file.name}:{row}"
            for part, count in zip(parts, rows, strict=True)
            for row in range(count)
        )
        key = np.fromiter((content_key(name.encode("utf-8", "replace")) for name in names), "u8")
    yield Progress("index", total, total, unit="rows")
    return {"identity": f"{total} rows, {digest.hexdigest()[:10]}"}, {
        "key": key,
        "batches": np.array([len(counts) for counts in opened], np.uint32),
        "batch_rows": np.concatenate([*opened, []]).astype(np.uint32),
    }


def _batch_rows(part: TablePart) -> np.ndarray:
    """Rows of each batch of a table. Raises: DataError if two columns have the same name."""
    table = _MappedTable(part.content)
    if len({*table.names}) < len(table.names):
        twice = next(name for name in table.names if table.names.count(name) > 1)
        raise DataError(
            f"two columns are called {twice!r}",
            where=str(part.file),
            hint="rename or remove one of them",
        )
    return table.counts


class _MappedTable:
    """One table, of a file in one of Arrow's two formats or in memory.

    Args:
        content: The file, or the table.
        counts: Rows of each batch, if they are known: to find them, all batches are touched.

    Attributes:
        names: Names of the columns.
        counts: Rows of each batch.

    Raises:
        DataError: if the file is none of these.
    """

    def __init__(self, content: Path | pyarrow.Table, counts: np.ndarray | None = None) -> None:
        self._file: int | None = None
        self._map: mmap.mmap | None = None
        self._reads = 0
        self._batch: Callable[[int], pyarrow.RecordBatch]
        if isinstance(content, Path):
            try:
                schema, count = self._map_file(content)
                if counts is None:
                    counts = np.array([self._rows_of(number) for number in range(count)], np.int64)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"cannot read the Arrow file, it is damaged or cut short: {error}",
                    where=str(content),
                    hint="make or download it again",
                ) from error
        else:
            batches = content.to_batches()
            self._batch = batches.__getitem__
            counts, schema = np.array([b.num_rows for b in batches], np.int64), content.schema
        self.names: list[str] = schema.names
        self.counts = counts
        self._begins = np.concatenate([[0], np.cumsum(counts)])

    def is_in(self, state: FileState) -> bool:
        """Whether the mapped file is in this state. Of a file that was replaced it is the earlier
        one that is mapped still."""
        assert self._file is not None, "a table in memory has no state"
        return state.is_of(os.fstat(self._file))

    def _map_file(self, file: Path) -> tuple[pyarrow.Schema, int]:
        """Returns the columns and the number of batches."""
        import pyarrow

        self._file = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._file)
        self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        source = pyarrow.BufferReader(pyarrow.py_buffer(self._map))
        if self._map[:6] == b"ARROW1":
            reader = pyarrow.ipc.open_file(source)
            self._batch = reader.get_batch
            return reader.schema, reader.num_record_batches
        stream = pyarrow.ipc.open_stream(source)
        batches = list[pyarrow.RecordBatch]()
        for batch in stream:
            batches.append(batch)
            if len(batches) % _READS_MAPPED == 0:
                self._unmap()
        self._batch = batches.__getitem__
        return stream.schema, len(batches)

    def _rows_of(self, number: int) -> int:
        if number % _READS_MAPPED == 0:
            self._unmap()
        return self._batch(number).num_rows

    def value(self, row: int, column: str) -> Any:
        """One value."""
        number = int(np.searchsorted(self._begins, row, "right")) - 1
        value = self._batch(number).column(column)[row - int(self._begins[number])].as_py()
        self._reads += 1
        if self._reads % _READS_MAPPED == 0:
            self._unmap()
        return value

    def batches(self, column: str) -> Generator[list[Any], None, None]:
        """All values of a column, by batch."""
        for number in range(len(self._begins) - 1):
            yield self._batch(number).column(column).to_pylist()
            self._unmap()

    def _unmap(self) -> None:
        # Linux maps the pages around one that is read, half a megabyte at a time, and counts them
        # as this process's memory. They stay in the system's cache of files.
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
