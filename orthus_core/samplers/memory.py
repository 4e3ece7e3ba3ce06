"""Memory: how much is free, how much a picture takes while it is drawn, and what running out of it
looks like.

Estimates are for choosing how many pictures to draw at once. They are generous, and a wrong one
costs a second try with half as many (`batches.py`), nothing else.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import nn

from orthus_core.model.config import InterleavedConfig
from orthus_core.model.interleaved import InterleavedModel

# What is left to others, and to what no estimate sees.
LEFT_FREE = 0.2
# The decoder holds about so many maps of its first width at full size at once.
DECODER_MAPS = 4
# Vectors of a token's own, in a layer, besides the wide ones of its MLP.
VECTORS_OF_A_TOKEN = 8

# The last two are oneDNN's, whose convolutions do not say what kept them from being set up; shapes
# are the model's own, so it is the memory.
SIGNS_OF_NO_MEMORY = (
    "not enough memory",
    "out of memory",
    "can't allocate memory",
    "could not create a primitive",
    "could not create a memory object",
)


class Need(NamedTuple):
    """Bytes that drawing takes besides the weights.

    fixed: However many rows there are.
    row: Each row's.
    """

    fixed: int
    row: int

    def rows_in(self, free: int) -> int:
        """How many rows fit into so many free bytes; one at least, for it may fit after all."""
        return max(1, int((free * (1 - LEFT_FREE) - self.fixed) // self.row))


def cache_bytes(config: InterleavedConfig, slots: int, itemsize: int) -> int:
    """Keys and values of one stream of so many slots."""
    channels = config.hidden_size // config.num_attention_heads
    heads = cast(int, config.num_key_value_heads)
    return 2 * config.num_hidden_layers * heads * channels * slots * itemsize


def decoder_bytes(config: InterleavedConfig, itemsize: int) -> int:
    """Activations while one picture becomes pixels."""
    vq = config.vq_config
    pixels = vq.downsampling**2 * config.patches
    return DECODER_MAPS * vq.base_channels * pixels * itemsize


def need(
    model: InterleavedModel, *, slots: int, streams: int, tokens_at_once: int, decoded_at_once: int
) -> Need:
    """What rows take that are drawn side by side.

    Args:
        slots: Of the longest stream.
        streams: Of a row.
        tokens_at_once: Of prompts, in one pass.
        decoded_at_once: Pictures.
    """
    config, itemsize = model.config, model.dtype.itemsize
    wide = 3 * config.intermediate_size + VECTORS_OF_A_TOKEN * config.hidden_size
    head = getattr(model, "mlp_head", None)
    # All that a head makes of one stream for all steps is bounded by its plan; its weights are not.
    of_head = _bytes_of(head) if head is not None else 0
    decoder_itemsize = model.model.vqmodel.post_quant_conv.weight.dtype.itemsize
    return Need(
        fixed=tokens_at_once * wide * itemsize
        + of_head
        + decoded_at_once * decoder_bytes(config, decoder_itemsize),
        row=streams * cache_bytes(config, slots, itemsize) + 4 * config.vocab_size,
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


def _bytes_of(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


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
