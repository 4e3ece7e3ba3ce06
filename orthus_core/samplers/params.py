"""What is sampled, and how: the parameters of a run, resolved once from a recipe, a preset and the
model's own defaults.

Early patches settle what the image shows, and late ones are nearly determined by what is there, so
they need fewer steps (DiSA, 2505.20297): a preset's steps fall in a straight line from an image's
first patch to its last.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.config import DiscreteConfig, InterleavedConfig
from orthus_core.recipe import Recipe
from orthus_core.recipe.drawing import TextSampling
from orthus_core.recipe.solver_registry import SOLVERS


@dataclass(frozen=True)
class SamplingParams:
    """The same for every row of a batch.

    max_images: Pictures a row may draw; 0 is text only.
    min_images: Pictures a row must draw; one is begun for the model where it would rather end or
        write on.
    max_text: Text tokens a row may write in all; 0 is pictures only.
    text_before_image: Text tokens after which a picture that must come is begun; None waits for the
        model.
    end_with_image: The row ends with its last picture instead of going on with text.
    steps: Denoising steps a patch; a discrete Chameleon takes one.
    last_steps: Of a picture's last patch, where they fall from `steps` patch by patch (see
        `presets.py`); None is the same for all.
    scheduler: What leads through those steps (see `solver_for`).
    step_tolerance: Share of its size by which a patch's estimate may still change when it stops
        before its last step; 0 takes all steps.
    noise_scale: Factor on the noise each patch starts from: 1 as trained, less is calmer. For a
        discrete Chameleon it is the temperature (see `choose_codes`).
    code_top_k, code_top_p: Of a discrete Chameleon's codes; 0 and 1 leave all codes in.
    temperature, top_k, top_p: Of the text; temperature 0 is greedy, top_k 0 and top_p 1 leave all
        tokens in.

    Raises: PromptError for numbers that cannot be.
    """

    max_images: int = 1
    min_images: int = 0
    max_text: int = 0
    text_before_image: int | None = None
    end_with_image: bool = False
    steps: int = 100
    last_steps: int | None = None
    scheduler: str = "ddim"
    step_tolerance: float = 0.0
    noise_scale: float = 1.0
    code_top_k: int = 0
    code_top_p: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        rules = {
            "max_images": self.max_images >= 0,
            "min_images": 0 <= self.min_images <= self.max_images,
            "max_text": self.max_text >= 0,
            "text_before_image": self.text_before_image is None or self.text_before_image >= 0,
            "last_steps": self.last_steps is None or 1 <= self.last_steps <= self.steps,
            "step_tolerance": 0 <= self.step_tolerance < 1,
            "noise_scale": 0 <= self.noise_scale < math.inf,
            "code_top_k": self.code_top_k >= 0,
            "code_top_p": 0 < self.code_top_p <= 1,
            "temperature": 0 <= self.temperature < math.inf,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
        }
        for name, holds in rules.items():
            if not holds:
                raise PromptError(f"{name} cannot be {getattr(self, name)}", where="settings")
        if not (self.max_images or self.max_text):
            raise PromptError("neither text nor pictures are asked for", where="settings")

    @property
    def owed_images(self) -> int:
        """Pictures that come whatever the model would rather do; without text, all of them."""
        return self.min_images if self.max_text else self.max_images


class Preset(NamedTuple):
    """What a preset changes in a model's own sampling.

    steps: Of a picture's first patch, where the model's own are more; None leaves the model's own.
    last_share: The share of them that its last patch takes.
    scheduler: The solver (see `solver_for`); None leaves the model's own.
    """

    steps: int | None
    last_share: float
    scheduler: str | None

    def first_steps(self, own: int) -> int:
        """Steps of the first patch for a model that takes `own` by itself."""
        return own if self.steps is None else min(own, self.steps)

    def last_steps(self, first: int) -> int:
        """Steps of the last patch when the first takes `first`."""
        return max(1, round(first * self.last_share))


PRESETS = {
    "exact": Preset(None, 1.0, None),
    "fast": Preset(20, 0.5, "dpm++"),
    "turbo": Preset(10, 0.5, "unipc"),
}


def preset_of(name: str) -> Preset:
    """The preset of this name. Raises: PromptError when there is none."""
    if name not in PRESETS:
        raise PromptError(
            f"there is no preset {name!r}", where="preset", hint=f"use one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def steps_at(first: int, last: int, patch: int, patches: int) -> int:
    """Steps of patch number `patch` of `patches`, on the straight line from `first` to `last`."""
    if patches == 1:
        return first
    return round(first + (last - first) * patch / (patches - 1))


Task = Literal["picture", "edit", "story"]


# The release guides interleaved writing more gently, and away from other words.
STORY_GUIDANCE = 3.0


STORY_UNCONDITIONAL_PROMPT = "generate images"


class Sampling(NamedTuple):
    """The values pictures are sampled with, all filled in.

    preset, scheduler, step_tolerance: Of an Orthus; None for a discrete Chameleon. `steps` are
        those of a picture's first patch.
    code_top_k, code_top_p: Of a discrete Chameleon; None for an Orthus, which has no use for them.
    max_text: Text tokens that the model may write before an edit's picture, with 0 it draws at
        once; None of all else.
    """

    steps: int
    guidance: float
    image_guidance: float
    noise_scale: float
    negative_prompt: str
    preset: str | None = "exact"
    scheduler: str | None = "ddim"
    step_tolerance: float | None = 0.0
    code_top_k: int | None = None
    code_top_p: float | None = None
    max_text: int | None = None

    def told(self) -> dict[str, Any]:
        """What results say of it: all that this kind of model samples with."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def settings(self, **asked: Any) -> SamplingParams:
        """Settings of the loop that draw so; `asked` are further fields."""
        shared = {name: value for name, value in self.told().items() if name in SETTINGS}
        if self.preset is not None:
            shared["last_steps"] = preset_of(self.preset).last_steps(self.steps)
        if self.max_text:
            shared |= {
                "max_text": self.max_text,
                "text_before_image": self.max_text,
                "min_images": 1,
                "end_with_image": True,
            }
        return SamplingParams(**(shared | asked))


# What of a `Sampling` the loop itself needs; guidance lies in the prompts.
SETTINGS = (
    "steps",
    "noise_scale",
    "scheduler",
    "step_tolerance",
    "code_top_k",
    "code_top_p",
)


def sampling_of(config: InterleavedConfig, task: Task = "picture", **asked: Any) -> Sampling:
    """What was asked for, and the model's own defaults for the rest.

    Args:
        config: Its `sampling_defaults` fill in.
        task: A model may want to be guided otherwise in an edit (`edit_guidance`) and to say first
            what the picture will show (`edit_max_text`); and be guided otherwise in text and
            pictures by turns (`story_guidance`, `story_unconditional_prompt`).
        asked: Fields of `Sampling`; None is not asked. A preset gives what is not asked besides.

    Raises:
        PromptError: For a preset that is none, and when a discrete Chameleon is asked for several
            steps a patch or for anything about them.
        CheckpointError: When a value that the model names cannot be one.
    """
    own = config.sampling or {}
    _check_own(own)
    values = dict(config.sampling_defaults)
    values["negative_prompt"] = values.pop("unconditional_prompt")
    if task == "edit":
        values["guidance"] = own.get("edit_guidance", values["guidance"])
        values["max_text"] = own.get("edit_max_text", 0)
    if task == "story":
        values["guidance"] = own.get("story_guidance", own.get("guidance", STORY_GUIDANCE))
        values["negative_prompt"] = own.get(
            "story_unconditional_prompt",
            own.get("unconditional_prompt", STORY_UNCONDITIONAL_PROMPT),
        )
    asked = {name: value for name, value in asked.items() if value is not None}
    if isinstance(config, DiscreteConfig):
        values |= dict.fromkeys(OF_STEPS) | asked
        _check_discrete(values)
    else:
        preset = preset_of(asked.get("preset", "exact"))
        values["steps"] = preset.first_steps(values["steps"])
        values |= {"scheduler": preset.scheduler or _own_scheduler(values)} | asked
    return Sampling(**{name: values[name] for name in Sampling._fields if name in values})


# What a model's folder may name of its own, and the kind of each.
NUMBER = (int, float)


OWN: dict[str, type | tuple[type, ...]] = {
    "steps": int,
    "guidance": NUMBER,
    "edit_guidance": NUMBER,
    "edit_max_text": int,
    "story_guidance": NUMBER,
    "image_guidance": NUMBER,
    "noise_scale": NUMBER,
    "step_tolerance": NUMBER,
    "code_top_k": int,
    "code_top_p": NUMBER,
    "scheduler": str,
    "unconditional_prompt": str,
    "story_unconditional_prompt": str,
}


def _check_own(sampling: dict[str, Any]) -> None:
    """Raises: CheckpointError for a text where a number belongs, and the like."""
    for name in (name for name in OWN if name in sampling):
        value, kind = sampling[name], OWN[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise CheckpointError(
                f"the model names {value!r} as its {name}",
                where=f"config.json: sampling.{name}",
                hint=f"set it to {'a text' if kind is str else 'a number'}, or leave it out",
            )


def _own_scheduler(values: dict[str, Any]) -> str:
    """The scheduler that a model's folder names. It may be a stranger's, so it is one of ours.

    Raises: CheckpointError when it is not.
    """
    name = values.get("scheduler", "ddim")
    if name not in SOLVERS:
        raise CheckpointError(
            f"the model names a scheduler that is not ours: {name}",
            where="config.json: sampling.scheduler",
            hint=f"set it to one of {', '.join(SOLVERS)}; others can be named with --scheduler",
        )
    return name


# What there is to say about steps where there is more than one.
OF_STEPS = ("preset", "scheduler", "step_tolerance")


def _check_discrete(values: dict[str, Any]) -> None:
    if values["steps"] != 1:
        raise PromptError(
            f"{values['steps']} steps a patch, and a discrete Chameleon chooses each code in one",
            where="steps",
            hint="leave steps out, or draw with an Orthus",
        )
    for name in OF_STEPS:
        if values[name] is not None:
            raise PromptError(
                f"{name} {values[name]}, and a discrete Chameleon denoises nothing",
                where=name,
                hint=f"leave {name} out, or draw with an Orthus",
            )


ASKED = {"preset", *Sampling._fields}


def sampling_asked(recipe: Recipe) -> dict[str, Any]:
    """Its keys as `sampling_of` takes them; None is not asked."""
    names = [field.name for field in dataclasses.fields(recipe)]
    return {name: getattr(recipe, name) for name in names if name in ASKED}


def answer_settings(text: TextSampling) -> SamplingParams:
    """What an answer in words alone asks of the sampler."""
    return SamplingParams(
        max_images=0,
        max_text=text.max_new_tokens,
        temperature=text.temperature,
        top_p=text.top_p,
    )
