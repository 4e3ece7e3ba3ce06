"""One row of a batch on its way: where it stands and what it may do next. Rules only, no
arithmetic.

[BOI] opens a picture, n patches fill it, [EOI] is appended, and text goes on. A picture is opened
only when one is wanted and fits the context; when one is owed and the model does not open it, the
row does, at the latest where it just fits.
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
from orthus_core.samplers.prompt import Branch, Context, Prompt, room_for_image
from orthus_core.samplers.text import text_generator


class Phase(Enum):
    """What a row does in the present step."""

    WRITE = auto()  # chooses a text token
    OPEN = auto()  # says [BOI]: a picture begins
    DRAW = auto()  # draws a patch
    CLOSE = auto()  # says [EOI]: the picture is over
    NONE = auto()  # it has ended


def ends(config: InterleavedConfig) -> tuple[int | None, ...]:
    """Tokens that end a row's text: [EOS], of which a configuration may name several, and SEP."""
    eos = config.eos_token_id
    return (*eos, config.sep_token_id) if isinstance(eos, list) else (eos, config.sep_token_id)


class SequenceState:
    """A prompt and all that came after it.

    Args:
        number, prompt, params, config: Whose row it is, and what it may do.
        patch_sampler: Draws its patches; None if it may not draw.

    number: Its place among the prompts, as events name it.
    ids: All its tokens so far, `<image>` for each patch; the backbone has not read the last.
    turn: What it does next.
    images: Pictures it finished.
    patches: Features [C] of the picture being drawn, or of the one finished last.
    undeveloped: A picture that is full and has not been handed on to become pixels, [P, C].
    ended: Why it is over, as `RowDone` says it; empty while it is not.
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
        self._earlier: list[Tensor] = []  # patches of the pictures before
        self._noise_at_hand: Tensor | None = None
        self.ended = ""
        self.phase = self._after_text()
        if prompt.begun is not None:
            self._go_on_with(prompt.begun)

    @property
    def may_begin_image(self) -> bool:
        """Whether one more picture is wanted and [BOI], its patches and [EOI] fit the context."""
        return self.images < self._params.max_images and self._image_fits

    @property
    def picture_is_full(self) -> bool:
        return len(self.patches) == self._config.patches

    @property
    def newest(self) -> int | Tensor:
        """Its last token, or the feature [C] drawn in its place."""
        return self.patches[-1] if self.ids[-1] == self._config.image_token_id else self.ids[-1]

    @property
    def branches(self) -> list[Branch]:
        """All that its next steps build on, its own sequence first, then those it is guided
        against.

        For a row that has begun these are longer than its prompt's: so it can leave its place and
        go on later, in another batch, from where it stands.
        """
        own = self.prompt.context
        drawn = (*self._earlier, *self.patches)
        # Since [BOI], what it is guided against has read what the row itself has.
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

    def next_noise(self) -> Tensor:
        """The noise of its next patch, the same until that is drawn.

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
        """Takes the token chosen in a WRITE turn: a word, the end, or a picture's beginning."""
        if token == self._config.boi_token_id:
            return self.open()
        if token in ends(self._config):
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
        """Says [BOI], in an OPEN turn or by the model's own choice."""
        return [self._begin_image(forced=self.phase is Phase.OPEN and self._text_since_image > 0)]

    def _begin_image(self, *, forced: bool, ending: bool = False) -> ImageBegun:
        self._read_next(self._config.boi_token_id)
        self._earlier += self.patches
        self.patches = []
        self.phase = Phase.DRAW
        return ImageBegun(self.number, self.images, forced, ending)

    def draw(self, feature_C: Tensor) -> list[Event]:
        """Takes the patch drawn in a DRAW turn."""
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
        """Says [EOI], in a CLOSE turn."""
        self._read_next(self._config.eoi_token_id)
        self.phase = self._after_text()
        return []

    def _go_on_with(self, features_NC: Tensor) -> None:
        """Stands in a picture whose first patches are there. Their noise is passed over, so that
        the row's seed means for the rest what it would have meant.
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
        """Where a row goes on that is not in the midst of a picture."""
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
        """Tokens that may still be written if a picture is to fit behind them."""
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
