"""Distributed training: one process per device, each with its own rows."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, gather_object, reduce
from torch import Tensor

from orthus_core.device import limit_threads

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=2)
"""How long a process waits for another before it gives up. The first one writes states and samples
while the others wait for it, which takes a large model longer than the ten minutes that NCCL waits
by itself. A process that dies is noticed by the launcher, at once."""


class Rank(NamedTuple):
    """The rank of this process among those that train together."""

    shard: int = 0
    shards: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.shard == 0


def accelerator() -> Accelerator:
    """The Accelerator that prepares models and optimisers for the available devices.

    A step need not use every weight: codes are unused without a picture, and a discriminator before
    its first step.
    """
    waiting = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[waiting])


def current_rank() -> Rank:
    """The rank of this process, as the launcher set it; a single process without a launcher.

    Every training asks for it first, so torch's threads are limited here, as in `pick_device`.
    """
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    limit_threads()
    return Rank(state.process_index, state.num_processes)


def device() -> torch.device:
    """The device of this process."""
    current_rank()  # the first call initialises PartialState
    found = PartialState().device
    assert found is not None, "a state that was made has a device"
    return found


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of the tensors over all processes, the same on each."""
    if current_rank().shards == 1:
        return values
    summed = reduce(values.to(device()), "sum")
    assert isinstance(summed, Tensor)
    return summed.cpu()


def gather_lists(items: list[T]) -> list[T]:
    """The items of all processes, the same list on each."""
    if current_rank().shards == 1 or not all_reduce_sum(torch.tensor(float(len(items)))).item():
        return items
    return gather_object(items)
