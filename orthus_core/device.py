"""What this machine has: devices, threads, memory, and what running out of memory looks like."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

import torch

# The last two are oneDNN's, whose convolutions do not say what kept them from being set up; shapes
# are the model's own, so it is the memory.
SIGNS_OF_NO_MEMORY = (
    "not enough memory",
    "out of memory",
    "can't allocate memory",
    "could not create a primitive",
    "could not create a memory object",
)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had on a device; None where nobody says."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    found = [free for free in (_free_of_the_machine(), _free_of_the_group()) if free is not None]
    return min(found, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is an allocation that failed, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator has no class of its own ("DefaultCPUAllocator: not enough memory: you
    # tried to allocate ..."), nor has that of Apple's GPUs ("MPS backend out of memory").
    words = str(error)
    return isinstance(error, RuntimeError) and any(sign in words for sign in SIGNS_OF_NO_MEMORY)


def release(device: torch.device) -> None:
    """Gives back what was freed, so that the next try starts from all there is."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _free_of_the_machine() -> int | None:
    if sys.platform == "linux":
        table = Path("/proc/meminfo").read_text(encoding="ascii")
        named = dict(line.split(":", 1) for line in table.splitlines())
        return int(named["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in named else None
    if sys.platform == "win32":
        return _free_of_windows()
    # macOS names no figure without its own tools; half of what is built in is a fair guess.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_of_windows() -> int | None:
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
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009, there on Windows alone
    return status.free if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def _free_of_the_group(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves, where there is one (control groups, version 2)."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split()
            for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except OSError:
        return None
    if limit == "max":
        return None
    # Cached files count as used, and go when memory is wanted.
    return int(limit) - used + int(stat.get("inactive_file", 0))


def use_allowed_threads(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Lowers torch's number of threads to a container's share of processors, where it has one, and
    says what it is then."""
    allowed = allowed_processors(group)
    if allowed is not None and allowed < torch.get_num_threads():
        torch.set_num_threads(allowed)
    return torch.get_num_threads()


def allowed_processors(group: Path) -> int | None:
    """Processors that a container may keep busy (control groups, version 2), at least one; None
    where nothing limits them."""
    try:
        share, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if share == "max" else max(1, math.floor(int(share) / int(period)))


class Device(NamedTuple):
    """Something that computes.

    kind: "cpu", "cuda" or "mps", as `--device` takes it.
    total, free: Bytes of its memory; None where the system does not tell.
    about: More of it in words, such as the precisions it computes in.
    """

    kind: str
    name: str
    total: int | None
    free: int | None
    about: str


def devices() -> list[Device]:
    """All that are here, the one that `auto` takes first."""
    return [*_cudas(), *_mps(), _cpu()]


def is_here(kind: str) -> bool:
    """Whether `--device` of this name can be had; "auto" always can."""
    return kind == "auto" or kind in {device.kind for device in devices()}


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
    words = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return Device("cpu", platform.processor() or platform.machine(), total, free, words)


def _memory() -> tuple[int | None, int | None]:
    """Total and free bytes of main memory, as far as the system tells."""
    free = free_bytes(torch.device("cpu"))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), free
    return None, free
