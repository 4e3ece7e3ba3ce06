"""Input and result of every task of the benchmark."""

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
    """A picture on a contact sheet.

    Attributes:
        picture_3HW: Picture, [3, H, W] in 0..1.
        right: Whether it is correct (green frame) or wrong (red frame); None for no frame.
    """

    picture_3HW: Tensor
    right: bool | None = None


class TaskResult(NamedTuple):
    """Result of one task.

    Attributes:
        task: Name of the task.
        scores: Scores; the first one is the main score.
        samples: One JSON object for each sample.
        sheet: Rows of tiles of the contact sheet.
    """

    task: str
    scores: list[Score]
    samples: list[dict[str, Any]]
    sheet: list[list[Tile]]


@dataclass
class EvalContext:
    """A model, the world it is tested in, and the number of samples.

    Attributes:
        subject: Model under test.
        world: World of the questions; it shows only what is held out from training.
        limit: Maximum number of samples of a task; None uses each part's default.
        seed: Seed of the questions; the same seed gives every model the same questions.
    """

    subject: ModelUnderTest
    world: World = field(default_factory=lambda: World.open(testing=True))
    limit: int | None = None
    seed: int = 1
    _detector: Detector | None = field(default=None, init=False, repr=False)

    def detector(self) -> Detector:
        """The detector of this world's cast, created on first use.

        Raises:
            OrthusError: When the optional package with the judge's weights is not installed.
        """
        self._detector = self._detector or Detector(self.world)
        return self._detector

    def judge_all(
        self,
        verdict: Callable[[T, Tensor], R],
        items: Sequence[T],
        pictures: Sequence[Tensor],
        task: str,
    ) -> Work[list[R]]:
        """Judges each item's picture, and yields progress, since detection takes a while.

        Args:
            verdict: Judges one item by its picture.
            items: Items to judge.
            pictures: Picture of each item, [3, H, W] in 0..1.
            task: Name for the progress.
        """
        verdicts: list[R] = []
        for item, picture_3HW in zip(items, pictures, strict=True):
            verdicts.append(verdict(item, picture_3HW))
            yield Progress(f"{task}, judging", len(verdicts), len(items), "pictures")
        return verdicts

    def rng(self, part: str) -> random.Random:
        """Random numbers for one part of a task, independent of all other parts."""
        return random.Random(f"{self.seed}/{part}")

    def count(self, default: int, parts: int = 1) -> int:
        """Number of samples for each of several parts; `limit` applies to their sum."""
        return default if self.limit is None else max(1, min(default, self.limit // parts))
