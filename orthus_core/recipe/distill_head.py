"""The recipe of `orthus distill head`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from orthus_core.recipe.schema import key
from orthus_core.recipe.training import (
    DataRecipe,
    DevicesRecipe,
    LogRecipe,
    OptimRecipe,
    TaskWeights,
)


@dataclass(frozen=True)
class AnglesRecipe:
    """Where the steps lie that a few-step head learns: angles between signal and noise."""

    mean: float = key(
        0.0, "middle of the angles that steps start from, as the logit of their share of the way"
    )
    spread: float = key(1.0, "how widely these angles are spread, as logits", minimum=0)
    noise_share: float = key(
        0.15, "share of the steps that start from noise alone", minimum=0, maximum=1
    )
    jumps: float = key(
        0.5,
        "share of the steps that go somewhere; the others keep the direction where they start",
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True)
class DistillHeadRecipe:
    """A head that takes few steps learns from a model's own; the backbone stays as it is.

    The defaults are the small world's: a model of other data needs `data`.
    """

    command: ClassVar[str] = "distill head"

    seed: int = key(0, "seed of the training", minimum=0)
    steps: int = key(4, "steps that the new model takes by default", unit="steps", minimum=1)
    guidance: float | None = key(
        None,
        "guidance of pictures that the jumps are learnt for; the model's own if not set",
        minimum=0,
    )
    edit_guidance: float | None = key(None, "the same of edits", minimum=0)
    pictures: int = key(
        1024, "rows whose pictures' hidden states are learnt from", unit="rows", minimum=1
    )
    self_drawn: float = key(
        0.5,
        "share of these pictures that the model reads as it drew them; the others it reads as they "
        "are in the data",
        minimum=0,
        maximum=1,
    )
    patch_share: float = key(
        0.0625, "share of each picture's patches in a batch, at least one", minimum=0, maximum=1
    )
    draws: int = key(4, "noise draws for each of these patches", minimum=1)
    angles: AnglesRecipe = key(AnglesRecipe(), "which steps are learnt")
    optim: OptimRecipe = key(
        OptimRecipe(
            lr=3e-4,
            betas=(0.9, 0.98),
            steps=4000,
            batch_size=64,
            warmup_steps=50,
            schedule="cosine",
            ema_decay=0.998,
        ),
        "the optimiser; a batch is of whole pictures' rows",
    )
    data: DataRecipe = key(
        DataRecipe(tasks=TaskWeights(text_to_image=0.3, scene=0.45, caption=0.0, scene_edit=0.25)),
        "rows of words and a picture, and of edits",
    )
    log: LogRecipe = key(
        LogRecipe(every=20, sample_every=0, save_every=200), "what is written down"
    )
    devices: DevicesRecipe = key(DevicesRecipe(), "how several devices share it")
