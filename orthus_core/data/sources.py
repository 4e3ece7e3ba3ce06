"""The rows of each step's batch: a function of the step alone, so that training can resume with any
number of devices and workers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from orthus_core.data.collate import Batch, noise_seed
from orthus_core.data.document import Document
from orthus_core.data.encode import EncodedRow, drop_condition
from orthus_core.data.order import MixtureOrder, Permutation, hash_of
from orthus_core.data.pictures import FilePicture, Picture
from orthus_core.data.row_faults import RowFault, RowFaults, fault_of
from orthus_core.errors import DataError

if TYPE_CHECKING:
    from orthus_core.data.rows import Rows

CHECK_SAYS_WHY = "`orthus data check` says what is wrong with each record"


class MadeRows(NamedTuple):
    """Rows that are made as they are needed, without end, such as those of the small world.

    Attributes:
        name: Name of the source.
        make: Makes row number n, n = 0, 1, 2 ...
    """

    name: str
    make: Callable[[int], Document]


@dataclass(frozen=True)
class ShuffledRows:
    """Rows of a data set, in a new order each epoch.

    Attributes:
        name: Name of the source.
        rows: The data set.
        numbers_N: The rows of it that are used, in ascending order.
        seed: Seed of the orders.
    """

    name: str
    rows: Rows
    numbers_N: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.numbers_N)

    def at(self, epoch: int, place: int) -> int:
        """The number of the row at a place 0 .. N - 1 of an epoch."""
        return int(self.numbers_N[self._order(epoch)(place)])

    @cached_property
    def _order(self) -> Callable[[int], Permutation]:
        return lru_cache(maxsize=4)(lambda epoch: Permutation(len(self), hash_of(self.seed, epoch)))


class Candidate(NamedTuple):
    """A row that was read, and may turn out to be unusable.

    Attributes:
        tries: Number of rows of the epoch that were passed over to come to it.
        document: The row.
        part: Source of the row.
        number: Its number there.
        faults: Where it is counted if it cannot be used.
    """

    tries: int
    document: Document
    part: MadeRows | ShuffledRows
    number: int
    faults: RowFaults

    def reject(self, error: Exception) -> None:
        """Count the row as one that cannot be used, for this reason.

        Raises:
            Exception: The error itself for a row that was made: it is a mistake of the maker's.
        """
        if isinstance(self.part, MadeRows):
            raise error
        rows, name = self.part.rows, self.part.name
        self.faults.add(fault_of(name, rows, self.number, error, self.document.id), error)

    def note_cut(self) -> None:
        """Count the row as one that is longer than the context, and used up to there."""
        if isinstance(self.part, ShuffledRows):
            place = self.part.rows.place(self.number)
            self.faults.add(RowFault(self.part.name, self.number, place, "", is_cut=True))


@dataclass(frozen=True)
class Mixture:
    """Rows of several sources as one source without end.

    A row that cannot be used is replaced by the next one in its source's order of that epoch, which
    then comes twice; so every row depends on its number alone.

    Attributes:
        parts: The sources.
        weights: How often the rows of each come; only the proportions count.
        seed: Seed of the order.
        faults: Counts the rows that cannot be used.
        rule: Raises an error for a document that a training cannot use; rows that are made are not
            checked.
        change: Applied to each document that is used.
    """

    parts: Sequence[MadeRows | ShuffledRows]
    weights: Sequence[float] = (1.0,)
    seed: int = 0
    faults: RowFaults = field(default_factory=RowFaults)
    rule: Callable[[Document], object] | None = None
    change: Callable[[Document], Document] | None = None

    @cached_property
    def order(self) -> MixtureOrder:
        return MixtureOrder(self.weights, self.seed)

    @property
    def data_sets(self) -> list[ShuffledRows]:
        """The sources that are read, and not made."""
        return [part for part in self.parts if isinstance(part, ShuffledRows)]

    def __call__(self, number: int) -> Document:
        """Row `number`, n = 0, 1, 2 ... without limit.

        Raises:
            DataError: If no row of its source can be used.
        """
        return next(self.candidates(number)).document

    def candidates(self, number: int, start: int = 0) -> Iterator[Candidate]:
        """Row `number`, and those that replace it in turn.

        Args:
            start: Number of rows that have been tried before.

        Raises:
            DataError: When an epoch's rows have all been tried.
        """
        source, position = self.order(number)
        part = self.parts[source]
        if isinstance(part, MadeRows):
            yield self._made(part, position)
            return
        epoch, place = divmod(position, max(1, len(part)))
        for tries in range(start, len(part)):
            row = part.at(epoch, (place + tries) % len(part))
            if found := self._read(part, row, epoch, tries):
                yield found
        raise DataError(
            f"there are no documents to train on: none of {len(part)} rows of {part.name!r} can be "
            "used",
            where=part.rows.where,
            hint=CHECK_SAYS_WHY,
        )

    def once(self) -> Iterator[Candidate]:
        """The rows in order, each of a data set once; without end if some are made."""
        left = {number for number, _ in enumerate(self.parts)}
        number = -1
        while left:
            source, position = self.order(number := number + 1)
            part = self.parts[source]
            if isinstance(part, MadeRows):
                yield self._made(part, position)
            elif position >= len(part):
                left.discard(source)
            elif found := self._read(part, part.at(0, position), 0, 0):
                yield found

    def epochs(self, number: int) -> dict[str, float]:
        """How often the rows of each data set have come among the first `number` rows."""
        counts = self.order.counts(number)
        return {
            part.name: count / len(part)
            for part, count in zip(self.parts, counts, strict=True)
            if isinstance(part, ShuffledRows)
        }

    def _made(self, part: MadeRows, position: int) -> Candidate:
        return Candidate(0, self._changed(part.make(position)), part, position, self.faults)

    def _read(self, part: ShuffledRows, row: int, epoch: int, tries: int) -> Candidate | None:
        """A row of a data set; None when it cannot be used, which is counted."""
        try:
            document = part.rows.document(row, epoch)
        except Exception as error:
            self.faults.add(fault_of(part.name, part.rows, row, error), error)
            return None
        found = Candidate(tries, document, part, row, self.faults)
        try:
            if self.rule is not None:
                self.rule(document)
            return found._replace(document=self._changed(document))
        except Exception as error:
            found.reject(error)
            return None

    def _changed(self, document: Document) -> Document:
        return self.change(document) if self.change else document


def identity_of(rows: Iterable[Sequence[str | Picture]]) -> str:
    """What tells a set of rows from another: their number, and a hash of their texts and pictures
    in order.

    Picture files count by name and size, so that a data set may be moved or copied.
    """
    digest, count = hashlib.sha256(), 0
    for row in rows:
        count += 1
        for value in row:
            digest.update(f"{identity_of_value(value)}\0".encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return f"{count} rows, {digest.hexdigest()[:10]}"


def identity_of_value(value: str | Picture) -> str:
    """What tells a text or a picture from another, and stays the same when files are moved."""
    if isinstance(value, str):
        return value
    try:
        return getattr(value, "name_and_size", "") or value.key
    except DataError:  # a picture that is not there has a name all the same
        return value.path.name if isinstance(value, FilePicture) else ""


class Draft(NamedTuple):
    """A row of a batch before its pictures are loaded.

    Attributes:
        number: Its number among all rows of the training.
        candidate: Where it came from.
        row: The row, encoded; its pictures are not known to be readable.
    """

    number: int
    candidate: Candidate
    row: EncodedRow


def unchanged(row: EncodedRow) -> EncodedRow:
    return row


@dataclass
class Batches:
    """The batch of each step.

    Attributes:
        source: Source of the documents.
        encode: Encodes a document: `partial(encode, tokenizer=..., ids=..., patches=...)`.
        collate: Collates rows: `partial(collate, ids=...)`.
        batch_size: Rows in a step, of all devices together; a multiple of their number.
        ready: Makes sure that the pictures of a row can be read.
        seed: Seed of the condition dropout and of the order inside a window.
        noise_seed: Seed of the training; with a row's number it makes the row's `noise_seed`.
        condition_dropout: Probability for `drop_condition`.
        dropout_of: The same for sources by name that have another.
        window: Number of steps whose rows are sorted by length together, so that short rows are
            not padded to the length of long ones; the order of the steps stays random. 1 does not
            sort.
        shard: Index of this device.
        shards: Number of devices, which share the rows of a step.
    """

    source: Mixture
    encode: Callable[[Document], EncodedRow]
    collate: Callable[[list[EncodedRow]], Batch]
    batch_size: int
    ready: Callable[[EncodedRow], EncodedRow] = unchanged
    seed: int = 0
    noise_seed: int = 0
    condition_dropout: float = 0.0
    dropout_of: Mapping[str, float] = field(default_factory=dict)
    window: int = 1
    shard: int = 0
    shards: int = 1
    _window_at: int = field(default=-1, init=False, repr=False)
    _drafts_of_window: list[list[Draft]] = field(default_factory=list, init=False, repr=False)

    def __call__(self, step: int) -> Batch:
        """The batch of a step; it does not depend on earlier calls."""
        return self.collate(self.rows(step))

    def rows(self, step: int) -> list[EncodedRow]:
        """This device's rows of a step."""
        if self.window == 1:
            numbers = range(step * self.batch_size, (step + 1) * self.batch_size)
            drafts = [self._draft(number) for number in numbers[self.shard :: self.shards]]
        else:
            window, place = divmod(step, self.window)
            if window != self._window_at:
                self._drafts_of_window = self._sorted_drafts(window)
                self._window_at = window
            drafts = self._drafts_of_window[place]
        return [
            self._finished(draft)._replace(noise_seed=noise_seed(self.noise_seed, draft.number))
            for draft in drafts
        ]

    def _sorted_drafts(self, window: int) -> list[list[Draft]]:
        """This device's rows of each step of a window. Every device sorts those of all."""
        count = self.window * self.batch_size
        drafts = [self._draft(number) for number in range(window * count, (window + 1) * count)]
        drafts.sort(key=lambda draft: len(draft.row.ids))
        batches = [drafts[at : at + self.batch_size] for at in range(0, count, self.batch_size)]
        random.Random(f"{self.seed}/window/{window}").shuffle(batches)
        # Neighbours in length go to different devices, so that none waits for another.
        return [batch[self.shard :: self.shards] for batch in batches]

    def _draft(self, number: int, start: int = 0) -> Draft:
        """Row `number`, or the first one in place of it that can be encoded.

        Args:
            start: Number of rows that have been tried before.
        """
        for candidate in self.source.candidates(number, start):
            rng = random.Random(f"{self.seed}/dropout/{number}")
            chance = self.dropout_of.get(candidate.part.name, self.condition_dropout)
            document = drop_condition(candidate.document, rng, chance)
            try:
                row = self.encode(document)
            except Exception as error:
                candidate.reject(error)
                continue
            if row.cut:
                candidate.note_cut()
            return Draft(number, candidate, row)
        raise AssertionError("candidates end with an error")

    def _finished(self, draft: Draft) -> EncodedRow:
        """The row with pictures that can be read, or the first one in place of it that has such.

        Its place in the step stays, whatever the length of the other one, since other devices do
        not know of these pictures.
        """
        while True:
            candidate = draft.candidate
            if isinstance(candidate.part, MadeRows):
                return draft.row
            try:
                return self.ready(draft.row)
            except Exception as error:
                candidate.reject(error)
            draft = self._draft(draft.number, candidate.tries + 1)


class RowsReport(NamedTuple):
    """Counts the rows that a training has read, and those that it cannot use.

    Attributes:
        mixture: The rows.
        batch_size: Rows in a batch, of all devices together.
    """

    mixture: Mixture
    batch_size: int

    @property
    def faults(self) -> RowFaults:
        return self.mixture.faults

    def figures(self, batches: int) -> dict[str, float]:
        """After so many batches: how often the rows of each data set have come, and how many of
        them could not be used; empty for rows that are made.
        """
        epochs = self.mixture.epochs(batches * self.batch_size)
        figures = {f"epochs/{name}": round(epoch, 4) for name, epoch in epochs.items()}
        return figures | figures_of(self.faults)

    def summary(self, batches: int) -> Iterator[str]:
        """Lines about the same for the end of a training."""
        epochs = self.mixture.epochs(batches * self.batch_size)
        if epochs:
            counts = (f"{name} {epoch:.3g}" for name, epoch in epochs.items())
            yield f"epochs of each data set: {', '.join(counts)}"
        yield from summary_of(self.faults)


class PicturesReport(NamedTuple):
    """Counts the rows whose pictures an autoencoder cannot use."""

    faults: RowFaults

    def figures(self, batches: int) -> dict[str, float]:
        """As `RowsReport.figures`."""
        return figures_of(self.faults)

    def summary(self, batches: int) -> Iterator[str]:
        """As `RowsReport.summary`."""
        yield from summary_of(self.faults)


def figures_of(faults: RowFaults) -> dict[str, float]:
    """How many rows of each source could not be used, or were cut."""
    kinds = {"unusable": faults.counts, "cut": faults.cut}
    return {
        f"{kind}/{name}": count
        for kind, counts in kinds.items()
        for name, count in sorted(counts.items())
    }


def summary_of(faults: RowFaults) -> Iterator[str]:
    """Lines about the rows that could not be used, and those that were cut, if there are any."""

    def each(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

    if faults:
        yield f"rows that could not be used: {each(faults.counts)}; {CHECK_SAYS_WHY}"
    if faults.cut:
        yield f"rows longer than the context, cut after a turn of the model: {each(faults.cut)}"
