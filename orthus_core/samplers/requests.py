"""From words and pictures to prompts: the layouts a trained model knows, and its own sampling.

    text to image   <s> text SEP                 against  <s> unconditional SEP
    edit            <s> images instruction SEP   against  <s> images SEP, <s> unconditional SEP
    story           <s> images and text SEP      against  <s> unconditional SEP
    question        <s> image question SEP

Legend: M images, P patches, C feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.data.document import Document, says
from orthus_core.data.encode import TokenIds, encode
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import pack_pixels
from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.config import DiscreteConfig, InterleavedConfig
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.guidance import Guidance
from orthus_core.samplers.presets import preset_of
from orthus_core.samplers.prompt import Context, Prompt, without_idle_streams
from orthus_core.samplers.settings import Settings
from orthus_core.samplers.solvers import SOLVERS

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

    def settings(self, **asked: Any) -> Settings:
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
        return Settings(**(shared | asked))


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


class Asking:
    """Makes prompts for one model.

    Args:
        model: Encodes the pictures.
        tokenizer: Of that model.

    Raises:
        CheckpointError: When there is no tokenizer.
    """

    def __init__(self, model: InterleavedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
        if tokenizer is None:
            raise CheckpointError(
                "this model folder has no tokenizer, so it understands no words",
                where="tokenizer.json",
                hint="copy the tokenizer and preprocessor files of the model it came from",
            )
        self.model, self.tokenizer = model, tokenizer
        self._ids = TokenIds.of(model.config)  # type: ignore[arg-type]

    def picture(self, text: str, sampling: Sampling) -> Prompt:
        """A picture of what the text says. Raises: PromptError when there is no text."""
        self._check_text(text, "the prompt")
        guidance = Guidance.text(sampling.guidance)
        return without_idle_streams(
            Prompt(
                self.context(text),
                guidance=guidance,
                against=(self.context(sampling.negative_prompt),),
            )
        )

    def edit(self, pictures: Sequence[Picture], instruction: str, sampling: Sampling) -> Prompt:
        """The pictures changed as the instruction says.

        Raises:
            PromptError: When there is no instruction, or no picture.
            DataError: When a picture does not read.
        """
        self._check_text(instruction, "the instruction")
        if not pictures:
            raise PromptError("there is no picture to edit", where="edit")
        seen = self.context(*pictures)
        return without_idle_streams(
            Prompt(
                self.context(*pictures, instruction, features_MPC=seen.features_MPC),
                guidance=Guidance.edit(sampling.guidance, sampling.image_guidance),
                against=(seen, self.context(sampling.negative_prompt)),
            )
        )

    def story(self, opening: Sequence[str | Picture], sampling: Sampling) -> Prompt:
        """Texts and pictures that go on from an opening.

        Raises:
            PromptError: When there is nothing to go on from.
            DataError: When a picture does not read.
        """
        if not opening:
            raise PromptError(
                "a story needs something to go on from", where="story", hint="give --image or text"
            )
        return without_idle_streams(
            Prompt(
                self.context(*opening),
                guidance=Guidance.text(sampling.guidance),
                against=(self.context(sampling.negative_prompt),),
            )
        )

    def question(self, picture: Picture, question: str) -> Prompt:
        """Words about a picture.

        Raises:
            PromptError: When nothing is asked.
            DataError: When the picture does not read.
        """
        self._check_text(question, "the question")
        return Prompt(self.context(picture, question))

    def context(self, *parts: str | Picture, features_MPC: Tensor | None = None) -> Context:
        """Texts and pictures of the user, up to SEP.

        Args:
            parts: In order.
            features_MPC: Features of the pictures when they are known already.
        """
        document = Document(says("user", *parts))
        row = encode(document, self.tokenizer, self._ids, self.model.config.patches)
        if features_MPC is None and row.pictures:
            features_MPC = self.features(row.pictures)
        return Context(tuple(row.ids), features_MPC)

    @torch.no_grad()
    def features(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures as the model reads them, all in one pass: fp32 [M, P, C].

        Raises: DataError when a picture does not read.
        """
        model = self.model
        size = model.model.vqmodel.config.resolution
        pixels_M3HW = pack_pixels([picture.load(size) for picture in pictures])
        encoder = next(model.model.vqmodel.parameters())
        return model.encode_images(pixels_M3HW.to(encoder.device, encoder.dtype)).float()

    def _check_text(self, text: str, what: str) -> None:
        if not text.strip():
            raise PromptError(f"{what} is empty", where="prompt", hint="say what you want to see")
