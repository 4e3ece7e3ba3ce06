"""From text and images to prompts: the layouts that a trained model knows.

    text to image   <s> text SEP                 against  <s> unconditional SEP
    edit            <s> images instruction SEP   against  <s> images SEP, <s> unconditional SEP
    by example      <s> before after image SEP   against  <s> image SEP, <s> unconditional SEP
    story           <s> images and text SEP      against  <s> unconditional SEP
    question        <s> image question SEP
    conversation    <s> question SEP answer </s> question SEP

An example plays the role of an edit's instruction: guidance leads towards it, image guidance
towards the image as it is (in-context editing, 2412.00127, fig. 3).

Legend: M images, P patches, C feature channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.data.document import Document, Segment, turn
from orthus_core.data.encode import EncodedRow, TokenIds, encode
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import pack_pixels
from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Guidance, Prompt, without_idle_branches


class PromptBuilder:
    """Makes prompts for one model.

    Args:
        model: Model that encodes the pictures.
        tokenizer: Tokenizer of that model.
        read: Puts words that the model knows in the place of others, such as emoji.

    Raises:
        CheckpointError: When there is no tokenizer.
    """

    def __init__(
        self,
        model: InterleavedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        read: Callable[[str], str] | None = None,
    ) -> None:
        if tokenizer is None:
            raise CheckpointError(
                "this model folder has no tokenizer, so it understands no words",
                where="tokenizer.json",
                hint="copy the tokenizer and preprocessor files of the model it came from",
            )
        self.model, self.tokenizer = model, tokenizer
        self.read = read or (lambda text: text)
        self._ids = TokenIds.of(model.config)  # type: ignore[arg-type]

    def picture(self, text: str, params: SamplingParams) -> Prompt:
        """The prompt for a picture of the text.

        Raises:
            PromptError: When there is no text.
        """
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
        """The prompt for the pictures changed as the instruction says.

        Raises:
            PromptError: When there is no instruction, or no picture.
            DataError: When a picture cannot be read.
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
        """The prompt for texts and pictures that continue an opening.

        Raises:
            PromptError: When the opening is empty.
            DataError: When a picture cannot be read.
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
        """The prompt for a question about a picture.

        Raises:
            PromptError: When the question is empty.
            DataError: When the picture cannot be read.
        """
        self._check_text(question, "the question")
        return Prompt(self.context(picture, question))

    def conversation(
        self, segments: Sequence[Segment], params: SamplingParams | None = None
    ) -> Prompt:
        """The prompt for an answer to a conversation, whose last turn is the user's.

        Args:
            segments: Texts and pictures of both sides, in order.
            params: Guidance of the pictures in the answer; None for words alone.

        Raises:
            DataError: When there is no segment, or a picture cannot be read.
        """
        row = self._encoded(Document(tuple(segments)))
        features_MPC = self.features(row.pictures) if row.pictures else None
        context = Context(tuple(row.ids), features_MPC)
        if params is None:
            return Prompt(context)
        return without_idle_branches(
            Prompt(
                context,
                guidance=Guidance.text(params.guidance),
                negatives=(self.context(params.negative_prompt),),
            )
        )

    def context(self, *parts: str | Picture, features_MPC: Tensor | None = None) -> Context:
        """A context of the user's texts and pictures, up to SEP.

        Args:
            parts: Texts and pictures, in order.
            features_MPC: Features of the pictures when they are known already.
        """
        row = self._encoded(Document(turn("user", *parts)))
        if features_MPC is None and row.pictures:
            features_MPC = self.features(row.pictures)
        return Context(tuple(row.ids), features_MPC)

    def length(self, *parts: str | Picture) -> int:
        """Number of tokens of the context of these texts and pictures; no picture is opened."""
        return len(self._encoded(Document(turn("user", *parts))).ids)

    def _encoded(self, document: Document) -> EncodedRow:
        read = tuple(
            replace(each, value=self.read(each.value)) if isinstance(each.value, str) else each
            for each in document.segments
        )
        document = replace(document, segments=read)
        return encode(document, self.tokenizer, self._ids, self.model.config.patches)

    @torch.no_grad()
    def features(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures as the model reads them, all in one pass: fp32 [M, P, C].

        Raises:
            DataError: When a picture cannot be read.
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
    """The prompt for pictures changed in the way that the example shows.

    Raises:
        PromptError: When there is no picture to change.
        DataError: When a picture cannot be read.
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
