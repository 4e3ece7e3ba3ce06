"""Captions in a parquet file beside tars: LAION-COCO's, or the one that img2dataset writes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orthus_core.data.rows import SourceOptions, row_key
from orthus_core.events import Event, Progress

if TYPE_CHECKING:
    from orthus_core.data.index.arrow_table import ArrowTable

URLS = ("url", "image_url", "img_url")
KEYS = ("key", "__key__")


class CaptionTable:
    """Captions by the key or the address of their picture.

    What is held in memory is a hash and a row number for each: 16 bytes.

    Args:
        table: The rows.
        captions: Columns with captions, the preferred first.
        columns: Columns that name a picture, with their values' hashes [N].
    """

    def __init__(
        self, table: ArrowTable, captions: Sequence[str], columns: Sequence[np.ndarray]
    ) -> None:
        self._table = table
        self._captions = captions
        self._orders = [np.argsort(column, kind="stable") for column in columns]
        self._sorted = [column[order] for column, order in zip(columns, self._orders, strict=True)]

    def caption(self, *names: str) -> str:
        """The caption of the picture that has one of these names: keys or addresses; "" for
        none."""
        for name in filter(None, names):
            key = np.uint64(row_key(name))
            for hashes, order in zip(self._sorted, self._orders, strict=True):
                at = int(np.searchsorted(hashes, key))
                if at < len(hashes) and hashes[at] == key:
                    return self._caption_of(int(order[at]))
        return ""

    def _caption_of(self, row: int) -> str:
        record = self._table.record(row)
        texts = (record.get(name) for name in self._captions)
        return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")


def caption_table(
    folder: Path, captions: Sequence[str], options: SourceOptions
) -> Generator[Event, None, CaptionTable | None]:
    """The captions of a folder's parquet files; None where there are none.

    Args:
        folder: The folder; the files may lie in a subfolder.
        captions: Names of columns with captions, in lower case, the preferred first.
        options: `columns` may name the `caption`.

    Raises:
        DataError: if a file cannot be read, or lacks the column that is named.
    """
    named = options.columns.get("caption", "").lower()
    known = {*captions, named}
    files = [
        file
        for file in sorted((*folder.glob("*.parquet"), *folder.glob("*/*.parquet")))
        if (names := {name.lower() for name in column_names(file)}) & {*URLS, *KEYS}
        and names & known
    ]
    if not files:
        return None
    import pyarrow.parquet

    from orthus_core.data.index.arrow_table import tables

    table = yield from tables(files, folder=options.index)
    by_name = {name.lower(): name for name in table.columns}
    chosen = [by_name[name] for name in ([named] if named else captions) if name in by_name]
    hashes = list[np.ndarray]()
    for name in (*KEYS, *URLS):
        if name not in by_name:
            continue
        found, done = np.zeros(len(table), np.uint64), 0
        for file in files:
            column = next((each for each in column_names(file) if each.lower() == name), None)
            parquet = pyarrow.parquet.ParquetFile(file)
            if column is None:
                done += parquet.metadata.num_rows
                continue
            for batch in parquet.iter_batches(columns=[column], use_threads=False):
                for value in batch.column(0).to_pylist():
                    found[done] = row_key(str(value)) if value is not None else 0
                    done += 1
                yield Progress("captions", done, len(table), unit="rows")
        hashes.append(found)
    return CaptionTable(table, chosen, hashes)


def column_names(file: Path) -> list[str]:
    """The columns of a parquet file; none where it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(file).names
    except (OSError, pyarrow.ArrowException):
        return []
