"""Trainings of a transformer on rows, as stages of the loop.

The discrete `pretrain` and `posttrain` differ only in their objective and batches; `build-base`
also raises the soft embedding's temperature during training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from PIL import Image
from torch import nn

from orthus_core.data.collate import Batch
from orthus_core.losses.joint import Counts, JointLoss, counts_of
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe.training import TemperatureRecipe
from orthus_core.train.batches import RowBatches
from orthus_core.train.distributed import all_reduce_sum, current_rank

Draw = Callable[[], "Image.Image | None"]
Part = tuple[Batch, Counts]


def draw_nothing() -> None:
    """The sample sheet of a training without samples."""
    return None


class RowsStage:
    """A transformer on rows: every batch through one objective.

    Args:
        objective: Module whose forward takes a batch, and the counts that its means are over.
        trainable: The parameters to train.
        batches: Batches for training and validation.
        draw: Makes the sample sheet.
        exchanges_words: Whether held-out pictures are also measured with the words of other rows,
            for an objective whose image loss can be compared between them.
    """

    sixteen_bit = True

    def __init__(
        self,
        objective: nn.Module,
        trainable: list[nn.Parameter],
        batches: RowBatches,
        draw: Draw = draw_nothing,
        *,
        exchanges_words: bool = False,
    ) -> None:
        self.objective = objective
        self.objective.train()
        self._trainable = trainable
        self._batches = batches
        self._draw = draw
        self._exchanges_words = exchanges_words
        self.report = batches.report if batches.report.mixture.data_sets else None

    def trainable(self) -> list[nn.Parameter]:
        return self._trainable

    def parts(self, step: int, count: int) -> Sequence[Part]:
        return with_counts([self._batches.train(step * count + part) for part in range(count)])

    def held_out(self) -> Sequence[Part]:
        return self._held_out

    @cached_property
    def _held_out(self) -> list[Part]:
        return with_counts(self._batches.held_out())

    def held_out_by_words(self) -> Mapping[str, Sequence[Part]]:
        return self._held_out_by_words

    @cached_property
    def _held_out_by_words(self) -> dict[str, list[Part]]:
        found = self._batches.by_words() if self._exchanges_words else {}
        return {name: with_counts(batches) for name, batches in found.items()}

    def begin_step(self, step: int) -> list[nn.Parameter]:
        return []

    def samples(self) -> Image.Image | None:
        return self._draw()


def with_counts(batches: Sequence[Batch]) -> list[Part]:
    """The batches of a step with the counts of an average batch, over all devices.

    With these counts, their losses average to the loss of one batch that holds all their rows.
    """
    if not batches:
        return []
    totals = all_reduce_sum(torch.tensor([counts_of(batch) for batch in batches]).sum(0))
    counts = Counts(*(totals / (len(batches) * current_rank().shards)).tolist())
    return [(batch, counts) for batch in batches]


class BuildBaseStage(RowsStage):
    """`build-base`: the diffusion loss on pictures alone, while the soft embedding opens.

    Args:
        temperature: tau at the first and the last step, and how it changes in between.
        steps: Number of steps of the training.
    """

    objective: JointLoss

    def __init__(
        self,
        objective: JointLoss,
        trainable: list[nn.Parameter],
        batches: RowBatches,
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
    """tau of step 0 .. steps - 1, from start to end, both reached exactly."""
    share = step / max(1, steps - 1)
    if recipe.schedule == "linear":
        return (1 - share) * recipe.start + share * recipe.end
    return recipe.start ** (1 - share) * recipe.end**share
