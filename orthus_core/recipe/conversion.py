"""The recipe of `convert`: how a Chameleon becomes an Orthus.

The defaults are the released 7B's (arXiv 2412.00127, and the shapes of its checkpoints).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from orthus_core.recipe.drawing import SamplingDefaults
from orthus_core.recipe.schema import key


@dataclass(frozen=True)
class HeadRecipe:
    """The head for image features that a conversion adds."""

    kind: Literal["diffusion", "mse"] = key(
        "diffusion",
        "diffusion denoises the next feature; mse regresses it, trained by the mean squared error",
    )
    width: int = key(1536, "channels inside the head", minimum=1)
    depth: int = key(3, "residual blocks; 0, for mse alone, is one linear layer", minimum=0)
    seed: int = key(0, "seed of its first weights", minimum=0)

    def __post_init__(self) -> None:
        if self.depth == 0 and self.kind == "diffusion":
            raise ValueError(
                'depth 0 and kind "diffusion": a head that denoises needs a block; 1 is the least'
            )


@dataclass(frozen=True)
class EmbeddingRecipe:
    """How a continuous feature becomes a row of the embedding table."""

    kind: Literal["softmax", "argmin", "linear"] = key(
        "softmax",
        "softmax over code distances; argmin, the nearest code's row of the table; linear, one "
        "linear layer of the feature: the last two are the paper's ablations",
    )
    temperature: float = key(1.0, "softness of the softmax; towards 0 it is argmin", minimum=1e-6)
    distance: Literal["exact", "release"] = key(
        "exact", "exact distances, or rounded as the release computes them"
    )


@dataclass(frozen=True)
class DiffusionRecipe:
    """What the head predicts, at what scale, and how noise is added."""

    prediction: Literal["v", "epsilon"] = key("v", "velocity, or noise as in the paper's eq. 3")
    latent_scale: float = key(
        0.1, "features are multiplied by this before noise is added", minimum=1e-6
    )
    beta_schedule: Literal["scaled_linear", "linear"] = key(
        "scaled_linear", "noise added at each of 1000 steps: linear in its square root, or itself"
    )
    beta_start: float = key(0.00085, "noise of the first step", minimum=1e-6, maximum=0.5)
    beta_end: float = key(0.012, "noise of the last step", minimum=1e-6, maximum=0.5)
    zero_terminal_snr: bool = key(
        True,
        "rescale them until the last step leaves no signal; false where noise is predicted",
    )

    def __post_init__(self) -> None:
        if self.beta_start > self.beta_end:
            raise ValueError(
                f"beta_start {self.beta_start} is above beta_end {self.beta_end}: noise grows from "
                "the first step to the last"
            )
        if self.prediction == "epsilon" and self.zero_terminal_snr:
            raise ValueError(
                'prediction = "epsilon" with zero_terminal_snr = true could be trained and never '
                "drawn from: noise alone says nothing of the feature in it, and drawing begins "
                "there; set zero_terminal_snr = false"
            )


@dataclass(frozen=True)
class CheckRecipe:
    """The conversion's proof that the new model equals the old one."""

    codes: int = key(64, "codes sampled in the self-check; 0 is no check", minimum=0)


@dataclass(frozen=True)
class ConvertRecipe:
    """A Chameleon checkpoint into an Orthus one."""

    command: ClassVar[str] = "convert"

    dtype: Literal["auto", "bf16", "fp16", "fp32"] = key(
        "auto", "precision the weights are written in; auto keeps the source's"
    )
    shard_size_mb: int = key(5000, "largest weight file", unit="MB", minimum=1)
    head: HeadRecipe = key(HeadRecipe(), "the head for image features")
    embedding: EmbeddingRecipe = key(EmbeddingRecipe(), "the vision embedding")
    diffusion: DiffusionRecipe = key(DiffusionRecipe(), "the diffusion objective")
    check: CheckRecipe = key(CheckRecipe(), "the self-check")
    sampling: SamplingDefaults = key(SamplingDefaults(), "the new model's own defaults")
