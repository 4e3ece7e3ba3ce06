"""Speed and accuracy of each preset: seconds per picture, and the difference of its pictures from
those of `exact`, with the same noise.

Legend: N pictures, P patches, C feature channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orthus_core.bench.clock import Clock
from orthus_core.bench.race import Course, course_of, prompts_of
from orthus_core.events import ImageDone, Progress
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams

TOLERANCE = 0.05


class Way(NamedTuple):
    """A sampling variant, as arguments of `SamplingParams.resolve`."""

    name: str
    asked: dict[str, Any]


WAYS = (
    Way("exact", {"preset": "exact"}),
    Way(f"exact, tolerance {TOLERANCE}", {"preset": "exact", "step_tolerance": TOLERANCE}),
    Way("fast", {"preset": "fast"}),
    Way("turbo", {"preset": "turbo"}),
)


@dataclass(frozen=True)
class PresetLap:
    """Timing and accuracy of one variant.

    Attributes:
        steps: Denoising steps of a picture's first patch.
        seconds_a_picture: Median over the repeats.
        ratio: Speed-up over `exact`.
        feature_error: Norm of the difference from the features of `exact`, relative to their norm.
        psnr: PSNR of its pictures against those of `exact`, in dB; None when they are equal.
    """

    name: str
    scheduler: str
    steps: int
    seconds_a_picture: float
    ratio: float
    feature_error: float
    psnr: float | None


def preset_laps(
    model: OrthusForConditionalGeneration, pictures: int, repeats: int
) -> Iterator[Progress | PresetLap]:
    """Draw the same pictures with every variant alternately; yields progress and results."""
    course = course_of(model)
    ways = [SamplingParams.resolve(model.config, **way.asked) for way in WAYS]
    seconds: list[list[float]] = [[] for _ in WAYS]
    drawn: list[tuple[Tensor, Tensor]] = []
    for repeat in range(repeats):
        for number, params in enumerate(ways):
            yield Progress("presets", repeat * len(WAYS) + number, repeats * len(WAYS), "runs")
            took, result = Clock(model.device).time(
                lambda params=params: _draw(model, course, params, pictures)
            )
            seconds[number].append(took / pictures)
            if repeat == 0:
                drawn.append(result)
    exact = median(seconds[0])
    for way, params, times, result in zip(WAYS, ways, seconds, drawn, strict=True):
        features_NPC, exact_NPC = result[0], drawn[0][0]
        yield PresetLap(
            way.name,
            params.scheduler or "",
            params.steps,
            median(times),
            exact / median(times),
            float((features_NPC - exact_NPC).norm() / exact_NPC.norm()),
            _psnr(result[1], drawn[0][1]),
        )


def _draw(
    model: OrthusForConditionalGeneration, course: Course, params: SamplingParams, pictures: int
) -> tuple[Tensor, Tensor]:
    prompts = prompts_of(model, course, pictures)
    events = generate(model, prompts, params, pictures)
    done = sorted((e for e in events if isinstance(e, ImageDone)), key=lambda event: event.row)
    return (
        torch.stack([event.features_PC for event in done]).cpu(),
        torch.stack([event.pixels_3HW for event in done]).cpu().clamp(-1, 1),
    )


def _psnr(ours: Tensor, theirs: Tensor) -> float | None:
    """PSNR of pixels in [-1, 1], whose peak is 2."""
    error = float((ours - theirs).square().mean())
    return 10 * math.log10(4 / error) if error else None
