"""Questions and pictures in the hub's tables (parquet), as a downloaded snapshot holds them.

Sources: columns of lmms-lab/POPE, MME, GQA, VQAv2 (the same under lmms-lab-encoder) and MMMU/MMMU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.wrong_content import true_cause

if TYPE_CHECKING:
    import numpy as np

SUFFIX = ".parquet"
# Of the threads that open pictures, one reads a group of rows, and not each of them.
_reading = Lock()


class TablePicture(NamedTuple):
    """A picture in a table: a column of structs with `bytes`."""

    path: Path
    row: int
    column: str

    @property
    def key(self) -> str:
        return f"table:{self.path.resolve()}:{self.row}:{self.column}"

    @property
    def content(self) -> bytes:
        """The content of the picture's file.

        Raises:
            DataError: When the table has none.
        """
        found = _cell(self.path, self.row, self.column)
        if not isinstance(found, Mapping) or not found.get("bytes"):
            raise DataError(
                f"row {self.row + 1} names a picture, and its column {self.column} holds none",
                where=str(self.path),
                hint="download the tables with the pictures in them",
            )
        return found["bytes"]

    def check(self) -> None:
        """Checks that the table holds it, without reading it where the table's index says so.

        Raises:
            DataError: When it does not.
        """
        if not _is_full(self.path, self.column):
            _ = self.content

    def load(self, size: int) -> np.ndarray:
        """The pixels [size, size, 3]. Raises: DataError as `content`, or when it is damaged."""
        from orthus_core.data.pictures import BytesPicture

        content = self.content
        try:
            return BytesPicture(content).load(size)
        except DataError as error:
            place = f"{self.path}, row {self.row + 1}, {self.column}"
            raise DataError(error.message, where=place, hint=error.hint) from error


def tables_in(data: Path, patterns: Sequence[str]) -> list[Path]:
    """The tables of a snapshot, or the one that was named; empty where there are none.

    Args:
        data: Folder or table.
        patterns: Names of tables; the first pattern that any file fits counts.
    """
    if data.is_file():
        return [data] if data.suffix == SUFFIX else []
    for pattern in patterns:
        found = sorted(path for path in data.glob(pattern) if path.is_file())
        if found:
            return found
    return []


def table_rows(
    paths: Sequence[Path], columns: Sequence[str], layout: str, optional: Sequence[str] = ()
) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """The file, number in it and values of each row, without pictures.

    Args:
        paths: Tables.
        columns: Columns that they must have.
        layout: Their layout, for errors.
        optional: Columns that are read where they are.

    Raises:
        DataError: When one is no such table.
    """
    for path in paths:
        names = _table(path, layout).schema_arrow.names
        if lacking := [name for name in columns if name not in names]:
            raise DataError(
                f"a table without {', '.join(lacking)}", where=str(path), hint=f"expected: {layout}"
            )
        wanted = [*columns, *(name for name in optional if name in names)]
        for number, row in enumerate(_table(path, layout).read(columns=wanted).to_pylist()):
            yield path, number, row


def text_cells(row: Mapping[str, Any], names: Sequence[str], path: Path, number: int) -> list[str]:
    """Cells of a row that have to be text.

    Raises:
        DataError: When one is not.
    """
    for name in names:
        if not isinstance(row[name], str):
            raise DataError(f"row {number + 1} has no text in {name!r}", where=str(path))
    return [row[name] for name in names]


def _table(path: Path, layout: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        damaged = DataError(
            f"no table of questions: {error}", where=str(path), hint=f"expected: {layout}"
        )
        raise true_cause(damaged, path, error) from error


@lru_cache(maxsize=64)
def _groups(path: Path) -> tuple[list[int], list[str]]:
    """The first row of each group of rows that is stored together, and the columns."""
    table = _table(path, "a table of the hub")
    sizes = [table.metadata.row_group(at).num_rows for at in range(table.num_row_groups)]
    return [sum(sizes[:at]) for at in range(len(sizes))], table.schema_arrow.names


@lru_cache(maxsize=8)
def _column(path: Path, group: int, name: str) -> list[Any]:
    # Pictures of a group are read one after the other.
    return _table(path, "").read_row_group(group, columns=[name]).column(name).to_pylist()


def _cell(path: Path, row: int, name: str) -> Any:
    firsts, names = _groups(path)
    if name not in names:
        return None
    group = max(at for at, first in enumerate(firsts) if first <= row)
    with _reading:
        return _column(path, group, name)[row - firsts[group]]


@lru_cache(maxsize=64)
def _is_full(path: Path, name: str) -> bool:
    """Whether the table's own index says that no row of a column of pictures is empty."""
    about = _table(path, "").metadata
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        columns = [group.column(at) for at in range(group.num_columns)]
        held = [each for each in columns if each.path_in_schema == f"{name}.bytes"]
        if not held or held[0].statistics is None or held[0].statistics.null_count != 0:
            return False
    return True
