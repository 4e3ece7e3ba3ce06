"""The machine's hardware: devices, precisions, threads and memory, and how to recognise an
out-of-memory error.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.errors import OrthusError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""The precisions that `--dtype` takes, by their names there."""
TORCH_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
"""The same by the names that torch and transformers give them."""

# The last two are oneDNN's: its convolutions do not report why set-up failed. The shapes are the
# model's own, so memory is the cause.
OUT_OF_MEMORY_MESSAGES = (
    "not enough memory",
    "out of memory",
    "can't allocate memory",
    "could not create a primitive",
    "could not create a memory object",
)

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container's limits: control groups of version 2 at the top or in `unified`,
of version 1 in a folder for each controller.
"""

OWN_GROUPS = Path("/proc/self/cgroup")
"""Where Linux tells which control groups this process is in."""

CPU_FOLDERS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")
CPU_PERIOD = 100_000
"""Microseconds of the kernel's default period, which a group of version 2 may leave out."""

# Groups of version 1 without a limit hold the largest multiple of a page instead.
NO_MEMORY_LIMIT = 2**60


class Device(NamedTuple):
    """A device of this machine.

    Attributes:
        kind: "cpu", "cuda" or "mps", as `--device` takes it.
        total, free: Bytes of the device's memory; None when unknown.
        about: Further details in words, such as supported precisions.
    """

    kind: str
    name: str
    total: int | None
    free: int | None
    about: str


def devices() -> list[Device]:
    """All available devices, the one that `auto` selects first."""
    return [*_cudas(), *_mps(), _cpu()]


def is_available(kind: str) -> bool:
    """Whether this `--device` name is available; "auto" always is."""
    return kind == "auto" or kind in {device.kind for device in devices()}


def pick_device(device: str | torch.device | None = "auto") -> torch.device:
    """The device with this name; "auto" and None are cuda, then mps, then cpu.

    Every model that is opened passes through here, from Python as from the command line, so this is
    also where torch's threads are limited (`limit_threads`).

    Raises:
        OrthusError: When this machine has no such device.
    """
    limit_threads()
    if device not in (None, "auto"):
        return _check_device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _check_device(device: str | torch.device) -> torch.device:
    """The device, which must be one of this machine. Raises: OrthusError when it is not."""
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise _no_device(device) from error
    # Not `devices()`, which asks each GPU for its memory and so takes some of it.
    known = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if named.type in known:
        if (named.index or 0) >= known[named.type]:
            raise _no_device(device)
        return named
    try:  # a kind that only Python callers name, such as "meta" or "xpu"
        torch.empty(0, device=named)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _no_device(device) from error
    return named


def _no_device(device: str | torch.device) -> OrthusError:
    here: dict[str, str] = {}
    for each in devices():
        number = sum(name.partition(":")[0] == each.kind for name in here)
        here[f"{each.kind}:{number}" if number else each.kind] = each.name
    listed = ", ".join(f"{kind} ({name})" if name else kind for kind, name in here.items())
    kind = str(device).partition(":")[0]
    why = {
        "cuda": "; orthus doctor says whether torch was built for CUDA and sees a driver",
        "mps": "; mps needs a Mac with an Apple GPU",
    }
    return OrthusError(
        f"this machine has no device {str(device)!r}; it has {listed}",
        where="device",
        hint=f"leave the device out to use {next(iter(here))}" + why.get(kind, ""),
    )


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision named in `DTYPES` or `TORCH_NAMES`; None and "auto" are bf16 on cuda and fp32
    elsewhere.

    Raises:
        OrthusError: For another name.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    found = {**DTYPES, **TORCH_NAMES}.get(dtype)
    if found is None:
        raise OrthusError(
            f"there is no precision {dtype!r}",
            where="dtype",
            hint=f"use {', '.join(DTYPES)}, or auto",
        )
    return found


CPU_BF16 = "ORTHUS_CPU_BF16"
"""Environment variable that says whether trainings on a CPU use bf16."""


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 faster than in fp32. A CPU does with AMX. With
    avx512_bf16 alone it depends on the processor: products were 1.7 times slower on one, and 2.1
    times faster on another, so they are timed, once a process. `ORTHUS_CPU_BF16`, 0 or 1, decides
    in place of that, so that a training can be repeated on another machine.

    Raises:
        OrthusError: Where that variable has another value.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu":
        return False
    if chosen := os.environ.get(CPU_BF16):
        if chosen not in ("0", "1"):
            raise OrthusError(f"{CPU_BF16} is {chosen!r}", where=CPU_BF16, hint="set it to 0 or 1")
        return chosen == "1"
    return has_amx() or (
        _asked("_is_avx512_bf16_supported") and products_in_bf16() > CLEARLY_FASTER
    )


def has_amx() -> bool:
    """Whether this CPU has Intel's matrix extension."""
    return _asked("_is_amx_tile_supported")


def _asked(name: str) -> bool:
    """What torch says of the processor; False where an earlier torch cannot tell."""
    ask = getattr(torch.cpu, name, None)
    return ask is not None and bool(ask())


CLEARLY_FASTER = 1.3
"""Times that bf16 has to be faster: well away from both of the measured ratios, so that a busy
machine decides as an idle one does."""


@functools.cache
def products_in_bf16() -> float:
    """How many times faster this CPU multiplies matrices of a small model's size in bf16 than in
    fp32, by the fastest of some tries each; takes some hundredths of a second.
    """
    seconds: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, y = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 704, dtype=dtype)
        for _ in range(PRODUCTS):
            began = time.perf_counter()
            torch.mm(x, y)
            passed = time.perf_counter() - began
            seconds[dtype] = min(seconds.get(dtype, passed), passed)
    return seconds[torch.float32] / seconds[torch.bfloat16]


PRODUCTS = 8
"""Products in each precision; the first one is slow."""


def limit_threads(group: Path | None = None) -> int:
    """Lower torch's number of threads to the processors that this process may use; never raises it.

    Returns:
        The number of threads torch then uses.
    """
    allowed = usable_processors(group)
    if allowed < torch.get_num_threads():
        torch.set_num_threads(allowed)
    return torch.get_num_threads()


def usable_processors(group: Path | None = None) -> int:
    """Number of processors that this process may use: those it is bound to (`taskset`), and no more
    than its container's share.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(bound or 1, cgroup_processors(group) or sys.maxsize)


def cgroup_processors(group: Path | None = None, own: Path | None = None) -> int | None:
    """Number of whole processors a container may use, at least one; None without a limit.

    The smallest share counts of the process's own control group and the groups around it.

    Args:
        group: Where control groups lie; `CGROUP` by default.
        own: File that names the process's groups; `OWN_GROUPS` by default.
    """
    root, own = group or CGROUP, own or OWN_GROUPS
    shares = [_share(*_words(folder / "cpu.max")) for folder in _groups_v2(root, own)]
    for folder in _groups_v1(root, own, CPU_FOLDERS):
        quota, period = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        shares.append(_share(*quota[:1], *period[:1]) if quota else None)
    return min((share for share in shares if share is not None), default=None)


def _share(quota: str = "", period: str = str(CPU_PERIOD), *_: str) -> int | None:
    """Whole processors in a quota and a period, both in microseconds; None when they limit nothing
    ("max", -1) or are no such numbers.
    """
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return max(1, int(quota) // int(period))


def _words(file: Path) -> tuple[str, ...]:
    """The words of a control group's file; none where it cannot be read."""
    try:
        return tuple(file.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return ()


def _groups_v2(root: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's group of version 2 and of those around it."""
    for base in (root, root / "unified"):
        yield from _with_groups_around(base, _own_path(own, ""))


def _groups_v1(root: Path, own: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """The same for a controller of version 1, whose folder has one of these names."""
    controller = names[0]
    for name in names:
        yield from _with_groups_around(root / name, _own_path(own, controller))


def _with_groups_around(base: Path, path: str) -> Iterator[Path]:
    # A path with ".." lies outside the container, and a container may see its own group at the top.
    inner = [part for part in path.split("/") if part]
    yield base
    if ".." not in inner:
        yield from (base.joinpath(*inner[:depth]) for depth in range(1, len(inner) + 1))


def _own_path(own: Path, controller: str) -> str:
    """The path of this process's group: that with this controller, or of version 2 for ""."""
    try:
        lines = own.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return "/"
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller in controllers.split(","):
            return path
    return "/"


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None when unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    found = [free for free in (_free_main_memory(), _free_cgroup_memory()) if free is not None]
    return min(found, default=None)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. A GPU takes it from pinned memory, so that the CPU need not wait
    until the GPU has done all that it was given before.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator has no exception class ("DefaultCPUAllocator: not enough memory: you tried
    # to allocate ..."), nor does that of Apple's GPUs ("MPS backend out of memory").
    words = str(error)
    return isinstance(error, RuntimeError) and any(sign in words for sign in OUT_OF_MEMORY_MESSAGES)


def release_memory(device: torch.device) -> None:
    """Return cached memory to the device, so that the next attempt has all of it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _cudas() -> list[Device]:
    if not torch.cuda.is_available():
        return []
    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        about = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if about.major >= 8 else "no bf16, use fp16"
        words = f"compute capability {about.major}.{about.minor}, {bf16}, CUDA {torch.version.cuda}"
        found.append(Device("cuda", about.name, total, free, words))
    return found


def _mps() -> list[Device]:
    if not torch.backends.mps.is_available():
        return []
    most = torch.mps.recommended_max_memory()
    used = torch.mps.driver_allocated_memory()
    return [Device("mps", platform.processor() or "Apple GPU", most, most - used, "shared memory")]


def _cpu() -> Device:
    total, free = _memory()
    words = f"{os.cpu_count()} cores, {limit_threads()} threads"
    return Device("cpu", platform.processor() or platform.machine(), total, free, words)


def _memory() -> tuple[int | None, int | None]:
    """Total and free bytes of main memory; None where unknown."""
    free = free_bytes(torch.device("cpu"))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), free
    return None, free


def _free_main_memory() -> int | None:
    if sys.platform == "linux":
        table = Path("/proc/meminfo").read_text(encoding="ascii")
        named = dict(line.split(":", 1) for line in table.splitlines())
        return int(named["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in named else None
    if sys.platform == "win32":
        return _free_memory_on_windows()
    # macOS reports no figure without its own tools; half of the installed memory is a fair guess.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_memory_on_windows() -> int | None:
    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in (
                "total",
                "free",
                "page",
                "page_free",
                "virtual",
                "virtual_free",
                "extended",
            )
        ]

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009, exists on Windows only
    return status.free if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def _free_cgroup_memory(group: Path | None = None, own: Path | None = None) -> int | None:
    """Bytes left under a container's limit; None without a limit. Arguments as for
    `cgroup_processors`.
    """
    root, own = group or CGROUP, own or OWN_GROUPS
    left = [
        _left(folder, "memory.max", "memory.current", "inactive_file")
        for folder in _groups_v2(root, own)
    ]
    left += [
        _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for folder in _groups_v1(root, own, ("memory",))
    ]
    return min((free for free in left if free is not None), default=None)


def _left(folder: Path, limit_file: str, used_file: str, evictable: str) -> int | None:
    """Bytes left in one control group, from its limit, its use and the key of its cached files."""
    limit, used = "".join(_words(folder / limit_file)), "".join(_words(folder / used_file))
    if not (limit.isdecimal() and used.isdecimal()) or int(limit) >= NO_MEMORY_LIMIT:
        return None
    stat = _words(folder / "memory.stat")
    named = dict(zip(stat[::2], stat[1::2], strict=False))
    # Cached files count as used, but are evicted when memory is needed.
    cached = named.get(evictable, "")
    return int(limit) - int(used) + (int(cached) if cached.isdecimal() else 0)
