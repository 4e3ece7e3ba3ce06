"""The recipe of `orthus distill guidance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from orthus_core.recipe.schema import key
from orthus_core.recipe.training import (
    PATCH_SHARE,
    TIMESTEPS,
    DataRecipe,
    DevicesRecipe,
    LogRecipe,
    LoraRecipe,
    OptimRecipe,
    TaskWeights,
    TimestepKind,
)


@dataclass(frozen=True)
class DistillGuidanceRecipe:
    """A model learns to draw by itself what it draws with guidance, so that one stream is enough.

    The defaults are the small world's: a model of other data needs `data`, and a large one `lora`.
    """

    command: ClassVar[str] = "distill guidance"
    loss_terms: ClassVar[None] = None

    seed: int = key(0, "seed of the training", minimum=0)
    guidance: float | None = key(
        None, "guidance of pictures from text that is learnt; the model's own if not set", minimum=0
    )
    edit_guidance: float | None = key(
        None, "guidance of edits towards the instruction; the model's own if not set", minimum=0
    )
    image_guidance: float | None = key(
        None, "guidance of edits towards the picture; the model's own if not set", minimum=0
    )
    story_guidance: float | None = key(
        None, "guidance of a story's pictures; the model's own if not set", minimum=0
    )
    head: Literal["full", "frozen"] = key(
        "full",
        "the diffusion head: trained with the backbone, or left as it is, so that the hidden state "
        "alone carries the guidance; of adapters, `lora.head` says it",
    )
    lambda_image: float = key(1.0, "weight of the error of the head's prediction", minimum=0)
    text_weight: float = key(
        2.0, "weight of the divergence from the words that the model would write before", minimum=0
    )
    repeats: int = key(2, "noise draws for each patch", minimum=1)
    patch_share: float = key(1.0, PATCH_SHARE, minimum=0.01, maximum=1)
    prefix_noise: float = key(
        0.3, "noise on the pictures that are read, the same in all streams", minimum=0
    )
    timesteps: TimestepKind = key("uniform-angle", TIMESTEPS)
    lora: LoraRecipe = key(LoraRecipe(), "adapters in place of the whole model")
    optim: OptimRecipe = key(
        OptimRecipe(
            lr=3e-4,
            betas=(0.9, 0.98),
            steps=1500,
            batch_size=16,
            warmup_steps=50,
            schedule="cosine",
            ema_decay=0.99,
        ),
        "the optimiser",
    )
    data: DataRecipe = key(
        DataRecipe(
            tasks=TaskWeights(
                text_to_image=0.28,
                scene=0.30,
                caption=0.12,
                scene_question=0.10,
                edit=0.02,
                scene_edit=0.12,
                story=0.06,
            ),
            condition_dropout=0.0,
            own_pictures=True,
            packing=True,
        ),
        "what is read",
    )
    log: LogRecipe = key(LogRecipe(save_every=100), "what is written down")
    devices: DevicesRecipe = key(DevicesRecipe(), "how several devices share it")

    def __post_init__(self) -> None:
        if not self.data.own_pictures:
            raise ValueError(
                "data.own_pictures is false, and guidance is of pictures that the model draws: "
                "leave it true"
            )
        if self.lora.embeddings:
            raise ValueError(
                "lora.embeddings is true, and the tables that the streams to learn from are read "
                "with would change: leave it false"
            )
        if self.lora.rank and self.head != "full":
            raise ValueError(f"head {self.head!r} beside lora.rank: set lora.head instead")

    @property
    def loss_weights(self) -> tuple[float, float]:
        """The weights of the losses of pictures and of text."""
        return self.lambda_image, self.text_weight
