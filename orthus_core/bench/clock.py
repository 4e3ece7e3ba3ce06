"""Measure the time and memory of a run, and this machine's copy bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

# Larger than any cache, small enough for any machine.
COPIED_BYTES = 2**28
COPIES = 7


class Clock:
    """Measure the seconds of named parts, and of everything that runs between them.

    Args:
        device: Device to wait for at the end of each part.
        parts: Whether to time parts. On a GPU, waiting for each part prevents asynchronous work, so
            the total is measured without parts.

    Attributes:
        seconds: Seconds of each part so far.
    """

    def __init__(self, device: torch.device, *, parts: bool = True) -> None:
        self._device, self._parts = device, parts
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if not self._parts:
            yield
            return
        began = self._now()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - began

    def around(self, thing: Any, **parts: str) -> Any:
        """Wrap an object so that these methods are timed: `clock.around(brush, draw="head")`."""
        return _Timed(thing, self, parts)

    def time(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Run `work`, and return its total seconds and its result."""
        began = self._now()
        result = work()
        return self._now() - began, result

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _Timed:
    def __init__(self, thing: Any, clock: Clock, parts: dict[str, str]) -> None:
        self._thing, self._clock, self._named = thing, clock, parts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if name not in self._named:
            return found

        def timed(*args: Any, **options: Any) -> Any:
            with self._clock(self._named[name]):
                return found(*args, **options)

        return timed


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy reads and writes together; median of several copies."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target, clock = torch.empty_like(source), Clock(device)
    target.copy_(source)
    seconds = [clock.time(lambda: target.copy_(source))[0] for _ in range(COPIES)]
    return 2 * COPIED_BYTES / median(seconds)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Measure peak memory; the yielded function returns the bytes so far, None when unknown. On a
    CPU it is the peak of the process, including weights and libraries.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    try:
        # Linux forgets the highest resident size so far when 5 is written here (man 5 proc).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        yield lambda: None
        return
    yield _highest_resident


def _highest_resident() -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
