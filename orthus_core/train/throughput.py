"""How fast a training is: tokens, pictures and operations a second, memory, and what it waits for.

A step's time is told by parts, one after the other. On a GPU work is queued, so a part's time is
exact only while the device is waited for (`exact`), but that of whole steps always is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from orthus_core.train.distributed import all_reduce_sum, current_rank
from orthus_core.train.flops import Work, counter_of

DATA, FORWARD, BACKWARD, OPTIMISER = "waiting for data", "forward", "backward", "optimiser"
MEASURING, SAVING, REST = "held-out rows and samples", "saving", "everything else"
PARTS = (FORWARD, BACKWARD, OPTIMISER, DATA, SAVING, MEASURING, REST)
# What is done between steps, and is no part of how long one takes.
BETWEEN = (SAVING, MEASURING)
# Begins the names of these figures, which differ from run to run, unlike all others.
SPEED = "speed/"


class Meter:
    """Measures a training's steps on this process, and sums what all processes do.

    Args:
        objective: What computes the losses.
        device: Device of this process.
        clock: Monotonic clock in seconds.

    Attributes:
        exact: Whether to wait for the device at each part.
        part: The part that time counts to.
        seconds: Seconds of each part since the training began.
    """

    def __init__(
        self,
        objective: nn.Module,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._count = counter_of(objective)
        self._device, self._clock = device, clock
        self._peak = _peak_flops(device)
        self.exact = False
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.part, self._since = REST, clock()
        self._reported = dict(self.seconds)
        self._work = Work()

    def enter(self, part: str) -> None:
        """From now on, time counts to this part."""
        if self.exact and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = self._clock()
        self.seconds[self.part] += now - self._since
        self.part, self._since = part, now

    def leave_out(self) -> None:
        """Count the time since a part was last entered to none of them."""
        self._since = self._clock()

    def count(self, batch: Any) -> None:
        """Add a batch of this process."""
        self._work = self._work.plus(self._count(batch))

    def figures(self) -> dict[str, float]:
        """The figures of all processes together since the last call; all processes call this
        at once.

        Rates are sums over the processes, waiting is their mean, memory is that of the fullest
        device.
        """
        self.enter(self.part)
        spent = {part: self.seconds[part] - self._reported[part] for part in PARTS}
        stepping = sum(seconds for part, seconds in spent.items() if part not in BETWEEN)
        own = [stepping, spent[DATA], float(peak_memory(self._device)), *self._work]
        self._reported, self._work = dict(self.seconds), Work()
        place = current_rank()
        table = torch.zeros(place.shards, len(own), dtype=torch.float64)
        table[place.shard] = torch.tensor(own, dtype=torch.float64)
        table = all_reduce_sum(table)
        took, waited, memory = table[:, 0], table[:, 1], table[:, 2]
        seconds = float(took.max())
        if seconds <= 0:
            return {}
        tokens, pictures, flops = (table[:, 3:].sum(0) / seconds).tolist()
        figures = {
            "tokens_per_second": tokens,
            "pictures_per_second": pictures,
            "flops_per_second": flops,
            "mfu": flops / (self._peak * place.shards) if self._peak else 0,
        }
        figures = {name: value for name, value in figures.items() if value}
        figures["waiting"] = float((waited / took).mean())
        figures["memory_gb"] = float(memory.max()) / 1e9
        return {SPEED + name: value for name, value in figures.items()}


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    from orthus_core.train.card_rates import peak_flops

    return peak_flops(torch.cuda.get_device_name(device))


def peak_memory(device: torch.device) -> int:
    """Most bytes that tensors on a GPU have taken at once; elsewhere the most that this process has
    had in memory. 0 where that is not known.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
