"""From text and images to prompts: the layouts that a trained model knows.

    text to image   <s> text SEP                 against  <s> unconditional SEP
    edit            <s> images instruction SEP   against  <s> images SEP, <s> unconditional SEP
    by example      <s> before after image SEP   against  <s> image SEP, <s> unconditional SEP
    story           <s> images and text SEP      against  <s> unconditional SEP
    question        <s> image question SEP

An example is to an edit what words are: guidance leads towards it, image guidance towards the image
as it is (in-context editing, 2412.00127, fig. 3).

Legend: M images, P patches, C feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.data.document import Document, turn
from orthus_core.data.encode import TokenIds, encode
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import pack_pixels
from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Guidance, Prompt, without_idle_branches


class PromptBuilder:
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

    def picture(self, text: str, params: SamplingParams) -> Prompt:
        """A picture of what the text says. Raises: PromptError when there is no text."""
        self._check_text(text, "the prompt")
        guidance = Guidance.text(params.guidance)
        return without_idle_branches(
            Prompt(
                self.context(text),
                guidance=guidance,
                negatives=(self.context(params.negative_prompt),),
            )
        )

    def edit(self, pictures: Sequence[Picture], instruction: str, params: SamplingParams) -> Prompt:
        """The pictures changed as the instruction says.

        Raises:
            PromptError: When there is no instruction, or no picture.
            DataError: When a picture does not read.
        """
        self._check_text(instruction, "the instruction")
        if not pictures:
            raise PromptError("there is no picture to edit", where="edit")
        seen = self.context(*pictures)
        return without_idle_branches(
            Prompt(
                self.context(*pictures, instruction, features_MPC=seen.features_MPC),
                guidance=Guidance.edit(params.guidance, params.image_guidance),
                negatives=(seen, self.context(params.negative_prompt)),
            )
        )

    def story(self, opening: Sequence[str | Picture], params: SamplingParams) -> Prompt:
        """Texts and pictures that go on from an opening.

        Raises:
            PromptError: When there is nothing to go on from.
            DataError: When a picture does not read.
        """
        if not opening:
            raise PromptError(
                "a story needs something to go on from", where="story", hint="give --image or text"
            )
        return without_idle_branches(
            Prompt(
                self.context(*opening),
                guidance=Guidance.text(params.guidance),
                negatives=(self.context(params.negative_prompt),),
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
        document = Document(turn("user", *parts))
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


def by_example(
    builder: PromptBuilder,
    before: Picture,
    after: Picture,
    pictures: Sequence[Picture],
    params: SamplingParams,
) -> Prompt:
    """The pictures changed as the example was.

    Raises:
        PromptError: When there is no picture to change.
        DataError: When a picture does not read.
    """
    if not pictures:
        raise PromptError(
            "there is no picture to change as the example was",
            where="edit",
            hint="orthus edit PICTURE --example BEFORE AFTER",
        )
    return without_idle_branches(
        Prompt(
            builder.context(before, after, *pictures),
            guidance=Guidance.edit(params.guidance, params.image_guidance),
            negatives=(builder.context(*pictures), builder.context(params.negative_prompt)),
        )
    )
