"""Make batches in other processes before they are needed.

A step on a fast GPU takes less time than making its rows. The rows depend on the step alone, so
the batches and their order are the same whichever process makes them.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from orthus_core.data.collate import Batch
from orthus_core.data.row_faults import RowFault, RowFaults
from orthus_core.errors import OrthusError, TrainingError

# Number of chunks that each worker may be ahead of the training.
LOTS_AHEAD = 3


def leave_stopping_to_the_training(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal; the training ends its workers when it is ready.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass
class Lot:
    """Batches that were made together.

    Attributes:
        batches: The batches; fewer than were asked for if one could not be made.
        faults: Rows that the worker found to be unusable since its last lot.
        error: Why the next batch could not be made.
    """

    batches: list[Batch]
    faults: list[RowFault]
    error: OrthusError | None = None

    def pin_memory(self) -> Lot:
        """The same lot in pinned memory; torch's DataLoader calls this method."""
        return replace(self, batches=[batch.pin_memory() for batch in self.batches])


@dataclass(frozen=True)
class Chunks(Dataset):
    """Batches in chunks that are made together, such as those sorted by length together.

    Attributes:
        make: Batch number n, n = 0, 1, 2 ... together: Number of batches per chunk.
        faults: Where `make` counts rows that cannot be used.
    """

    make: Callable[[int], Batch]
    together: int
    faults: RowFaults

    def __getitem__(self, lot: int) -> Lot:
        batches: list[Batch] = []
        try:
            for place in range(self.together):
                batches.append(self.make(lot * self.together + place))
        except OrthusError as error:  # as it is; the loader would tell a traceback in its message
            return Lot(batches, self.faults.take(), error)
        return Lot(batches, self.faults.take())


class Prefetcher:
    """Returns batch number n from worker processes: fast in order, correct in any order.

    Args:
        make: Makes a batch, without a device: workers are forked, and must not use a GPU.
        workers: Number of processes.
        together: Number of batches that share work, which one process makes.
        faults: Where `make` counts rows that cannot be used; those that the workers meet come to
            this process with their batches.

    Raises:
        TrainingError: Where processes do not fork.
    """

    def __init__(
        self,
        make: Callable[[int], Batch],
        workers: int,
        together: int = 1,
        faults: RowFaults | None = None,
    ) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise TrainingError(
                "there are no workers here, since this system does not fork processes",
                where="data.workers",
                hint="set data.workers = 0: the training makes its rows itself",
            )
        self.faults = faults if faults is not None else RowFaults()
        self.lots = Chunks(make, together, self.faults)
        self.workers = workers
        self._coming: Iterator[Lot] = iter(())
        self._next_lot = -1
        self._lot: Lot | None = None

    def __call__(self, number: int) -> Batch:
        lot, place = divmod(number, self.lots.together)
        if self._lot is None or lot != self._next_lot - 1:
            if lot != self._next_lot:
                self._coming = self._begin(lot)
            self._lot, self._next_lot = next(self._coming), lot + 1
            self.faults.merge(self._lot.faults)
        if place >= len(self._lot.batches) and self._lot.error:
            raise self._lot.error
        return self._lot.batches[place]

    def _begin(self, lot: int) -> Iterator[Lot]:
        # Tokenizers warn when they are forked after use, unless their threads are disabled.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        loader = DataLoader(
            self.lots,
            batch_size=None,
            sampler=itertools.count(lot),  # type: ignore[arg-type]  # endless, so not Sized
            num_workers=self.workers,
            prefetch_factor=LOTS_AHEAD,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="fork",
            worker_init_fn=leave_stopping_to_the_training,
            generator=torch.Generator(),  # otherwise it would use the one that each step seeds
        )
        return iter(loader)
