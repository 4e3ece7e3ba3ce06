"""The rows of each step's batch: a function of the step alone, so that training can resume."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from orthus_core.data.collate import Batch
from orthus_core.data.document import Document
from orthus_core.data.encode import EncodedRow, drop_condition
from orthus_core.data.pictures import FilePicture, Picture
from orthus_core.errors import DataError

T = TypeVar("T")
Source = Callable[[int], Document]
"""Returns row number n of a run, n = 0, 1, 2 ... without limit."""


class ShuffledSource:
    """A finite set of documents as an infinite source: each epoch has all of them in a new order.

    Args:
        documents: Documents of the set.
        seed: Seed of the orders.
        where: Path of the data set, for the error.

    Raises:
        DataError: if there are no documents.
    """

    def __init__(self, documents: Sequence[Document], seed: int, where: str = "") -> None:
        if not documents:
            raise DataError(
                "there are no documents to train on",
                where=where,
                hint="`orthus data check` says what is wrong with each record",
            )
        self.documents = documents
        self.seed = seed
        self.where = where
        self._epoch = -1
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self.documents)

    def __call__(self, number: int) -> Document:
        epoch, place = divmod(number, len(self.documents))
        if epoch != self._epoch:
            self._order = list(range(len(self.documents)))
            random.Random(f"{self.seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self.documents[self._order[place]]


def identity_of(rows: Iterable[Sequence[str | Picture]]) -> str:
    """What tells a set of rows from another: their number, and a hash of their texts and pictures
    in order.

    Picture files count by name and size, so that a data set may be moved or copied.
    """
    digest, count = hashlib.sha256(), 0
    for row in rows:
        count += 1
        for value in row:
            digest.update(f"{_identity_of_value(value)}\0".encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return f"{count} rows, {digest.hexdigest()[:10]}"


def _identity_of_value(value: str | Picture) -> str:
    if isinstance(value, FilePicture):
        return value.name_and_size
    return value if isinstance(value, str) else value.key


def hold_out(items: Sequence[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """Splits items into a training part and a held-out part; both keep their order.

    Args:
        items: Items to split.
        share: Fraction of held-out items; their number is rounded down.
        seed: Seed of the choice; the same seed gives the same split.
    """
    chosen = random.Random(f"{seed}/held out").sample(range(len(items)), int(share * len(items)))
    apart = set(chosen)
    return (
        [item for number, item in enumerate(items) if number not in apart],
        [item for number, item in enumerate(items) if number in apart],
    )


@dataclass
class Batches:
    """The batch of each step.

    Attributes:
        source: Source of the documents.
        encode: Encodes a document: `partial(encode, tokenizer=..., ids=..., patches=...)`.
        collate: Collates rows: `partial(collate, ids=...)`.
        batch_size: Rows in a step on each device.
        seed: Seed of the condition dropout and of the order inside a window.
        condition_dropout: Probability for `drop_condition`.
        window: Number of steps whose rows are sorted by length together, so that short rows are
            not padded to the length of long ones; the order of the steps stays random. 1 does not
            sort.
        shard: Index of this device.
        shards: Number of devices; each gets its own rows.
    """

    source: Source
    encode: Callable[[Document], EncodedRow]
    collate: Callable[[list[EncodedRow]], Batch]
    batch_size: int
    seed: int = 0
    condition_dropout: float = 0.0
    window: int = 1
    shard: int = 0
    shards: int = 1
    _window_at: int = field(default=-1, init=False, repr=False)
    _rows_of_window: list[list[EncodedRow]] = field(default_factory=list, init=False, repr=False)

    def __call__(self, step: int) -> Batch:
        """The batch of a step; it does not depend on earlier calls."""
        return self.collate(self.rows(step))

    def rows(self, step: int) -> list[EncodedRow]:
        """The rows of a step."""
        window, place = divmod(step, self.window)
        if window != self._window_at:
            self._rows_of_window = self._sorted_rows(window)
            self._window_at = window
        return self._rows_of_window[place]

    def _sorted_rows(self, window: int) -> list[list[EncodedRow]]:
        count = self.window * self.batch_size
        first = (window * self.shards + self.shard) * count
        rows = [self._row(number) for number in range(first, first + count)]
        if self.window > 1:
            rows.sort(key=lambda row: len(row.ids))
        batches = [rows[at : at + self.batch_size] for at in range(0, count, self.batch_size)]
        # All devices shuffle in the same way, so that their rows have similar lengths in each step.
        random.Random(f"{self.seed}/window/{window}").shuffle(batches)
        return batches

    def _row(self, number: int) -> EncodedRow:
        document = self.source(number)
        rng = random.Random(f"{self.seed}/dropout/{number}")
        return self.encode(drop_condition(document, rng, self.condition_dropout))
