"""Recipes of `generate`, `edit`, `story` and `caption`.

A key of the sampler that is not set takes the model's own default, because a small model and the 7B
want different guidance; `orthus info MODEL` shows them. A key's meaning is also the help of its
option (`orthus_cli.recipe_options`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from orthus_core.recipe.schema import key
from orthus_core.recipe.solver_registry import SOLVERS

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "bf16", "fp16", "fp32"]
Preset = Literal["exact", "fast", "turbo"]
GuidanceSchedule = Literal["constant", "linear"]

UNCONDITIONAL_PROMPT = "Generate an image."
"""Prompt of the unconditional branch in the released scripts."""


@dataclass(frozen=True)
class SamplingDefaults:
    """The new model's default sampling; stored in its folder."""

    steps: int = key(100, "DDIM steps a patch", unit="steps", minimum=1, maximum=1000)
    guidance: float = key(5.0, "classifier-free guidance towards the text; 1 is none")
    image_guidance: float = key(1.5, "guidance towards the picture that is edited; 1 is none")
    noise_scale: float = key(1.0, "size of the noise each patch starts from", minimum=0)
    unconditional_prompt: str = key(UNCONDITIONAL_PROMPT, "prompt that guidance leads away from")


@dataclass(frozen=True)
class TextSampling:
    """How text tokens are chosen."""

    temperature: float = key(
        0.0, "randomness of the text: 0 takes the likeliest token, 1 samples as learnt", minimum=0
    )
    top_p: float = key(
        1.0,
        "sample only from the likeliest tokens whose probabilities add up to this",
        minimum=0,
        maximum=1,
    )
    max_new_tokens: int = key(256, "longest answer, in tokens", unit="tokens", minimum=1)


@dataclass(frozen=True)
class PanelText:
    """How the text tokens of a story are chosen."""

    temperature: float | None = key(
        None,
        "randomness of the text: 0 takes the likeliest token, so that every seed tells the same; "
        "1 samples as learnt; the model's own, else 0.8, when not given",
        minimum=0,
    )
    top_p: float | None = key(
        None,
        "sample only from the likeliest tokens whose probabilities add up to this; the model's "
        "own, else 0.9, when not given",
        minimum=0,
        maximum=1,
    )
    max_new_tokens: int = key(64, "longest text of a panel, in tokens", unit="tokens", minimum=1)


@dataclass(frozen=True)
class ModelKeys:
    """Which model, and how it is held: keys of every recipe here."""

    model: str = key(
        "mini",
        "model folder, hub id or alias: mini, mini-fast, chameleon-mini, base, instruct, "
        "chameleon-7b, anole-7b",
    )
    lora: tuple[str, ...] | None = key(
        None,
        "adapters that `orthus posttrain` trained, added to the model: a folder, or folder:scale "
        "with a number that they are multiplied by",
    )
    device: Device = key("auto", "where the model runs; auto takes the fastest device there is")
    dtype: Dtype = key(
        "auto", "precision of weights and arithmetic; auto is bf16 on cuda and fp32 elsewhere"
    )
    quantize: Literal[4, 8] | None = key(
        None,
        "store the backbone's weights in this many bits to save memory; dtype auto is then bf16",
        unit="bits",
    )
    low_memory: bool = key(
        False,
        "leave the backbone in its files and read each layer when it is used: slower, and takes "
        "less memory",
    )


@dataclass(frozen=True)
class DrawingKeys(ModelKeys):
    """How the patches of a picture are sampled: keys of every recipe that draws."""

    preset: Preset | None = key(
        None,
        "speed against fidelity: exact takes the model's own number of steps, fast and turbo take "
        "fewer, and fewest in late patches",
        before="device",
    )
    steps: int | None = key(
        None,
        "denoising steps for each patch",
        unit="steps",
        minimum=1,
        maximum=1000,
        before="device",
    )
    scheduler: str | None = key(
        None,
        f"solver of the denoising: {', '.join(SOLVERS)}, or package.module.Class of a scheduler in "
        "the manner of diffusers",
        before="device",
    )
    time_grid: tuple[int, ...] | None = key(
        None,
        "timesteps of ddim, dpm++ or unipc, falling from the schedule's last, as in "
        "[999, 400, 60]; where the steps fall from patch to patch, a grid for each number of steps "
        "one after another; a preset takes the model's own (`orthus distill grid`), and [] is the "
        "solver's",
        minimum=0,
        before="device",
    )
    step_tolerance: float | None = key(
        None,
        "stop a patch early, once its estimate can change by no more than this share, such as "
        "0.05; 0 takes all steps",
        minimum=0,
        maximum=0.99,
        before="device",
    )
    guidance: float | None = key(
        None,
        "classifier-free guidance: how strongly a picture follows the prompt; 1 is none",
        before="device",
    )
    guidance_interval: tuple[int, ...] | None = key(
        None,
        "lowest and highest timestep at which guidance acts, as in [200, 800]; at others a patch "
        "is denoised by the prompt alone, and the head computes no other stream; [] is all",
        minimum=0,
        before="device",
    )
    guidance_schedule: GuidanceSchedule | None = key(
        None,
        "guidance of a picture's patches: constant, or linear, 1 + (guidance - 1) i / N at patch i "
        "of N",
        before="device",
    )
    noise_scale: float | None = key(
        None,
        "size of the noise each patch starts from; small models draw better with less",
        minimum=0,
        before="device",
    )
    patch_norm: tuple[float, ...] | None = key(
        None,
        "smallest and largest norm of a drawn patch, as in [7.5, 12]: after guidance, one outside "
        "is scaled to the nearer; twice the same number scales all to it, and [] none",
        minimum=0,
        before="device",
    )
    scale: Literal[2, 4] | None = key(
        None,
        "enlarge each picture by this factor after it is drawn, with Lanczos resampling; that adds "
        "no detail",
        before="device",
    )

    def __post_init__(self) -> None:
        limits = self.patch_norm
        if limits and not (len(limits) == 2 and 0 < limits[0] <= limits[1]):
            raise ValueError("patch_norm has two numbers above 0, the smaller first, or none")
        acts = self.guidance_interval
        if acts and not (len(acts) == 2 and acts[0] <= acts[1]):
            raise ValueError("guidance_interval has two timesteps, the lower first, or none")


@dataclass(frozen=True)
class SeveralPictures(DrawingKeys):
    """Number of pictures per prompt: keys of the recipes that draw each picture independently."""

    seeds: tuple[int, ...] = key(
        (),
        "seed of each picture, random when not given; a single one is counted up from",
        minimum=0,
        before="device",
    )
    num_images: int = key(1, "pictures for each prompt", minimum=1, before="device")
    batch_size: int | Literal["auto"] = key(
        "auto",
        "pictures drawn at once; auto is as many as fit into memory",
        minimum=1,
        before="device",
    )


@dataclass(frozen=True)
class GenerateRecipe(SeveralPictures):
    """Pictures from text."""

    command: ClassVar[str] = "generate"

    negative_prompt: str | None = key(
        None, "what a picture should not show; guidance leads away from it", before="seeds"
    )
    best_of: int | None = key(
        None,
        "draw this many candidates for each picture, and keep the one for which the model's own "
        "answers to questions made from the prompt are most probably right",
        minimum=1,
        maximum=64,
        before="batch_size",
    )


@dataclass(frozen=True)
class EditRecipe(SeveralPictures):
    """A picture changed by an instruction."""

    command: ClassVar[str] = "edit"

    by_example: bool = key(
        False,
        "take the first two pictures as an example of the change, before and after",
        before="preset",
    )
    guidance: float | None = key(
        None,
        "classifier-free guidance: how strongly a result follows the instruction or example; 1 is "
        "none",
        before="device",
    )
    image_guidance: float | None = key(
        None,
        "guidance of the input picture: how closely the result keeps to it; 1 is none",
        before="noise_scale",
    )
    max_text: int | None = key(
        None,
        "longest text that the model may write first, about the picture to come; 0 is none",
        unit="tokens",
        minimum=0,
        before="noise_scale",
    )
    seeds: tuple[int, ...] = key(
        (),
        "seed of each result, random when not given; a single one is counted up from",
        minimum=0,
        before="device",
    )
    num_images: int = key(1, "results of each edit, one a seed", minimum=1, before="device")


@dataclass(frozen=True)
class StoryRecipe(DrawingKeys):
    """Alternating texts and pictures."""

    command: ClassVar[str] = "story"

    panels: int = key(
        3, "pictures to draw; at most so many when the model decides", minimum=1, before="preset"
    )
    free: bool = key(
        False,
        "let the model decide where pictures come and when the story ends",
        before="preset",
    )
    keep_panels: int | None = key(
        None,
        "latest panels that the model still sees; as many as fit when not given",
        minimum=1,
        before="preset",
    )
    from_story: str | None = key(None, "folder of an earlier story to continue", before="preset")
    from_panel: int | None = key(
        None,
        "first panel of the earlier story that is drawn and told anew",
        minimum=1,
        before="preset",
    )
    guidance: float | None = key(
        None,
        "classifier-free guidance: how strongly a picture follows the story so far; 1 is none",
        before="device",
    )
    negative_prompt: str | None = key(
        None, "what a picture should not show; guidance leads away from it", before="device"
    )
    seed: int | None = key(
        None, "seed of the whole story, random when not given", minimum=0, before="device"
    )
    text: PanelText = key(PanelText(), "how each panel's text is chosen", before="device")


@dataclass(frozen=True)
class CaptionRecipe(ModelKeys):
    """Words for a picture."""

    command: ClassVar[str] = "caption"

    question: str = key("What is this?", "what to ask about each picture", before="device")
    seed: int | None = key(
        None,
        "seed of the first answer, the next count on; it changes nothing at temperature 0",
        minimum=0,
        before="device",
    )
    text: TextSampling = key(TextSampling(), "how the text is chosen", before="device")
    batch_size: int | Literal["auto"] = key(
        "auto",
        "pictures read at once; auto is as many as fit into memory",
        minimum=1,
        before="device",
    )


DrawingRecipe = GenerateRecipe | EditRecipe | StoryRecipe | CaptionRecipe
