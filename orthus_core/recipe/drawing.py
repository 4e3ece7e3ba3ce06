"""Recipes of `generate`, `edit`, `story` and `caption`.

A key of the sampler that is not set takes the model's own default, because a small model and the 7B
want different guidance; `orthus info MODEL` shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from orthus_core.recipe.schema import key
from orthus_core.recipe.solver_registry import SOLVERS

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "bf16", "fp16", "fp32"]

DRAWN_AT_ONCE = "pictures at once; auto is as many as fit into memory"
Preset = Literal["exact", "fast", "turbo"]

PRESET_DOC = "exact takes the model's own steps; fast and turbo fewer, and fewest in late patches"
SCHEDULER_DOC = f"{', '.join(SOLVERS)}, or package.module.Class of a diffusers-style one"
QUANTIZE_DOC = (
    "hold the backbone in so many bits, to take less memory; the rest is then bf16 by itself"
)
LOW_MEMORY_DOC = "leave the backbone in its files, and fetch each layer when it is used"
MAX_TEXT_DOC = "words the model may write first, of what the picture will show; 0 is none"
TOLERANCE_DOC = "a patch stops when its estimate can change by this share; 0 takes all steps"

UNCONDITIONAL_PROMPT = "Generate an image."
"""What the released scripts give the branch without a condition."""


@dataclass(frozen=True)
class SamplingDefaults:
    """How the new model draws when nothing else is said; stored in its folder."""

    steps: int = key(100, "DDIM steps a patch", unit="steps", minimum=1, maximum=1000)
    guidance: float = key(5.0, "classifier-free guidance towards the text; 1 is none")
    image_guidance: float = key(1.5, "guidance towards the picture that is edited; 1 is none")
    noise_scale: float = key(1.0, "size of the noise each patch starts from", minimum=0)
    unconditional_prompt: str = key(UNCONDITIONAL_PROMPT, "prompt that guidance leads away from")


@dataclass(frozen=True)
class TextSampling:
    """How text tokens are chosen."""

    temperature: float = key(0.0, "0 takes the likeliest token, 1 samples as learnt", minimum=0)
    top_p: float = key(
        1.0, "sample only from the likeliest tokens of this total", minimum=0, maximum=1
    )
    max_new_tokens: int = key(256, "longest text", unit="tokens", minimum=1)


@dataclass(frozen=True)
class GenerateRecipe:
    """Pictures from text."""

    command: ClassVar[str] = "generate"

    model: str = key("mini", "folder, hub id or alias")
    preset: Preset | None = key(None, PRESET_DOC)
    steps: int | None = key(None, "denoising steps a patch", unit="steps", minimum=1, maximum=1000)
    scheduler: str | None = key(None, SCHEDULER_DOC)
    step_tolerance: float | None = key(None, TOLERANCE_DOC, minimum=0, maximum=0.99)
    guidance: float | None = key(None, "classifier-free guidance towards the text; 1 is none")
    noise_scale: float | None = key(None, "size of the noise each patch starts from", minimum=0)
    negative_prompt: str | None = key(None, "what guidance leads away from")
    seeds: tuple[int, ...] = key((), "one a picture; empty draws them at random", minimum=0)
    num_images: int = key(1, "pictures a prompt, when no seeds are given", minimum=1)
    batch_size: int | Literal["auto"] = key("auto", DRAWN_AT_ONCE, minimum=1)
    device: Device = key("auto", "where the model runs")
    dtype: Dtype = key("auto", "precision of the weights")
    quantize: Literal[4, 8] | None = key(None, QUANTIZE_DOC, unit="bits")
    low_memory: bool = key(False, LOW_MEMORY_DOC)


@dataclass(frozen=True)
class EditRecipe:
    """A picture changed by an instruction."""

    command: ClassVar[str] = "edit"

    model: str = key("mini", "folder, hub id or alias")
    by_example: bool = key(
        False, "the first two pictures are an example of the change, before and after"
    )
    preset: Preset | None = key(None, PRESET_DOC)
    steps: int | None = key(None, "denoising steps a patch", unit="steps", minimum=1, maximum=1000)
    scheduler: str | None = key(None, SCHEDULER_DOC)
    step_tolerance: float | None = key(None, TOLERANCE_DOC, minimum=0, maximum=0.99)
    guidance: float | None = key(None, "guidance towards the instruction; 1 is none")
    image_guidance: float | None = key(None, "guidance towards the picture; 1 is none")
    max_text: int | None = key(None, MAX_TEXT_DOC, unit="tokens", minimum=0)
    noise_scale: float | None = key(None, "size of the noise each patch starts from", minimum=0)
    seeds: tuple[int, ...] = key((), "one a picture; empty draws them at random", minimum=0)
    num_images: int = key(1, "pictures, when no seeds are given", minimum=1)
    batch_size: int | Literal["auto"] = key("auto", DRAWN_AT_ONCE, minimum=1)
    device: Device = key("auto", "where the model runs")
    dtype: Dtype = key("auto", "precision of the weights")
    quantize: Literal[4, 8] | None = key(None, QUANTIZE_DOC, unit="bits")
    low_memory: bool = key(False, LOW_MEMORY_DOC)


@dataclass(frozen=True)
class StoryRecipe:
    """Texts and pictures by turns."""

    command: ClassVar[str] = "story"

    model: str = key("mini", "folder, hub id or alias")
    panels: int = key(3, "pictures to draw; at most so many when free", minimum=1)
    free: bool = key(False, "let the model say where pictures come and when it ends")
    keep_panels: int | None = key(
        None, "latest panels that the model sees; unset is as many as fit", minimum=1
    )
    from_story: str | None = key(None, "folder of an earlier story that is told on from")
    from_panel: int | None = key(None, "first panel of it that is told anew", minimum=2)
    preset: Preset | None = key(None, PRESET_DOC)
    steps: int | None = key(None, "denoising steps a patch", unit="steps", minimum=1, maximum=1000)
    scheduler: str | None = key(None, SCHEDULER_DOC)
    step_tolerance: float | None = key(None, TOLERANCE_DOC, minimum=0, maximum=0.99)
    guidance: float | None = key(
        None, "classifier-free guidance towards what came before; 1 is none"
    )
    noise_scale: float | None = key(None, "size of the noise each patch starts from", minimum=0)
    negative_prompt: str | None = key(None, "what guidance leads away from")
    seed: int | None = key(None, "unset draws one at random", minimum=0)
    text: TextSampling = key(TextSampling(max_new_tokens=64), "how each panel's text is chosen")
    device: Device = key("auto", "where the model runs")
    dtype: Dtype = key("auto", "precision of the weights")
    quantize: Literal[4, 8] | None = key(None, QUANTIZE_DOC, unit="bits")
    low_memory: bool = key(False, LOW_MEMORY_DOC)


@dataclass(frozen=True)
class CaptionRecipe:
    """Words for a picture."""

    command: ClassVar[str] = "caption"

    model: str = key("mini", "folder, hub id or alias")
    question: str = key("What is this?", "what is asked about each picture")
    seed: int | None = key(None, "for sampled text; unset draws one at random", minimum=0)
    text: TextSampling = key(TextSampling(), "how the text is chosen")
    batch_size: int | Literal["auto"] = key("auto", DRAWN_AT_ONCE, minimum=1)
    device: Device = key("auto", "where the model runs")
    dtype: Dtype = key("auto", "precision of the weights")
    quantize: Literal[4, 8] | None = key(None, QUANTIZE_DOC, unit="bits")
    low_memory: bool = key(False, LOW_MEMORY_DOC)
