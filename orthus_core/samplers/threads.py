"""How many threads a CPU draws with: as many as it has cores, and no more than a container allows.

torch takes one a core that the process may run on. It does not see a container's share of processor
time, and threads beyond that share wait for each other at every product.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch


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
