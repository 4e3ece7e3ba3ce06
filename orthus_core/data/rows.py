"""The rows of a data set, each read from disk only when it is needed.

A reader (`orthus_core.data.formats`) returns `Rows`. What is kept in memory for each row is a key
of eight bytes; where the row lies is known from an index (`orthus_core.data.index`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from orthus_core.data.document import Document, Place
from orthus_core.data.listing import PassedOver
from orthus_core.errors import ChangedDataError, DataError
from orthus_core.events import Event


class Rows(Protocol):
    """The rows of one data set, numbered n = 0, 1, 2 ...

    Attributes:
        where: Path of the data set, for messages.
        identity: What tells this data from other data: the same after it was moved or copied.
        passed_over: What lies there besides, and is not read; no fault.
    """

    where: str

    @property
    def identity(self) -> str: ...

    @property
    def passed_over(self) -> list[PassedOver]: ...

    def __len__(self) -> int: ...

    def keys(self) -> np.ndarray:
        """A hash of each row's name or content, uint64 [N]: it does not change when rows are added
        or reordered. Which rows are held out depends on it."""
        ...

    def place(self, number: int) -> Place:
        """Where row `number` lies; does not read it."""
        ...

    def document(self, number: int, visit: int = 0) -> Document:
        """Row `number`, read now. Its pictures are not loaded yet.

        Args:
            number: Number of the row.
            visit: Number of the epoch, for rows that hold a choice (InstructPix2Pix: one of several
                pairs of pictures).

        Raises:
            DataError: if it cannot be used; `where` is the row's place.
        """
        ...


class SourceOptions(NamedTuple):
    """How a source is to be read.

    Attributes:
        name: Name of the source, for messages and figures.
        images: Folder that the records' picture paths are relative to; None looks beside them.
        columns: Column of the data set for each field that a reader knows, such as
            {"caption": "TEXT"}.
        split: Part of the data set, such as "train"; "" reads the whole.
        index: Folder where an index of a large data set is kept.
    """

    name: str = ""
    images: Path | None = None
    columns: Mapping[str, str] = {}
    split: str = ""
    index: Path | None = None


RowsReader = Callable[[Path, SourceOptions], Generator[Event, None, Rows]]
"""Opens a data set: yields progress while an index is made, and returns the rows."""


@dataclass
class LoadedRows:
    """Rows that are in memory already: small data sets, and what older readers return.

    Attributes:
        documents: The rows.
        where: Path of the data set.
    """

    documents: Sequence[Document]
    where: str = ""
    passed_over: list[PassedOver] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def identity(self) -> str:
        from orthus_core.data.sources import identity_of

        values = ([segment.value for segment in each.segments] for each in self.documents)
        return identity_of(values)

    def keys(self) -> np.ndarray:
        from orthus_core.data.sources import identity_of_value

        def name(document: Document) -> str:
            values = (identity_of_value(segment.value) for segment in document.segments)
            return document.id or "\0".join(values)

        names = map(name, self.documents)
        return np.fromiter(map(row_key, names), np.uint64, len(self.documents))

    def place(self, number: int) -> Place:
        document = self.documents[number]
        return document.place or Place(Path(self.where) / (document.id or f"row {number}"))

    def document(self, number: int, visit: int = 0) -> Document:
        return self.documents[number]


class RecordIndex(Protocol):
    """Where the records of a data set lie, and how one is read: JSON lines, the elements of a JSON
    array, the samples of WebDataset tars, the rows of Arrow tables.

    Attributes:
        identity: A hash of the records' bytes, or of their names and sizes where these are large.
    """

    @property
    def identity(self) -> str: ...

    def __len__(self) -> int: ...

    def keys(self) -> np.ndarray:
        """As `Rows.keys`."""
        ...

    def place(self, number: int) -> Place: ...

    def record(self, number: int) -> Any:
        """Record `number`: a JSON value; for a sample of a tar, its members by suffix; for a row of
        a table, its columns.

        Raises:
            DataError: if it cannot be read (the line is no JSON, the tar is cut short).
        """
        ...


Parse = Callable[[Any, Place, int], Document]
"""A document of (record, place, visit); raises DataError when the record cannot be used."""


@dataclass
class IndexedRows:
    """The rows of an index, each parsed when it is read.

    Attributes:
        index: Where the records lie.
        parse: Makes a document of a record.
        where: Path of the data set.
    """

    index: RecordIndex
    parse: Parse
    where: str
    passed_over: list[PassedOver] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def identity(self) -> str:
        return self.index.identity

    def keys(self) -> np.ndarray:
        return self.index.keys()

    def place(self, number: int) -> Place:
        return self.index.place(number)

    def document(self, number: int, visit: int = 0) -> Document:
        place = self.index.place(number)
        try:
            return replace(self.parse(self.index.record(number), place, visit), place=place)
        except ChangedDataError:
            raise
        except DataError as error:
            raise DataError(error.message, where=str(place), hint=error.hint) from error


def row_key(name: str) -> int:
    """The key of a row that has this name: 64 bits of BLAKE2."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
