"""Trainings of a transformer on rows, as stages of the loop.

The discrete `pretrain` and `posttrain` differ in their objective and batches alone; `build-base`
also opens the soft embedding as it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import nn

from orthus_core.data.collate import Batch
from orthus_core.losses.joint import JointLoss
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe.training import TemperatureRecipe

Draw = Callable[[], "Image.Image | None"]


def draw_nothing() -> None:
    """The sample sheet of a training that is not watched."""
    return None


class RowsStage:
    """A transformer on rows: every batch through one objective.

    Args:
        objective: Its forward takes a batch.
        trainable: The parameters that move.
        batches: Batch number n, n = 0, 1, 2 ...
        draw: Makes the sample sheet.
    """

    sixteen_bit = True

    def __init__(
        self,
        objective: nn.Module,
        trainable: list[nn.Parameter],
        batches: Callable[[int], Batch],
        draw: Draw = draw_nothing,
    ) -> None:
        self.objective = objective
        self.objective.train()
        self._trainable = trainable
        self._batches = batches
        self._draw = draw

    def trainable(self) -> list[nn.Parameter]:
        return self._trainable

    def batch(self, step: int) -> Any:
        return self._batches(step)

    def begin_step(self, step: int) -> list[nn.Parameter]:
        return []

    def samples(self) -> Image.Image | None:
        return self._draw()


class BuildBaseStage(RowsStage):
    """`build-base`: the diffusion loss on pictures alone, while the soft embedding opens.

    Args:
        temperature: tau at the first and the last step; between them it grows by a constant factor.
        steps: Length of the training.
    """

    objective: JointLoss

    def __init__(
        self,
        objective: JointLoss,
        trainable: list[nn.Parameter],
        batches: Callable[[int], Batch],
        *,
        temperature: TemperatureRecipe,
        steps: int,
        draw: Draw = draw_nothing,
    ) -> None:
        super().__init__(objective, trainable, batches, draw)
        self.temperature = temperature
        self.steps = steps

    def begin_step(self, step: int) -> list[nn.Parameter]:
        model: OrthusForConditionalGeneration = self.objective.model
        model.config.embedding_temperature = temperature_at(self.temperature, step, self.steps)
        return []


def temperature_at(recipe: TemperatureRecipe, step: int, steps: int) -> float:
    """tau of step 0 .. steps - 1: geometric from start to end, both reached exactly."""
    share = step / max(1, steps - 1)
    return recipe.start ** (1 - share) * recipe.end**share
