"""Which rows make up the batch of a step: a function of the step alone, so training can resume."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from orthus_core.data.collate import Batch
from orthus_core.data.document import Document
from orthus_core.data.encode import EncodedRow, drop_condition
from orthus_core.errors import DataError

T = TypeVar("T")
Source = Callable[[int], Document]
"""Row number n of a run, n = 0, 1, 2 ... without end."""


class ShuffledSource:
    """A finite set of documents as an endless source: every epoch all of them, in its own order.

    Args:
        documents: The set.
        seed: Of the orders.
        where: What they were read from, for the error.

    Raises:
        DataError: if there are none.
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


def hold_out(items: Sequence[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """A set divided into what is trained on and what is kept to measure with: the same fraction on
    every run, rounded down; both parts keep their order.
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
        source: The rows.
        encode: A document to a row: `partial(encode, tokenizer=..., ids=..., patches=...)`.
        collate: Rows to a batch: `partial(collate, ids=...)`.
        batch_size: Rows a step on each device.
        seed: Of the condition dropout and of the order inside a window.
        condition_dropout: See `drop_condition`.
        window: Steps whose rows are sorted by length among each other, so that short rows are
            not padded to a long neighbour; the steps keep a random order. 1 sorts nothing.
        shard, shards: This device and how many there are; each gets rows of its own.
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
        """The batch of a step, the same whichever steps were asked for before."""
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
        # Every device shuffles alike, so that all are at rows of one length in the same step.
        random.Random(f"{self.seed}/window/{window}").shuffle(batches)
        return batches

    def _row(self, number: int) -> EncodedRow:
        document = self.source(number)
        rng = random.Random(f"{self.seed}/dropout/{number}")
        return self.encode(drop_condition(document, rng, self.condition_dropout))
