"""The devices that train together: one process each, every one with rows of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, reduce
from torch import Tensor


class Rank(NamedTuple):
    """This process among those that train together."""

    shard: int = 0
    shards: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files."""
        return self.shard == 0


def accelerator() -> Accelerator:
    """What prepares models and optimisers for the devices at hand.

    A step need not touch every weight: the codes wait for a picture, a discriminator for its start.
    """
    waiting = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[waiting])


def current_rank() -> Rank:
    """Where this process stands, as the launcher told it; alone without a launcher."""
    state = PartialState(cpu=not torch.cuda.is_available())
    return Rank(state.process_index, state.num_processes)


def device() -> torch.device:
    """The device of this process."""
    current_rank()  # the first to ask settles it
    found = PartialState().device
    assert found is not None, "a state that was made has a device"
    return found


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of the processes' tensors, the same on each."""
    if current_rank().shards == 1:
        return values
    summed = reduce(values.to(device()), "sum")
    assert isinstance(summed, Tensor)
    return summed.cpu()
