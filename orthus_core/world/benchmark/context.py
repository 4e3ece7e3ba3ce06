"""What every task of the benchmark works with, and what it hands back."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from orthus_core.events import Progress
from orthus_core.world.benchmark.detector import Detector
from orthus_core.world.benchmark.model_under_test import ModelUnderTest, Work
from orthus_core.world.benchmark.scores import Score
from orthus_core.world.world import World

T = TypeVar("T")
R = TypeVar("R")


class Tile(NamedTuple):
    """A picture on a contact sheet: [3, H, W] in 0..1.

    right: Framed green or red; None has no frame.
    """

    picture_3HW: Tensor
    right: bool | None = None


class TaskResult(NamedTuple):
    """What one task found.

    scores: The first one is what the task is known by.
    samples: One JSON object each.
    sheet: Rows of tiles, to look at.
    """

    task: str
    scores: list[Score]
    samples: list[dict[str, Any]]
    sheet: list[list[Tile]]


@dataclass
class EvalContext:
    """A model, the world it is tested in, and how much of it.

    Attributes:
        subject: Who is tested.
        world: Shows only what training never saw.
        limit: At most so many samples in each part of a task; None is each part's own number.
        seed: Of what is asked; the same one asks every model the same.
    """

    subject: ModelUnderTest
    world: World = field(default_factory=lambda: World.open(testing=True))
    limit: int | None = None
    seed: int = 1
    _detectors: dict[str, Detector] = field(default_factory=dict, init=False, repr=False)

    def detector(self, style: str = "3d") -> Detector:
        """Of this world's cast in a style; made when first needed."""
        if style not in self._detectors:
            self._detectors[style] = Detector(self.world, style)
        return self._detectors[style]

    def judge_all(
        self,
        verdict: Callable[[T, Tensor], R],
        items: Sequence[T],
        pictures: Sequence[Tensor],
        task: str,
    ) -> Work[list[R]]:
        """A verdict on each item's picture, with progress: a detector looks for a while."""
        verdicts: list[R] = []
        for item, picture_3HW in zip(items, pictures, strict=True):
            verdicts.append(verdict(item, picture_3HW))
            yield Progress(f"{task}, judging", len(verdicts), len(items), "pictures")
        return verdicts

    def rng(self, part: str) -> random.Random:
        """Randomness of one part of a task, which no other part moves."""
        return random.Random(f"{self.seed}/{part}")

    def count(self, default: int, parts: int = 1) -> int:
        """Samples for each of some parts, `limit` being for all of them together."""
        return default if self.limit is None else max(1, min(default, self.limit // parts))
