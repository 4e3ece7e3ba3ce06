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
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from orthus_core.data.collate import Batch
from orthus_core.errors import TrainingError

# Number of chunks that each worker may be ahead of the training.
LOTS_AHEAD = 3


def _leave_stopping_to_the_training(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal; the training ends its workers when it is ready.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Chunks(Dataset):
    """Batches in chunks that are made together, such as those sorted by length together.

    Attributes:
        make: Batch number n, n = 0, 1, 2 ... together: Number of batches per chunk.
    """

    make: Callable[[int], Batch]
    together: int

    def __getitem__(self, lot: int) -> list[Batch]:
        return [self.make(lot * self.together + place) for place in range(self.together)]


class Prefetcher:
    """Returns batch number n from worker processes: fast in order, correct in any order.

    Args:
        make: Makes a batch, without a device: workers are forked, and must not use a GPU.
        workers: Number of processes.
        together: Number of batches that share work, which one process makes.

    Raises:
        TrainingError: Where processes do not fork.
    """

    def __init__(self, make: Callable[[int], Batch], workers: int, together: int = 1) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise TrainingError(
                "there are no workers here, since this system does not fork processes",
                where="data.workers",
                hint="set data.workers = 0: the training makes its rows itself",
            )
        self.lots = Chunks(make, together)
        self.workers = workers
        self._coming: Iterator[list[Batch]] = iter(())
        self._next_lot = -1
        self._lot: list[Batch] = []

    def __call__(self, number: int) -> Batch:
        lot, place = divmod(number, self.lots.together)
        if not self._lot or lot != self._next_lot - 1:
            if lot != self._next_lot:
                self._coming = self._begin(lot)
            self._lot, self._next_lot = next(self._coming), lot + 1
        return self._lot[place]

    def _begin(self, lot: int) -> Iterator[list[Batch]]:
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
            worker_init_fn=_leave_stopping_to_the_training,
            generator=torch.Generator(),  # otherwise it would use the one that each step seeds
        )
        return iter(loader)
