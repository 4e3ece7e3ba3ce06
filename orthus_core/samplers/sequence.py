"""The state of one sequence, and the rules for what it does next; no arithmetic.

[BOI] begins an image, P patches follow, [EOI] is appended, and text continues. An image begins only
if another one is allowed and fits the context. If an image is required and the model does not begin
it, it is begun for the model, at the latest where it still just fits.

Legend: P patches, C feature channels.
"""

from __future__ import annotations

from enum import Enum, auto

import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.events import Event, ImageBegun, PatchDone, TextPiece
from orthus_core.model.config import InterleavedConfig
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import PatchSampler
from orthus_core.samplers.prompt import Branch, Context, Guidance, Prompt, room_for_image
from orthus_core.samplers.text import text_generator


class Phase(Enum):
    """What a sequence does in the present step."""

    WRITE = auto()  # chooses a text token
    OPEN = auto()  # appends [BOI]: an image begins
    DRAW = auto()  # draws a patch
    CLOSE = auto()  # appends [EOI]: the image is complete
    NONE = auto()  # nothing: the sequence has ended


class SequenceState:
    """A prompt and all that the model has added to it.

    Args:
        number: Index of the prompt; events carry it.
        prompt: Prompt to continue.
        params: Amount of text and number of images.
        config: Configuration of the model.
        patch_sampler: Draws the patches; None if the sequence may not draw.

    Attributes:
        number, prompt: As given.
        text_random: Generator for sampled text; None for greedy text.
        ids: All tokens so far, `<image>` for each patch; the backbone has not read the last one.
        images: Number of finished images.
        patches: Features [C] of the image being drawn, or of the one finished last.
        undecoded: Features [P, C] of a finished image that the decoder has not received yet.
        phase: What the sequence does next.
        ended: Reason for the end, as in `RowDone`; empty before the end.
    """

    def __init__(
        self,
        number: int,
        prompt: Prompt,
        params: SamplingParams,
        config: InterleavedConfig,
        patch_sampler: PatchSampler | None = None,
    ) -> None:
        self.number, self.prompt = number, prompt
        self._params, self._config = params, config
        self._noise = prompt.noise or (
            patch_sampler.noise(prompt.seed) if patch_sampler else iter(())
        )
        self.text_random = text_generator(prompt.seed) if params.temperature else None
        self.ids = list(prompt.context.ids)
        self.images = self._text = self._text_since_image = 0
        self.patches: list[Tensor] = []
        self.undecoded: Tensor | None = None
        self._earlier: list[Tensor] = []  # patches of earlier images
        self._noise_at_hand: Tensor | None = None
        self.ended = ""
        self.phase = self._after_text()
        if prompt.begun is not None:
            self._go_on_with(prompt.begun)

    @property
    def may_begin_image(self) -> bool:
        """Whether another image is allowed, and [BOI], its patches and [EOI] fit the context."""
        return self.images < self._params.max_images and self._image_fits

    @property
    def picture_is_full(self) -> bool:
        return len(self.patches) == self._config.patches

    @property
    def newest(self) -> int | Tensor:
        """The last token, or the feature [C] of the last patch."""
        return self.patches[-1] if self.ids[-1] == self._config.image_token_id else self.ids[-1]

    @property
    def branches(self) -> list[Branch]:
        """The guidance branches of the sequence so far, its own first.

        They hold all that the next steps depend on. So a sequence can leave its batch and continue
        later, in another one, from where it is.
        """
        own = self.prompt.context
        drawn = (*self._earlier, *self.patches)
        # From [BOI] on, the other branches have read the same as the sequence's own.
        in_picture = self.ids[-1 - len(self.patches) :] if self.phase is Phase.DRAW else []
        patches = self.patches if in_picture else []
        return [
            Branch(tuple(self.ids), (*_features(own), *drawn), longest=self._longest),
            *(
                Branch(
                    (*context.ids, *in_picture),
                    (*_features(context), *patches),
                    anew=len(context.ids),
                    longest=len(context.ids) + room_for_image(self._config),
                )
                for context in self.prompt.negatives
            ),
        ]

    @property
    def _longest(self) -> int:
        text = self._params.max_text - self._text
        pictures = self._params.max_images - self.images
        more = text + pictures * room_for_image(self._config)
        return min(len(self.ids) + more, self._config.max_position_embeddings)

    @property
    def guidance(self) -> Guidance:
        """The guidance of the next patch."""
        if self._params.guidance_schedule != "linear":
            return self.prompt.guidance
        return self.prompt.guidance.weakened((len(self.patches) + 1) / self._config.patches)

    def next_noise(self) -> Tensor:
        """The noise of the next patch; it stays the same until that patch is drawn.

        Raises: PromptError when the prompt's own noise is used up.
        """
        if self._noise_at_hand is None:
            self._noise_at_hand = self._take_noise()
        return self._noise_at_hand

    def _take_noise(self) -> Tensor:
        noise_X = next(self._noise, None)
        if noise_X is None:
            raise PromptError(
                f"the prompt's noise is used up after {len(self.patches)} patches of picture "
                f"{self.images + 1}",
                where="prompt.noise",
                hint="give one for each patch, or none to draw it from the seed",
            )
        return noise_X

    def say(self, token: int) -> list[Event]:
        """Adds the token chosen in phase WRITE: text, the end, or the beginning of an image."""
        if token == self._config.boi_token_id:
            return self.open()
        if token in self._config.end_token_ids:
            if self._owes_image and self._image_fits:
                return [self._begin_image(forced=True, ending=True)]
            self.phase = self._end("end")
            return []
        self._read_next(token)
        self._text += 1
        self._text_since_image += 1
        self.phase = self._after_text()
        return [TextPiece(self.number, "", (token,))]

    def open(self) -> list[Event]:
        """Appends [BOI], in phase OPEN or because the model chose it."""
        return [self._begin_image(forced=self.phase is Phase.OPEN and self._text_since_image > 0)]

    def _begin_image(self, *, forced: bool, ending: bool = False) -> ImageBegun:
        self._read_next(self._config.boi_token_id)
        self._earlier += self.patches
        self.patches = []
        self.phase = Phase.DRAW
        return ImageBegun(self.number, self.images, forced, ending)

    def draw(self, feature_C: Tensor) -> list[Event]:
        """Adds the patch drawn in phase DRAW."""
        self._read_next(self._config.image_token_id)
        self.patches.append(feature_C)
        self._noise_at_hand = None
        if self.picture_is_full:
            self.undecoded = torch.stack(self.patches)
            self.images += 1
            self._text_since_image = 0
            self.phase = self._end("images") if self._was_last_image else Phase.CLOSE
        number = self.images - 1 if self.picture_is_full else self.images
        total = self._config.patches
        return [PatchDone(self.number, number, len(self.patches), total, feature_C)]

    def close(self) -> list[Event]:
        """Appends [EOI], in phase CLOSE."""
        self._read_next(self._config.eoi_token_id)
        self.phase = self._after_text()
        return []

    def cancel(self) -> None:
        """Ends the sequence where it is."""
        self.phase = self._end("cancelled")

    def _go_on_with(self, features_NC: Tensor) -> None:
        """Begins an image with these patches.

        Their noise is skipped, so that the seed gives the remaining patches the same noise as when
        all patches are drawn.
        """
        self._read_next(self._config.boi_token_id)
        for feature_C in features_NC:
            self._take_noise()
            self._read_next(self._config.image_token_id)
            self.patches.append(feature_C)
        self.phase = Phase.DRAW

    def _read_next(self, token: int | None) -> None:
        assert token is not None, "a configuration without [BOI] or [EOI] draws no pictures"
        self.ids.append(token)

    def _after_text(self) -> Phase:
        """The next phase of a sequence that is not inside an image."""
        params = self._params
        if self._owes_image and self._waited_enough:
            return Phase.OPEN if self._image_fits else self._end("context")
        if self._text >= params.max_text:
            return self._end("length")
        if len(self.ids) >= self._config.max_position_embeddings:
            return self._end("context")
        return Phase.WRITE

    def _end(self, reason: str) -> Phase:
        self.ended = reason
        return Phase.NONE

    @property
    def _image_fits(self) -> bool:
        return self._room_beside_image >= 0

    @property
    def _room_beside_image(self) -> int:
        """Number of tokens that can be written so that an image still fits after them."""
        longest = max(len(self.ids), *(len(context.ids) for context in self.prompt.contexts))
        return self._config.max_position_embeddings - longest - room_for_image(self._config)

    @property
    def _owes_image(self) -> bool:
        return self.images < self._params.owed_images

    @property
    def _waited_enough(self) -> bool:
        params = self._params
        limit = params.text_before_image
        enough = limit is not None and self._text_since_image >= limit
        return enough or self._text >= params.max_text or self._room_beside_image == 0

    @property
    def _was_last_image(self) -> bool:
        params = self._params
        no_text = self._text >= params.max_text
        return self.images == params.max_images and (params.end_with_image or no_text)


def _features(context: Context) -> tuple[Tensor, ...]:
    return () if context.features_MPC is None else (context.features_MPC,)
