"""What a part of benchmarks/card.py is asked, and what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

GIB = 2**30


class Asked(NamedTuple):
    """What a part is asked.

    Attributes:
        folder: A new folder of its own.
        seconds: How long it may take.
        toy: Whether to take tiny shapes.
        sets: Changes to the stages' recipes.
    """

    folder: Path
    seconds: float
    toy: bool
    sets: tuple[str, ...] = ()


class Finding(NamedTuple):
    """One line of the table; `verdict` is "right", "wrong", "seen", "not seen", or empty."""

    what: str
    value: str
    verdict: str = ""


def the_device() -> torch.device:
    """The card, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "no card: the CPU"


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Size of the difference as a share of the size of `theirs`."""
    ours, theirs = ours.detach().double().cpu(), theirs.detach().double().cpu()
    return float((ours - theirs).norm() / theirs.norm())


def compared(what: str, ours: Tensor, theirs: Tensor, limit: float) -> Finding:
    """A finding on two tensors that should be alike; `limit` is on `apart`."""
    found = apart(ours, theirs)
    is_right = found <= limit and bool(torch.isfinite(ours).all())
    return Finding(what, f"{found:.1e} apart (limit {limit:.0e})", "right" if is_right else "wrong")


def gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"
