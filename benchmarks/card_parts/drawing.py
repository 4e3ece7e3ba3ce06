"""Speed at the 7B's shape with random weights: seconds a picture at 512 x 512, 100 steps and
guidance, extrapolated from some timed patches, compared with the release's algorithm and the
roofline.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from card_parts.findings import Asked, Finding, gib, the_device
from orthus_core.bench.clock import Clock, copy_bandwidth
from orthus_core.bench.model_sizes import model_of
from orthus_core.bench.race import Course, Race, race

# Target of seconds a picture on an H200, by batch size.
GOALS = {1: 4.5, 8: 0.8, 16: 0.8}


def findings(asked: Asked) -> Iterator[Finding]:
    device = the_device()
    yield Finding("copy bandwidth", f"{copy_bandwidth(device) / 1e9:.0f} GB/s")
    yield Finding(
        "bf16 products", f"{product_rate(device, 256 if asked.toy else 8192):.3g} TFLOP/s"
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = model_of("mini" if asked.toy else "7b", device, dtype)
    if asked.toy:
        courses = [Course(2, 3.0, (1, 2), patches=2, repeats=1)]
    else:  # batch by batch, so that an early end leaves the first
        courses = [Course(100, 5.0, (batch,), patches=24, repeats=1) for batch in (1, 8, 16)]
    for course in courses:
        (found,) = [each for each in race(model, course) if isinstance(each, Race)]
        for lap in found.laps:
            parts = ", ".join(f"{name} {value:.3g}" for name, value in lap.parts.items())
            peak = f"; peak {gib(lap.peak_bytes)}" if lap.peak_bytes else ""
            goal = GOALS.get(lap.batch) if lap.side == "engine" and not asked.toy else None
            reached = (
                "" if goal is None else "reached" if lap.seconds_a_picture <= goal else "missed"
            )
            yield Finding(
                f"{lap.side}, batch {lap.batch}, s a picture",
                f"{lap.seconds_a_picture:.3g} ({parts}{peak})",
                f"goal {goal}: {reached}" if goal else "",
            )
        for batch, least in found.roofline.items():
            parts = ", ".join(f"{name} {value:.3g}" for name, value in least.items())
            yield Finding(f"roofline, batch {batch}", f"{sum(least.values()):.3g} ({parts})")
        detail = f"{found.difference:.2g}; the features have size {found.feature_size:.3g}"
        yield Finding("largest difference from the release", detail)


def product_rate(device: torch.device, side: int) -> float:
    """TFLOP a second of a bf16 product of two square matrices of random numbers."""
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    clock = Clock(device)
    clock.time(lambda: one @ other)
    seconds = min(clock.time(lambda: one @ other)[0] for _ in range(5))
    return 2 * side**3 / seconds / 1e12
