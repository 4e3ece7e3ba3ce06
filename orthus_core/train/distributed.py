"""Distributed training: one process per device, each with its own rows.

A launcher (torchrun, or accelerate launch for several cards) starts the processes and gives each
its RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which is all that is read.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from orthus_core.device import is_out_of_memory, limit_threads
from orthus_core.errors import OrthusError, TrainingError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")
P = ParamSpec("P")
Result = TypeVar("Result")

LONGEST_WAIT = timedelta(hours=2)
"""How long a process waits for another before it gives up. The first one writes states and samples
while the others wait for it, which takes a large model longer than the ten minutes that NCCL waits
by itself. A process that dies is noticed by the others' heartbeats within a minute."""
MEETING = timedelta(minutes=10)
"""How long the first processes wait for the last one to start."""
NAME_KNOWN = timedelta(minutes=1)
"""How long a name of a machine may be unknown, as that of a container which is just starting."""
LOOK = 0.1
"""Seconds between two looks whether the others have come."""
OLDEST_TORCH = (2, 6)
"""The first torch whose FSDP2 several processes can train with."""


class Rank(NamedTuple):
    """The rank of this process among those that train together."""

    shard: int = 0
    shards: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.shard == 0


def current_rank() -> Rank:
    """The rank of this process, as the launcher set it; a single process without a launcher. The
    first call waits for the other processes.

    Every training asks for it first, so torch's threads are limited here, as in `pick_device`.

    Raises:
        TrainingError: When the processes cannot work together; says why.
    """
    limit_threads()
    return meet()


@cache
def meet() -> Rank:
    """Connect the processes that a launcher has started; see `current_rank`."""
    place = _place()
    if place.shards == 1:
        _check_launcher()
        return Rank()
    check_torch()
    _check_address()
    cards = _own_card() is not None
    from orthus_core.train import heartbeat

    try:
        store = _in_time(lambda: _connected(place))
        _wait_for_all(place, store)
        # From here on, a process that ends is noticed by the others.
        heartbeat.begin(place.shard, place.shards)
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cards else "gloo",
            store=store,
            rank=place.shard,
            world_size=place.shards,
            timeout=LONGEST_WAIT,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise _not_met(place, error) from error
    atexit.register(_leave)
    return place


def _place() -> Rank:
    """The rank that a launcher has set; that of the only process without a launcher.

    Raises:
        TrainingError: When half of it is set, or it cannot be.
    """
    shards = _number("WORLD_SIZE", 1)
    names = [name for name in ("RANK", "WORLD_SIZE") if os.environ.get(name)]
    if shards < 1:
        raise _not_launched(f"WORLD_SIZE is {shards}, and counts the processes", "WORLD_SIZE")
    if not names or (shards == 1 and "RANK" not in names):
        return Rank()
    if len(names) == 1:
        (other,) = {"RANK", "WORLD_SIZE"} - set(names)
        raise _not_launched(
            f"{names[0]} is set and {other} is not, so it is unknown which process this is", other
        )
    place = Rank(_number("RANK", 0), shards)
    if not 0 <= place.shard < shards:
        raise _not_launched(
            f"RANK is {place.shard}, and the ranks of {shards} processes are 0 to {shards - 1}",
            "RANK",
        )
    return place


def _check_address() -> None:
    """Check that it is said where the processes meet.

    Raises:
        TrainingError: When it is not, or cannot be.
    """
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise _not_launched(f"{name} is not set, so the processes cannot meet", name)
    port = _number("MASTER_PORT", 0)
    if not 0 < port < 2**16:
        raise _not_launched(f"MASTER_PORT is {port}, and ports are 1 to {2**16 - 1}", "MASTER_PORT")


def _not_launched(message: str, name: str) -> TrainingError:
    """The error of an environment variable that a launcher sets."""
    return TrainingError(
        message,
        where=f"the environment variable {name}",
        hint="start the processes with torchrun, which sets RANK, WORLD_SIZE, MASTER_ADDR and "
        "MASTER_PORT for each; for one process without a launcher, unset them",
    )


def _connected(place: Rank) -> Store:
    """The place where the processes meet, once the first one is there."""
    from torch.distributed import rendezvous  # type: ignore[reportPrivateImportUsage]

    # torch writes its call stack for every try in vain, so the tries are made here.
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    began = time.monotonic()
    while True:
        try:
            if place.is_first:
                socket.getaddrinfo(*address)
            else:
                socket.create_connection(address, timeout=5).close()
            break
        except OSError as error:
            limit = NAME_KNOWN if isinstance(error, socket.gaierror) else MEETING
            if time.monotonic() - began > limit.total_seconds():
                raise
        time.sleep(LOOK)
    store, _, _ = next(rendezvous("env://", place.shard, place.shards, timeout=MEETING))
    return store


def _in_time(work: Callable[[], T]) -> T:
    """What `work` returns, in the time for meeting; torch waits for ever for an answer from a port
    that another program listens at.

    Raises:
        TimeoutError: When it takes longer.
    """
    found: list[T] = []
    failed: list[Exception] = []

    def attempt() -> None:
        try:
            found.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, name="meeting", daemon=True)
    thread.start()
    thread.join(1.2 * MEETING.total_seconds() + 1)  # torch is to say first who has not come
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError("what answers there is none of them")
    return found[0]


def _wait_for_all(place: Rank, store: Store) -> None:
    """Wait until each process has come, before torch connects them, which it does for hours.

    Raises:
        TimeoutError: When one has not come in the time for meeting.
        TrainingError: When two have one rank, or different numbers of processes.
    """
    from torch.distributed import PrefixStore  # type: ignore[reportPrivateImportUsage]

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    here = PrefixStore(f"orthus/meeting/{attempt}", store)
    count = here.compare_set("count", "", str(place.shards)).decode()
    if count != str(place.shards):
        here.set("refused", f"WORLD_SIZE is {count} for one process, {place.shards} for another")
    if here.add(f"rank {place.shard}", 1) > 1:
        here.set("refused", f"two processes have RANK={place.shard}")
    end = time.monotonic() + MEETING.total_seconds()
    absent = [f"rank {shard}" for shard in range(place.shards)]
    while absent and not here.check(["refused"]):
        absent = [name for name in absent if not here.check([name])]
        if absent and time.monotonic() > end:
            raise TimeoutError(f"{absent[0]} has not come")
        time.sleep(LOOK)
    if here.check(["refused"]):
        word = here.get("refused").decode()
        time.sleep(place.is_first * 10 * LOOK)  # the others look it up at this process
        raise _not_launched(word, "RANK" if "RANK" in word else "WORLD_SIZE")


def check_torch() -> None:
    """Check that this torch can train with several processes.

    Raises:
        TrainingError: When it is too old, or was built without what connects them.
    """
    import torch.distributed as dist

    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise TrainingError(
            f"torch {torch.__version__} is too old to train with several processes",
            where=f"WORLD_SIZE={os.environ.get('WORLD_SIZE')}",
            hint="pip install --upgrade torch ({}.{} or later), or start one process".format(
                *OLDEST_TORCH
            ),
        )
    missing = ""
    if not dist.is_available() or not dist.is_gloo_available():
        missing = "gloo"
    elif _own_card() is not None and not dist.is_nccl_available():
        missing = "NCCL"
    if missing:
        raise TrainingError(
            f"this torch was built without {missing}, by which processes are connected",
            where=f"torch {torch.__version__}",
            hint="install torch as https://pytorch.org/get-started tells for this machine, or "
            "start one process",
        )


def _check_launcher() -> None:
    """Check that accelerate was not asked for more processes than this one.

    On a machine without several GPUs `accelerate launch --num_processes 2` says where two processes
    would meet, starts one, and says nothing.

    Raises:
        TrainingError: When it was.
    """
    here = os.environ
    if "ACCELERATE_MIXED_PRECISION" in here and "MASTER_PORT" in here and "RANK" not in here:
        raise TrainingError(
            "accelerate launch was asked for several processes, and has started one",
            where="--num_processes",
            hint="on a machine without several GPUs it needs --multi_gpu to start them: accelerate "
            "launch --multi_gpu --num_processes 2 -m orthus_cli ...; or use torchrun "
            "--nproc-per-node 2 -m orthus_cli ...",
        )


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name) or default)
    except ValueError as error:
        raise TrainingError(
            f"{name} is no number: {os.environ[name]!r}",
            where=f"the environment variable {name}",
            hint="start the processes with torchrun, which sets it",
        ) from error


def _own_card() -> int | None:
    """The number of this process's GPU; None where it trains on the CPU.

    Raises:
        TrainingError: When this machine has fewer GPUs than processes.
    """
    if not torch.cuda.is_available() or _wants_cpu():
        return None
    number, cards = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if not os.environ.get("LOCAL_RANK") and _number("WORLD_SIZE", 1) > 1 < cards:
        raise TrainingError(
            "LOCAL_RANK is not set, so all processes of this machine would take its first GPU",
            where="the environment variable LOCAL_RANK",
            hint="start the processes with torchrun, which sets it; with srun, it is SLURM_LOCALID",
        )
    if number >= cards:
        raise TrainingError(
            f"there is no GPU for process {number + 1} of this machine: it has {cards}",
            where=f"LOCAL_RANK={number}",
            hint=f"start {cards} processes here: torchrun --nproc-per-node {cards} ...",
        )
    return number


def _wants_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def _not_met(place: Rank, error: Exception) -> TrainingError:
    """What is said when the processes could not be connected."""
    address = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, socket.gaierror):
        return TrainingError(
            f"no machine is known by the name {os.environ.get('MASTER_ADDR')!r}: {reason}",
            where="the environment variable MASTER_ADDR",
            hint="it is the name or IP address of the machine of the first process, as the others "
            "know it",
        )
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return TrainingError(
            f"the port that the processes meet at is taken: {address}",
            where=f"MASTER_PORT={os.environ.get('MASTER_PORT', '')}",
            hint="another training may be at work there, or a second process has RANK=0; take "
            "another port: torchrun --master-port 29501 ..., or --standalone, which finds a free "
            "one",
        )
    return TrainingError(
        f"process {place.shard} of {place.shards} has not met the others at {address}: {reason}",
        where="RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT",
        hint=f"all {place.shards} processes have to start within {MEETING.seconds // 60} minutes, "
        "with the same address and port, and different ranks",
    )


def _leave() -> None:
    from orthus_core.train import heartbeat

    heartbeat.wait_to_be_heard()
    if heartbeat.end(""):
        torch.distributed.destroy_process_group()


def ends_together(
    training: Callable[P, Generator[Any, Any, Result]],
) -> Callable[P, Generator[Any, Any, Result]]:
    """Have a training of several processes tell the others how this one ends, and say which other
    has ended when this one cannot go on without it.
    """

    @wraps(training)
    def run(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Result]:
        from orthus_core.train import heartbeat

        heartbeat.resume()
        try:
            current_rank()  # first of all, so that the others hear what is found to be wrong
            result = yield from training(*args, **kwargs)
        except OrthusError as error:
            heartbeat.end(error.message)
            raise
        except Exception as error:
            if word := heartbeat.word_on(error):
                raise heartbeat.other_has_ended(word) from error
            if is_out_of_memory(error):
                heartbeat.end("it had no more memory")
                raise _no_memory(error) from error
            heartbeat.end(f"{type(error).__name__}: {error}")
            raise
        except BaseException:  # Ctrl-C, or whoever reads the events has stopped
            heartbeat.end("it was stopped")
            raise
        heartbeat.end("")
        return result

    return run


def _no_memory(error: Exception) -> TrainingError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return TrainingError(
        f"the memory is full: {said}",
        where=f"process {current_rank().shard} of {current_rank().shards}",
        hint="`orthus plan RECIPE` says what takes it: a smaller optim.batch_size with more "
        "optim.accumulate, devices.checkpoint_activations = true, or more devices need less",
    )


def device() -> torch.device:
    """The device of this process."""
    place = current_rank()
    card = _own_card()
    if card is None:
        return torch.device("cpu")
    if place.shards == 1:
        return torch.device("cuda")
    torch.cuda.set_device(card)
    return torch.device("cuda", card)


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of the tensors over all processes, the same on each, on the CPU."""
    if current_rank().shards == 1:
        return values
    summed = values.detach().cpu().clone()
    torch.distributed.all_reduce(summed)
    return summed


def anywhere(flag: bool) -> bool:
    """Whether something holds on any process, the same answer on each."""
    return all_reduce_sum(torch.tensor(float(flag))).item() > 0


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean of the tensors over all processes, the same on each, on the CPU."""
    return all_reduce_sum(values) / current_rank().shards


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, on its device; without a gradient."""
    shards = current_rank().shards
    if shards == 1:
        return values
    summed = values.detach().clone()
    torch.distributed.all_reduce(summed)
    return summed / shards


def shared_out(stack: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """`compute` of a stack that every process has, of which each computes a share.

    Args:
        stack: Tensors [K, ...], the same on each process.
        compute: A function of the stack's items, each by itself: [K, ...] as before, of any type.

    Returns:
        What `compute(stack)` gives, the same on each process.
    """
    place = current_rank()
    if place.shards == 1 or len(stack) == 1:
        return compute(stack)
    share = -(-len(stack) // place.shards)
    first = min(place.shard * share, len(stack) - share)  # the last shares may overlap
    own = compute(stack[first : first + share]).contiguous()
    found = [torch.empty_like(own) for _ in range(place.shards)]
    torch.distributed.all_gather([f.view(torch.uint8) for f in found], own.view(torch.uint8))
    firsts = [min(shard * share, len(stack) - share) for shard in range(place.shards)]
    result = own.new_empty(len(stack), *own.shape[1:])
    for first, part in zip(firsts, found, strict=True):
        result[first : first + share] = part
    return result


def gather_each(item: T) -> list[T]:
    """The item of each process, in their order, the same list on each."""
    place = current_rank()
    if place.shards == 1:
        return [item]
    found: list[Any] = [None] * place.shards
    torch.distributed.all_gather_object(found, item)
    return found


def gather_lists(items: list[T]) -> list[T]:
    """The items of all processes, the same list on each."""
    if current_rank().shards == 1 or not all_reduce_sum(torch.tensor(float(len(items)))).item():
        return items
    return [item for own in gather_each(items) for item in own]
