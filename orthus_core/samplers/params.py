"""What is sampled, and how: the parameters of a run, resolved once from a recipe, a preset and the
model's own defaults.

    params = SamplingParams.from_recipe(model.config, recipe)
    params = SamplingParams.resolve(model.config, "edit", steps=20)

Early patches settle what the image shows, and late ones are nearly determined by what is there, so
they need fewer steps (DiSA, 2505.20297): a preset's steps fall in a straight line from an image's
first patch to its last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast, get_args

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.config import DiscreteConfig, InterleavedConfig, OrthusConfig
from orthus_core.recipe import CaptionRecipe, EditRecipe, GenerateRecipe, StoryRecipe
from orthus_core.recipe.drawing import DrawingRecipe, GuidanceSchedule
from orthus_core.recipe.solver_registry import SOLVERS

Task = Literal["picture", "edit", "story"]

# The release guides interleaved writing more gently, and away from other words.
STORY_GUIDANCE = 3.0
STORY_UNCONDITIONAL_PROMPT = "generate images"
# Stories sample their words, so that another seed tells another story; the release does not say how
# it chooses them. Among the likeliest tokens, because a rare one leads the panels after it astray.
STORY_TEMPERATURE = 0.8
STORY_TOP_P = 0.9

# What results record, in their order: of every model, and of each kind of model.
RECORDED = ("steps", "guidance", "image_guidance", "noise_scale", "negative_prompt")
DENOISING = ("preset", "scheduler", "step_tolerance")
CODE_SAMPLING = ("code_top_k", "code_top_p")
# And these where they are set, by a recipe or by the model.
IF_SET = ("time_grid", "patch_norm", "guidance_interval", "guidance_schedule")
# What stories record besides: how their text is chosen.
STORY_TEXT = ("temperature", "top_p")


@dataclass(frozen=True)
class SamplingParams:
    """How every sequence of a batch is sampled.

    Attributes:
        max_images: Images a sequence may draw; 0 is text only.
        min_images: Images a sequence must draw; where the model would end or write more text, one
            is begun for it.
        max_text: Total text tokens a sequence may write; 0 means images only.
        text_before_image: Text tokens after which a required image is begun; None waits for the
            model.
        end_with_image: The sequence ends with its last image instead of continuing with text.
        steps: Denoising steps of an image's first patch; a discrete Chameleon takes one.
        last_steps: Denoising steps of an image's last patch; in between they fall in a straight
            line. None takes `steps` for all patches.
        scheduler: The solver's name (see `solver_for`).
        time_grid: Timesteps that the solver steps over, a grid for each number of steps (see
            `grid_of_steps`). None takes the solver's own, and so does (), which is recorded, as it
            may differ from the model's own.
        step_tolerance: A patch stops before its last step when its estimate would change by less
            than this share of its size; 0 takes all steps.
        noise_scale: Factor on the noise each patch starts from: 1 as in training, less is calmer.
            For a discrete Chameleon it is the temperature (see `choose_codes`).
        patch_norm: Smallest and largest norm of a drawn feature, in feature units; one outside is
            scaled to the nearer (SphereAR, 2509.24335, blames drifting scales). None leaves all as
            they are, and so does (), which is recorded, as it may differ from the model's own.
        code_top_k, code_top_p: Limits on the codes of a discrete Chameleon; 0 and 1 leave all codes
            in.
        temperature, top_k, top_p: How text tokens are chosen; temperature 0 is greedy, top_k 0 and
            top_p 1 leave all tokens in.
        guidance: Guidance weight of the text; 1 means no guidance. Prompts are built with it, and
            with the next two.
        image_guidance: Guidance weight of the edited image; 1 means no guidance.
        guidance_interval: Lowest and highest timestep at which guidance acts; at others the whole
            prompt's prediction is taken as it is, and the others are not computed (2404.07724, in
            noise levels sigma there). None is all timesteps, and so is (), which is recorded, as it
            may differ from the model's own.
        guidance_schedule: How guidance runs along an image: "linear" gives patch i of N, counted
            from 1, the share i / N of it, so 1 + (s - 1) i / N in place of each weight s;
            "constant" and None give all of it to every patch.
        negative_prompt: Text that guidance leads away from.
        preset: The preset that `steps`, `last_steps` and `scheduler` came from; None for a model
            that denoises nothing: a discrete Chameleon, or an Orthus with a regression head.
        regresses: Whether features are regressed, so that what chooses noise, steps or codes has no
            effect.

    Raises:
        PromptError: When a number is invalid.
    """

    max_images: int = 1
    min_images: int = 0
    max_text: int = 0
    text_before_image: int | None = None
    end_with_image: bool = False
    steps: int = 100
    last_steps: int | None = None
    scheduler: str = "ddim"
    time_grid: tuple[int, ...] | None = None
    step_tolerance: float = 0.0
    noise_scale: float = 1.0
    patch_norm: tuple[float, ...] | None = None
    code_top_k: int = 0
    code_top_p: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    image_guidance: float = 1.0
    guidance_interval: tuple[int, ...] | None = None
    guidance_schedule: str | None = None
    negative_prompt: str = ""
    preset: str | None = "exact"
    regresses: bool = False

    def __post_init__(self) -> None:
        rules = {
            "steps": self.steps >= 1,
            "max_images": self.max_images >= 0,
            "min_images": 0 <= self.min_images <= self.max_images,
            "max_text": self.max_text >= 0,
            "text_before_image": self.text_before_image is None or self.text_before_image >= 0,
            "last_steps": self.last_steps is None or 1 <= self.last_steps <= self.steps,
            "step_tolerance": 0 <= self.step_tolerance < 1,
            "noise_scale": 0 <= self.noise_scale < math.inf,
            "patch_norm": not self.patch_norm
            or (len(self.patch_norm) == 2 and 0 < self.patch_norm[0] <= self.patch_norm[1]),
            "guidance_interval": not self.guidance_interval
            or (
                len(self.guidance_interval) == 2
                and 0 <= self.guidance_interval[0] <= self.guidance_interval[1]
            ),
            "guidance_schedule": self.guidance_schedule in (None, *GUIDANCE_SCHEDULES),
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
        """Images that must be drawn whatever the model chooses; without text, all of them."""
        return self.min_images if self.max_text else self.max_images

    @classmethod
    def from_recipe(cls, config: InterleavedConfig, recipe: DrawingRecipe) -> SamplingParams:
        """The parameters that a drawing recipe requests; those of a caption write text only.

        Raises:
            As `resolve`.
        """
        if isinstance(recipe, CaptionRecipe):
            return cls(
                max_images=0,
                max_text=recipe.text.max_new_tokens,
                temperature=recipe.text.temperature,
                top_p=recipe.text.top_p,
            )
        fields = {field.name for field in dataclasses.fields(cls)}
        asked = {key: value for key, value in vars(recipe).items() if key in fields}
        if isinstance(recipe, StoryRecipe):
            asked |= {"temperature": recipe.text.temperature, "top_p": recipe.text.top_p}
        return cls.resolve(config, TASKS[type(recipe)], **asked)

    @classmethod
    def resolve(
        cls, config: InterleavedConfig, task: Task = "picture", **asked: Any
    ) -> SamplingParams:
        """The requested values, and the model's own defaults for the rest.

        Args:
            config: Configuration whose `sampling_defaults` fill in missing values.
            task: Task to sample for. A model may have its own guidance for edits (`edit_guidance`)
                and first write what the image will show (`edit_max_text`), and its own guidance for
                interleaved text and images (`story_guidance`, `story_unconditional_prompt`), whose
                text it samples in its own way (`story_temperature`, `story_top_p`).
            asked: Requested fields of this class; None means not requested. A preset supplies the
                steps and the scheduler where these are not requested, and takes the model's own
                time grids for them (`time_grids`).

        Raises:
            PromptError: When the preset does not exist, a number is invalid, a model that denoises
                nothing is to take several steps for each patch or options for them, or one that is
                guided inside is to be guided in another way.
            CheckpointError: When one of the model's own values is invalid.
        """
        asked = {name: value for name, value in asked.items() if value is not None}
        values = _own_values(config, task)
        if getattr(config, "distilled_guidance", None) is not None:
            asked = _guided_inside(cast(OrthusConfig, config), task, values, asked)
        if not config.denoises:
            values["regresses"] = not isinstance(config, DiscreteConfig)
            _check_one_step({"steps": values["steps"]} | asked, regresses=values["regresses"])
            values = {name: value for name, value in values.items() if name not in DENOISING}
            values["preset"] = None
        else:
            preset = preset_named(asked.get("preset", "exact"))
            values["steps"] = preset.first_steps(values["steps"])
            # A head that was distilled for few steps is drawn with as it was made for.
            keeps_own = cast(OrthusConfig, config).flow_map_head
            of_preset = None if keeps_own else preset.scheduler
            values["scheduler"] = of_preset or _own_scheduler(values)
            values["last_steps"] = preset.last_steps(asked.get("steps", values["steps"]))
            if preset.takes_grid and "time_grid" not in asked:
                values["time_grid"] = _own_grid(cast(OrthusConfig, config), values | asked)
        if task == "edit":
            values |= _text_before_image(asked.get("max_text", values["max_text"]))
        return cls(**(values | asked))

    def to_dict(self) -> dict[str, Any]:
        """What results record: all values that this kind of model uses."""
        of_kind = CODE_SAMPLING if self.preset is None else DENOISING
        of_kind = () if self.regresses else of_kind
        for name in IF_SET:
            of_kind = (*of_kind, *((name,) if getattr(self, name) is not None else ()))
        before = ("max_text",) if self.text_before_image is not None else ()
        return {name: getattr(self, name) for name in (*RECORDED, *of_kind, *before)}


class Preset(NamedTuple):
    """What a preset changes in a model's own sampling.

    Attributes:
        steps: Most steps for the first patch of an image; None keeps the model's own number.
        last_share: Steps of the last patch, as a share of the first patch's steps.
        scheduler: Name of the solver (see `solver_for`); None keeps the model's own.
        takes_grid: Whether the solver steps over the model's time grid where there is one.
    """

    steps: int | None
    last_share: float
    scheduler: str | None
    takes_grid: bool

    def first_steps(self, own: int) -> int:
        """Steps of the first patch for a model that takes `own` by itself."""
        return own if self.steps is None else min(own, self.steps)

    def last_steps(self, first: int) -> int:
        """Steps of the last patch when the first takes `first`."""
        return max(1, round(first * self.last_share))


PRESETS = {
    "exact": Preset(None, 1.0, None, takes_grid=False),
    "fast": Preset(20, 0.5, "dpm++", takes_grid=True),
    "turbo": Preset(10, 0.5, "unipc", takes_grid=True),
}


def preset_named(name: str) -> Preset:
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


def step_counts(first: int, last: int, patches: int) -> list[int]:
    """The different numbers of steps that the patches of an image take, the least first."""
    return sorted({steps_at(first, last, patch, patches) for patch in range(patches)})


# What a time grid depends on: the timesteps' noise, and what the head predicts there.
SCHEDULE_FIELDS = (
    *("prediction", "num_train_timesteps", "beta_start", "beta_end", "beta_schedule"),
    "zero_terminal_snr",
)


def schedule_record(config: OrthusConfig) -> dict[str, Any]:
    """The noise schedule as it is stored beside time grids."""
    return {name: getattr(config, name) for name in SCHEDULE_FIELDS}


def _own_grid(config: OrthusConfig, values: dict[str, Any]) -> tuple[int, ...] | None:
    """The model's time grids for the solver and the steps of these values, as `grid_of_steps`
    reads them; None where the model has none of the solver, or not for all of the steps.

    Raises:
        CheckpointError: When they are of another noise schedule, or one is no grid.
    """
    solver = values["scheduler"]
    stored = (config.sampling or {}).get("time_grids", {}).get(solver)
    if stored is None:
        return None
    where = f"config.json: sampling.time_grids.{solver}"
    again = "find them anew with `orthus distill grid MODEL -o DIR`, or take the time_grids out"
    schedule = stored.get("schedule") if isinstance(stored, dict) else None
    grids = stored.get("times") if isinstance(stored, dict) else None
    if not isinstance(schedule, dict) or not isinstance(grids, dict):
        raise CheckpointError("a schedule or times are missing", where=where, hint=again)
    for name, own in schedule_record(config).items():
        if schedule.get(name) != own:
            raise CheckpointError(
                f"the time grids are of another noise schedule: {name} {schedule.get(name)!r} "
                f"there, {own!r} in this model",
                where=where,
                hint=again,
            )
    counts = step_counts(values["steps"], values["last_steps"], config.patches)
    if not {*map(str, counts)} <= {*grids}:
        return None
    for steps in counts:
        if wrong := _no_grid(grids[str(steps)], steps, config.num_train_timesteps):
            raise CheckpointError(wrong, where=f"{where}.times.{steps}", hint=again)
    return tuple(time for steps in counts for time in grids[str(steps)])


def _no_grid(times: Any, steps: int, timesteps: int) -> str | None:
    """What is wrong with a stored time grid, or None."""
    if not isinstance(times, list) or not all(type(time) is int for time in times):
        return f"a time grid is a list of timesteps, not {times!r}"
    if len(times) != steps:
        return f"a time grid of {len(times)} timesteps where {steps} steps are taken"
    if times[0] != timesteps - 1 or times[-1] < 0 or any(a <= b for a, b in pairwise(times)):
        return f"a time grid begins with {timesteps - 1} and falls, unlike {times!r}"
    return None


GUIDANCE_SCHEDULES = get_args(GuidanceSchedule)

TASKS: dict[type, Task] = {GenerateRecipe: "picture", EditRecipe: "edit", StoryRecipe: "story"}


def _own_values(config: InterleavedConfig, task: Task) -> dict[str, Any]:
    """The model's own defaults for a task, by the names of `SamplingParams`.

    Raises:
        CheckpointError: When one of them is invalid.
    """
    own = config.sampling or {}
    _check_own(own)
    defaults = config.sampling_defaults
    names = ("scheduler", "step_tolerance", *RECORDED, *CODE_SAMPLING)
    values = {name: defaults[name] for name in names if name in defaults}
    if own.get("patch_norm") and not isinstance(config, DiscreteConfig):
        values["patch_norm"] = tuple(own["patch_norm"])
    if own.get("guidance_interval") and config.denoises:
        values["guidance_interval"] = tuple(own["guidance_interval"])
    values["guidance_schedule"] = own.get("guidance_schedule")
    values["negative_prompt"] = defaults["unconditional_prompt"]
    if task == "edit":
        values["guidance"] = own.get("edit_guidance", values["guidance"])
        values["max_text"] = own.get("edit_max_text", 0)
    if task == "story":
        values["guidance"] = own.get("story_guidance", own.get("guidance", STORY_GUIDANCE))
        values["negative_prompt"] = own.get(
            "story_unconditional_prompt",
            own.get("unconditional_prompt", STORY_UNCONDITIONAL_PROMPT),
        )
        values["temperature"] = own.get("story_temperature", STORY_TEMPERATURE)
        values["top_p"] = own.get("story_top_p", STORY_TOP_P)
    return values


def _text_before_image(max_text: int) -> dict[str, Any]:
    """Parameters of one image, with up to `max_text` tokens before it."""
    writes = {"min_images": 1, "end_with_image": True} if max_text else {}
    return {"max_text": max_text, "text_before_image": max_text, **writes}


# Sampling defaults that a model's folder may set, and the type of each.
NUMBER = (int, float)
OWN: dict[str, type | tuple[type, ...]] = {
    "steps": int,
    "guidance": NUMBER,
    "edit_guidance": NUMBER,
    "edit_max_text": int,
    "story_guidance": NUMBER,
    "story_temperature": NUMBER,
    "story_top_p": NUMBER,
    "image_guidance": NUMBER,
    "noise_scale": NUMBER,
    "step_tolerance": NUMBER,
    "code_top_k": int,
    "code_top_p": NUMBER,
    "patch_norm": list,
    "guidance_interval": list,
    "guidance_schedule": str,
    "time_grids": dict,
    "scheduler": str,
    "unconditional_prompt": str,
    "story_unconditional_prompt": str,
}


def _check_own(sampling: dict[str, Any]) -> None:
    """Raises: CheckpointError for a text where a number belongs, and the like."""
    for name in (name for name in OWN if name in sampling):
        value, kind = sampling[name], OWN[name]
        holds = LIMITED[name].holds(value) if name in LIMITED else True
        if not (isinstance(value, kind) and holds) or isinstance(value, bool):
            wanted = {str: "a text", dict: "a table"}.get(kind, "a number")
            wanted = LIMITED[name].wanted if name in LIMITED else wanted
            raise CheckpointError(
                f"the model names {value!r} as its {name}",
                where=f"config.json: sampling.{name}",
                hint=f"set it to {wanted}, or leave it out",
            )


def _are_two_numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, NUMBER) and not isinstance(each, bool) for each in value)
    )


def _are_two_timesteps(value: Any) -> bool:
    return (
        _are_two_numbers(value)
        and all(isinstance(each, int) for each in value)
        and 0 <= value[0] <= value[1]
    )


class Limit(NamedTuple):
    """What a sampling default must be, besides of its type.

    Attributes:
        holds: Whether a value is so.
        wanted: Its description.
    """

    holds: Callable[[Any], bool]
    wanted: str


LIMITED = {
    "patch_norm": Limit(_are_two_numbers, "two numbers, as in [7.5, 12]"),
    "guidance_interval": Limit(
        _are_two_timesteps, "two timesteps, the lower first, as in [200, 800]"
    ),
    "guidance_schedule": Limit(
        lambda value: value in GUIDANCE_SCHEDULES, " or ".join(GUIDANCE_SCHEDULES)
    ),
}


def _own_scheduler(values: dict[str, Any]) -> str:
    """The scheduler that a model's folder names. The folder may be untrusted, so only ours are
    allowed.

    Raises:
        CheckpointError: When it is not.
    """
    name = values.get("scheduler", "ddim")
    if name not in SOLVERS:
        raise CheckpointError(
            f"the model names a scheduler that is not ours: {name}",
            where="config.json: sampling.scheduler",
            hint=f"set it to one of {', '.join(SOLVERS)}; others can be named with --scheduler",
        )
    return name


# What guidance is asked for with, in the order in which it is refused.
GUIDING = (
    *("guidance", "image_guidance", "guidance_interval", "guidance_schedule"),
    "negative_prompt",
)
UNCHANGING = (None, 1, (), [], "constant")
"""Values of these that change nothing in one stream."""


def _guided_inside(
    config: OrthusConfig, task: Task, own: dict[str, Any], asked: dict[str, Any]
) -> dict[str, Any]:
    """What is asked of a model that is guided inside, with its own guidance as 1: it draws that in
    one stream.

    Raises:
        PromptError: For another guidance, or other words to lead away from.
    """
    learnt = cast(float, config.distilled_guidance)
    if task != "edit" and asked.get("guidance") == learnt:
        asked = asked | {"guidance": 1.0}
    for name in GUIDING:
        if asked.get(name) not in (*UNCHANGING, own.get(name)):
            raise PromptError(
                f"{name.replace('_', ' ')} {asked[name]!r}, and this model draws guidance "
                f"{learnt:g} by itself, in one stream: there is none beside it to lead away from",
                where=name,
                hint=f"leave {name} out, or draw with the model that it was distilled from",
            )
    return asked


def _check_one_step(values: dict[str, Any], *, regresses: bool) -> None:
    """Raises: PromptError for options of denoising that a model which denoises nothing is given."""
    kind, does, able = "a discrete Chameleon", "chooses each code", "an Orthus"
    if regresses:
        kind, does = "a regression head", "predicts each feature"
        able = "a model with a diffusion head"
    if values["steps"] != 1:
        raise PromptError(
            f"{values['steps']} steps a patch, and {kind} {does} in one",
            where="steps",
            hint=f"leave steps out, or draw with {able}",
        )
    # A regression head's features can be renormalised; a code has its own norm. Both have no time
    # that guidance could be limited to, and it may rise along the patches of both.
    of_one = () if regresses else ("patch_norm",)
    for name in (*DENOISING, "time_grid", "guidance_interval", *of_one):
        if values.get(name) is not None:
            raise PromptError(
                f"{name} {values[name]}, and {kind} denoises nothing",
                where=name,
                hint=f"leave {name} out, or draw with {able}",
            )
    if regresses and values.get("noise_scale", 1) != 1:
        raise PromptError(
            f"noise_scale {values['noise_scale']}, and {kind} starts from no noise",
            where="noise_scale",
            hint=f"leave noise_scale out, or draw with {able}",
        )
