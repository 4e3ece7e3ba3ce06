"""Encodes the pictures of data sets before they are needed: for a training before its first step,
or by `orthus data encode`.

The rows are read twice: once to count what is missing and to tell its size, and once to encode it.
Of a million pictures, no list is held. Processes of a launcher take every n-th row each.

Legend: M pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from orthus_core.data.document import Document
from orthus_core.data.latent_cache import FeatureCache
from orthus_core.data.row_faults import RowFault, fault_of
from orthus_core.data.sources import MadeRows, Mixture, ShuffledRows
from orthus_core.errors import ChangedDataError
from orthus_core.events import Event, Note, Progress
from orthus_core.output_checks import free_disk, size_text
from orthus_core.train.batches import RowSources, identity_of_part
from orthus_core.train.distributed import all_reduce_sum, current_rank

Stop = Callable[[], bool]

TOGETHER = 16
"""Rows that a worker reads at once."""
MOST_OF_THE_DISK = 0.8
"""Share of the free disk that a training takes for features by itself."""


class PictureRows(NamedTuple):
    """Rows whose pictures are to be encoded.

    Attributes:
        part: The source.
        numbers_N: Rows of it.
        change: Applied to each document.
    """

    part: MadeRows | ShuffledRows
    numbers_N: np.ndarray
    change: Callable[[Document], Document] | None = None

    def document(self, number: int) -> Document:
        """A row.

        Raises:
            DataError: When it cannot be read.
        """
        if isinstance(self.part, MadeRows):
            document = self.part.make(number)
        else:
            document = self.part.rows.document(number)
        return self.change(document) if self.change else document

    def fault(self, number: int, error: Exception) -> RowFault:
        """The fault of a row for which an error was raised.

        Raises:
            Exception: The error itself for a row that was made.
        """
        if isinstance(self.part, MadeRows):
            raise error
        return fault_of(self.part.name, self.part.rows, number, error)


@dataclass
class EncodingPlan:
    """What is to be encoded.

    Attributes:
        rows: The rows, of all processes together.
        new: Pictures that are missing.
        stored: Pictures whose features are stored.
        bytes: Size of the missing ones' features on disk.
        free: Free bytes of that disk.
        faults: Rows of which a picture cannot be read.
        encoded: Pictures that were encoded meanwhile.
    """

    rows: list[PictureRows]
    new: int = 0
    stored: int = 0
    bytes: int = 0
    free: int = 0
    faults: list[RowFault] = field(default_factory=list)
    encoded: int = 0


def encode_for_training(
    cache: FeatureCache, rows: RowSources, numbers: range, always: bool, should_stop: Stop
) -> Iterator[Event]:
    """Encode the pictures of the data sets that a training reads whole.

    Rows that cannot be read are passed over: the training names them when they come.

    Args:
        numbers: The training's rows that are still to come.
        always: Whether also those that it does not read whole, or that fill the disk.
    """
    if cache.path is None:
        return
    whole = [
        part
        for part in rows.train.data_sets
        if len(part) and (always or is_read_whole(part.name, rows.train, numbers))
    ]
    if not whole:
        return
    # Processes on machines with disks of their own may find different marks, and all go the same
    # way: they count together.
    marks = all_reduce_sum(torch.tensor([float(is_marked(cache, part)) for part in whole]))
    everywhere = current_rank().shards
    wanted = [part for part, of in zip(whole, marks, strict=True) if of < everywhere]
    if not wanted:
        return
    plan = EncodingPlan([PictureRows(part, part.numbers_N, rows.train.change) for part in wanted])
    yield from count_missing(cache, plan)
    if plan.new:
        if plan.bytes > MOST_OF_THE_DISK * plan.free and not always:
            yield Note(f"{summary_of(plan)}: they are encoded as they come")
            return
        yield Note(summary_of(plan))
        yield from encode_missing(cache, plan, should_stop)
        yield from map(Note, cache.notes())
    incomplete = should_stop() or cache.failure is not None or bool(plan.faults)
    if not all_reduce_sum(torch.tensor(float(incomplete))).item() and current_rank().is_first:
        for part in wanted:
            mark(cache, part)


def is_read_whole(name: str, mixture: Mixture, numbers: range) -> bool:
    """Whether every row of a source comes among these rows."""
    return mixture.epochs(numbers.stop)[name] - mixture.epochs(numbers.start)[name] >= 1


def summary_of(plan: EncodingPlan) -> str:
    """One line about a plan."""
    return (
        f"{plan.new} pictures to encode, {plan.stored} are there already; "
        f"{size_text(plan.bytes)} on disk, {size_text(plan.free)} are free"
    )


def count_missing(cache: FeatureCache, plan: EncodingPlan) -> Iterator[Event]:
    """Count the pictures of a plan's rows whose features are missing; reads the rows, but no
    pixels.
    """
    place = current_rank()
    seen: list[np.ndarray] = []
    some: list[bytes] = []
    total = sum(len(own_numbers(each)) for each in plan.rows)
    done = 0
    for each in plan.rows:
        for number in own_numbers(each):
            try:
                some += [cache.address(picture) for picture in each.document(int(number)).pictures]
            except Exception as error:
                plan.faults.append(each.fault(int(number), error))
            done += 1
            if len(some) > 100_000:
                seen, some = [distinct(some, seen)], []
            if done % 256 == 0 or done == total:
                yield Progress("looking for features", done, total, unit="rows")
    addresses = distinct(some, seen)
    new = sum(address.tobytes() not in cache.addresses for address in addresses)
    counts = torch.tensor([new, len(addresses) - new], dtype=torch.float64)
    plan.new, plan.stored = map(int, all_reduce_sum(counts).tolist())
    plan.bytes = cache.disk_bytes(plan.new)
    if cache.path is not None and place.is_first:
        plan.free = free_disk(cache.path)
    plan.free = int(all_reduce_sum(torch.tensor(float(plan.free), dtype=torch.float64)).item())


def distinct(some: Sequence[bytes], seen: Sequence[np.ndarray]) -> np.ndarray:
    """Different addresses, of 16 bytes each."""
    every = np.concatenate([*seen, np.array(some, "V16")]).view("<u8").reshape(-1, 2)
    return np.ascontiguousarray(np.unique(every, axis=0)).view("V16").reshape(-1)


def own_numbers(rows: PictureRows) -> np.ndarray:
    """This process's share of the rows."""
    place = current_rank()
    return rows.numbers_N[place.shard :: place.shards]


def encode_missing(
    cache: FeatureCache, plan: EncodingPlan, should_stop: Stop, workers: int = 0
) -> Iterator[Event]:
    """Encode what a plan says, and store it; ends early when told to stop or the disk is full.

    Yields a note about the time that it will take after the first pictures.
    """
    share = -(-plan.new // current_rank().shards)
    pixels: dict[bytes, np.ndarray] = {}
    faults: dict[tuple[str, int], RowFault] = {(f.source, f.number): f for f in plan.faults}
    times: list[float] = []

    def store() -> Iterator[Event]:
        is_whole = len(pixels) == cache.chunk  # what is left at the end tells nothing of the others
        cache.store(list(pixels), torch.from_numpy(np.stack([*pixels.values()])))
        plan.encoded += len(pixels)
        pixels.clear()
        yield Progress("encoding", plan.encoded, max(share, plan.encoded), "pictures")
        times.append(time.monotonic())
        if len(times) == 2 and is_whole and share > plan.encoded:  # the first ones are slower
            seconds = (times[1] - times[0]) / cache.chunk * (share - plan.encoded)
            yield Note(f"about {time_text(seconds)} for the others")

    for lot in (lot for rows in plan.rows for lot in missing_pictures(cache, rows, workers)):
        if isinstance(lot, ChangedDataError):
            raise lot
        for each in lot:
            if isinstance(each, RowFault):
                faults[each.source, each.number] = each
            elif each.address not in cache.addresses:
                pixels[each.address] = each.pixels_HW3
            if len(pixels) >= cache.chunk:
                yield from store()
        if should_stop() or cache.failure is not None:
            break
    if pixels and cache.failure is None:
        yield from store()
    plan.faults = list(faults.values())
    cache.look()


class MissingPicture(NamedTuple):
    """A picture whose features are missing: their address, and its pixels."""

    address: bytes
    pixels_HW3: np.ndarray


@dataclass(frozen=True)
class MissingPictures(Dataset):
    """The pictures of rows whose features are missing, those of `TOGETHER` rows at a time."""

    cache: FeatureCache
    rows: PictureRows
    numbers: np.ndarray

    def __len__(self) -> int:
        return -(-len(self.numbers) // TOGETHER)

    def __getitem__(self, lot: int) -> list[MissingPicture | RowFault] | ChangedDataError:
        found: list[MissingPicture | RowFault] = []
        for number in map(int, self.numbers[lot * TOGETHER : (lot + 1) * TOGETHER]):
            try:
                for picture in map(self.cache.addressed, self.rows.document(number).pictures):
                    if picture.pixels_HW3 is not None:
                        found.append(MissingPicture(picture.address, picture.pixels_HW3))
            except ChangedDataError as error:  # raised here, torch would put a traceback into it
                return error
            except Exception as error:
                found.append(self.rows.fault(number, error))
        return found


def missing_pictures(
    cache: FeatureCache, rows: PictureRows, workers: int
) -> Iterator[list[MissingPicture | RowFault] | ChangedDataError]:
    """The missing pictures of this process's rows, loaded by so many other processes; an error for
    data that was changed meanwhile."""
    pictures = MissingPictures(cache, rows, own_numbers(rows))
    if not workers:
        yield from (pictures[lot] for lot in range(len(pictures)))
        return
    from orthus_core.train.prefetch import leave_stopping_to_the_training

    yield from DataLoader(
        pictures,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork",
        worker_init_fn=leave_stopping_to_the_training,
        generator=torch.Generator(),
    )


def pictures_of(rows: RowSources, made: int = 0) -> list[PictureRows]:
    """All rows of a recipe's data that have an end: of data sets, and `made` of rows that are made.

    Rows that are held out are among them.
    """
    found: list[PictureRows] = []
    for mixture in (rows.train, *([rows.held_out] if rows.held_out else [])):
        for part in mixture.parts:
            if isinstance(part, ShuffledRows):
                found.append(PictureRows(part, part.numbers_N, mixture.change))
            elif made and mixture is rows.train:
                found.append(PictureRows(part, np.arange(made), mixture.change))
    return found


def mark_name(part: ShuffledRows) -> str:
    name = blake2b(identity_of_part(part).encode(), digest_size=8).hexdigest()
    return f"complete-{name}"


def is_marked(cache: FeatureCache, part: ShuffledRows) -> bool:
    """Whether all pictures of these rows were stored, so that nothing has to be counted."""
    return cache.path is not None and (cache.path / mark_name(part)).is_file()


def mark(cache: FeatureCache, part: ShuffledRows) -> None:
    """Remember that all pictures of these rows are stored; only time is lost without it."""
    assert cache.path is not None, "features in memory are not marked"
    try:
        cache.path.mkdir(parents=True, exist_ok=True)
        (cache.path / mark_name(part)).write_text(identity_of_part(part), encoding="utf-8")
    except OSError:
        pass


def time_text(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
