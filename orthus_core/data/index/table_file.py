"""Tables as files from which a single row can be read: Arrow's file format, mapped into memory.

A parquet or CSV file is copied into this form once, beside the indices, as reading one of its rows
would mean to unpack thousands. Batches are small, so that the memory does not depend on the file.
In CSV all values are texts, and a line that has another number of them than the header is kept as
a row that cannot be read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthus_core.atomic import staged_file
from orthus_core.cache_folder import VARIABLE, cache_folder
from orthus_core.data.index.index_file import FileState
from orthus_core.data.index.store import check_unchanged, locked
from orthus_core.errors import DataError
from orthus_core.events import Event
from orthus_core.user_files import LONGEST_MARK, marked_encoding
from orthus_core.wrong_content import true_cause, wrong_content

if TYPE_CHECKING:
    import pyarrow

LINE, PROBLEM = "\0line", "\0problem"
"""Columns of tables from CSV: the line that a row begins in, and what is wrong with it."""

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv")

_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 1000
_IN_MEMORY_BYTES = 32 << 20
"""A small file may hold a large table: its values are packed, and each is there once."""

_DELIMITERS = ",;\t|"
_LONGEST_VALUE = 64 << 20
"""Characters: a value may be a picture in base64."""

_SAVE_AS = "save it as CSV in UTF-8, with the name of each column in the first line"

Batches = Iterator[tuple[float, "pyarrow.RecordBatch"]]
"""The share of the file that was read, and rows."""


def readable_table(
    file: Path, state: FileState, folder: Path | None, in_memory: bool
) -> Generator[Event | float, None, Path | pyarrow.Table]:
    """A table in Arrow's file format: the file of its copy, or the table where that is small.
    Yields the share of the file that was read, too.

    Args:
        file: Parquet or CSV file.
        state: Its state; the copy is of this one.
        folder: Folder of indices; None takes the user's.
        in_memory: Whether the data set is so small that its tables can stay in memory.

    Raises:
        DataError: if it cannot be read.
        ChangedDataError: if it is changed while it is copied.
        OutputError: if the copy cannot be written.
    """
    import pyarrow

    if in_memory:
        schema, batches = _batches(file)
        held = list[pyarrow.RecordBatch]()
        for _, batch in batches:
            held.append(batch)
            if sum(each.nbytes for each in held) > _IN_MEMORY_BYTES:
                break
        else:
            return pyarrow.Table.from_batches(held, schema)
    where = hashlib.blake2b(os.fsencode(state.path), digest_size=8).hexdigest()
    now = hashlib.blake2b(f"{state.size} {state.mtime_ns}".encode(), digest_size=8).hexdigest()
    own = cache_folder(folder) / "tables" / f"{file.stem[:40]}-{where}"
    copy = own / f"{now}.arrow"
    if not is_whole(copy):
        lock = yield from locked(own / "table")
        try:
            if not is_whole(copy):
                yield from _write(file, state, copy)
        finally:
            if lock is not None:
                lock.close()
        for old in own.glob("*.arrow"):
            if old != copy:
                with suppress(OSError):
                    old.unlink()
    return copy


def is_whole(file: Path) -> bool:
    """Whether a file in Arrow's file format has its end, where the places of its batches are."""
    import pyarrow

    try:
        with pyarrow.OSFile(str(file)) as source, pyarrow.ipc.open_file(source) as reader:
            return reader.num_record_batches >= 0
    except (OSError, pyarrow.ArrowException):
        return False


def _write(file: Path, state: FileState, copy: Path) -> Iterator[float]:
    import pyarrow

    schema, batches = _batches(file)
    hint = f"make room, or name another folder for copies of tables with {VARIABLE}"
    with staged_file(copy, parents=True, hint=hint) as partial:
        with pyarrow.OSFile(str(partial), "wb") as out, pyarrow.ipc.new_file(out, schema) as writer:
            for share, batch in batches:
                writer.write_batch(batch)
                yield share
        check_unchanged([file], [state])


def _batches(file: Path) -> tuple[pyarrow.Schema, Batches]:
    if file.suffix.lower() == ".parquet":
        return _parquet_batches(file)
    return _csv_batches(file)


def _parquet_batches(file: Path) -> tuple[pyarrow.Schema, Batches]:
    import pyarrow
    import pyarrow.parquet

    try:
        # Without buffering ahead: a group of rows may be larger than the memory.
        table = pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        schema = pyarrow.schema([_plain(field) for field in table.schema_arrow])
        rows, groups = table.metadata.num_rows, range(table.num_row_groups)
        bytes_of_all = sum(table.metadata.row_group(group).total_byte_size for group in groups)
    except (OSError, pyarrow.ArrowException) as error:
        raise _damaged(file, error) from error
    size = max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // max(bytes_of_all, 1)))

    def batches() -> Batches:
        done = 0
        try:
            for batch in table.iter_batches(batch_size=size, use_threads=False):
                done += batch.num_rows
                # Arrow cannot cast lists of structures with a column of nulls to their own type.
                yield done / rows, batch if batch.schema.equals(schema) else batch.cast(schema)
        except (OSError, pyarrow.ArrowException) as error:
            raise _damaged(file, error) from error
        finally:
            table.close()

    return schema, batches()


def _plain(field: pyarrow.Field) -> pyarrow.Field:
    """A column without a dictionary of its values, which may be another one in each batch."""
    import pyarrow

    kind = field.type
    return field.with_type(kind.value_type) if pyarrow.types.is_dictionary(kind) else field


def _damaged(file: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    message = f"cannot read the parquet file, it is damaged or cut short: {reason}"
    fault = DataError(message, where=str(file), hint="copy or download it again")
    return true_cause(fault, file, error if getattr(error, "errno", None) else None)


def _csv_batches(file: Path) -> tuple[pyarrow.Schema, Batches]:
    import pyarrow

    if wrong := wrong_content(file):
        raise DataError(f"this is {wrong.what}", where=str(file), hint=wrong.hint)
    try:
        with _text(file) as opened:
            line = opened.readline()
            delimiter = max(_DELIMITERS, key=line.count)
            header = next(csv.reader(itertools.chain([line], opened), delimiter=delimiter), [])
    except (csv.Error, UnicodeError) as error:
        raise DataError(
            f"cannot read the table: {error}", where=str(file), hint=_SAVE_AS
        ) from error
    names = [name.strip() for name in header]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice is not None or any("\0" in name for name in names):
        what = f"two columns are called {twice!r}" if twice is not None else "it has no header"
        raise DataError(f"cannot read the table: {what}", where=str(file), hint=_SAVE_AS)
    fields = [pyarrow.field(name, pyarrow.string()) for name in names]
    schema = pyarrow.schema(
        [*fields, pyarrow.field(LINE, pyarrow.int64()), pyarrow.field(PROBLEM, pyarrow.string())]
    )
    return schema, _csv_rows(file, delimiter, schema)


def _csv_rows(file: Path, delimiter: str, schema: pyarrow.Schema) -> Batches:
    size, width, rows, held = file.stat().st_size, len(schema) - 2, list[list[Any]](), 0
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_VALUE))
    with _text(file) as opened:
        row_lines = list[str]()
        reader = csv.reader(_kept(opened, row_lines), delimiter=delimiter)
        next(reader, None)
        while True:
            line = reader.line_num + 1
            row_lines.clear()
            try:
                values = next(reader)
                problem = _problem(values, width)
                if reader.line_num > line and _is_open(row_lines, delimiter):
                    problem = "a quotation mark in it is not closed: it goes on to the file's end"
            except StopIteration:
                break
            except UnicodeError as error:  # of UTF-16, where no next line can be found
                rows.append([*[None] * width, line, f"the rest cannot be read: {error}"])
                break
            except csv.Error as error:
                values, problem = [], f"the line cannot be read: {error}"
            if not values and not problem:
                continue  # a blank line
            rows.append([*([None] * width if problem else values), line, problem])
            held += sum(map(len, values))
            if len(rows) == _BATCH_ROWS or held > _BATCH_BYTES:
                yield (
                    min(1.0, os.lseek(opened.fileno(), 0, os.SEEK_CUR) / max(size, 1)),
                    _batch(rows, schema),
                )
                rows, held = [], 0
    if rows:
        yield 1.0, _batch(rows, schema)


def _kept(lines: Iterable[str], kept: list[str]) -> Iterator[str]:
    """The lines, each added to a list as well."""
    for line in lines:
        kept.append(line)
        yield line


def _is_open(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the lines of a row end in a value whose quotation mark is not closed."""
    try:
        for _ in csv.reader(lines, delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        return "end of data" in str(error)
    return False


def _text(file: Path) -> io.TextIOWrapper:
    raw = file.open("rb")
    encoding, mark = marked_encoding(raw.read(LONGEST_MARK))
    raw.seek(mark)
    # Half pairs stand for bytes that are no UTF-8, so that only their line is lost.
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    return io.TextIOWrapper(raw, encoding, errors, newline="")


def _problem(values: list[str], width: int) -> str | None:
    if not values:
        return None
    if len(values) != width:
        return f"the line has {len(values)} values, and the header {width}"
    try:
        for value in values:
            value.encode()
    except UnicodeEncodeError:
        return "the line is not UTF-8 text; save the file as UTF-8"
    return None


def _batch(rows: list[list[Any]], schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    import pyarrow

    columns = [
        pyarrow.array(column, field.type)
        for column, field in zip(zip(*rows, strict=True), schema, strict=True)
    ]
    return pyarrow.RecordBatch.from_arrays(columns, schema=schema)
