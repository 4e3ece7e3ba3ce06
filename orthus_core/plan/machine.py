"""The machine: its devices, how much memory each has, and what is free of it now."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from orthus_core.samplers.memory import free_bytes


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


def free_disk(folder: Path) -> int:
    """Bytes that can still be written below a folder, which need not exist yet."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(nearest).free


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
