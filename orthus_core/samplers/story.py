"""Stories of any length, panel by panel: each continues the opening and the latest panels.

    for event in tell(builder, opening, params, StoryPlan(panels=12), seed=1): ...

A panel is a sequence of its own. Its context is assembled anew: the opening and as many of the
latest panels as fit. No panel needs more than that context and its own seed, so a story can be
rewound to any panel and continued from there. A logits processor holds the rules for a panel's
text: words come first, and an image comes before the text is too long.

Legend: M images, P patches, C feature channels, H height, W width, S tokens of one sequence, V
vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from orthus_core.data.pictures import Picture
from orthus_core.data.tokenizer import text_ids
from orthus_core.errors import PromptError
from orthus_core.events import Event, ImageBegun, ImageDone, Note, PatchDone, RowDone, TextPiece
from orthus_core.model.config import InterleavedConfig
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Prompt, room_for_image
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.seeds import GENERATOR_SEEDS
from orthus_core.samplers.sequence import ends
from orthus_core.samplers.text import with_words


class PanelContext(NamedTuple):
    """A panel as the model reads it again.

    Attributes:
        ids: Token ids of the panel's words.
        features_PC: Features of the panel's picture; None where it has none.
    """

    ids: tuple[int, ...]
    features_PC: Tensor | None = None


class ContextWindow(NamedTuple):
    """A context to continue, and the number of panels that it still holds."""

    context: Context
    kept: int


def longest_text(config: InterleavedConfig, opening: Context, wanted: int) -> int:
    """Text tokens that a panel may have, so that its picture fits behind the opening.

    Raises:
        PromptError: When the opening leaves no room for a word and a picture.
    """
    room = config.max_position_embeddings - len(opening.ids) - room_for_image(config)
    if room < 1:
        raise PromptError(
            f"the opening is {len(opening.ids)} tokens long, a panel takes at least "
            f"{room_for_image(config) + 1} more, and the model reads "
            f"{config.max_position_embeddings} in all",
            where="story",
            hint="begin with fewer words or fewer pictures",
        )
    return min(wanted, room)


def context_window(
    config: InterleavedConfig,
    opening: Context,
    panels: Sequence[PanelContext],
    longest: int,
    *,
    most: int | None = None,
) -> ContextWindow:
    """The opening and as many of the latest panels as leave room for the next one.

    Args:
        config: Configuration of the model.
        opening: Context up to SEP; always kept.
        panels: All panels after it.
        longest: Most text tokens of the next panel, from `longest_text`.
        most: Panels to keep at most.
    """
    room = config.max_position_embeddings - len(opening.ids) - longest - room_for_image(config)
    kept, most = 0, len(panels) if most is None else min(most, len(panels))
    while kept < most and (size := _size(config, panels[-kept - 1])) <= room:
        room, kept = room - size, kept + 1
    return ContextWindow(_joined(config, opening, panels[len(panels) - kept :]), kept)


def _size(config: InterleavedConfig, panel: PanelContext) -> int:
    return len(panel.ids) + (0 if panel.features_PC is None else room_for_image(config))


def _joined(config: InterleavedConfig, opening: Context, panels: Sequence[PanelContext]) -> Context:
    """Words, [BOI], patches and [EOI] of each panel, after the opening."""
    boi, eoi, image = config.boi_token_id, config.eoi_token_id, config.image_token_id
    assert boi is not None and eoi is not None and image is not None
    ids, features = list(opening.ids), []
    if opening.features_MPC is not None:
        features.append(opening.features_MPC)
    for panel in panels:
        ids += panel.ids
        if panel.features_PC is not None:
            ids += [boi, *[image] * config.patches, eoi]
            features.append(panel.features_PC.unsqueeze(0))
    device = features[0].device if features else None
    return Context(tuple(ids), torch.cat([f.to(device) for f in features]) if features else None)


NEVER = float("-inf")


class StoryLogitsProcessor(LogitsProcessor):
    """Rules for the text of one panel.

    Args:
        config, tokenizer: Configuration and tokenizer of the model.
        longest: Most tokens of the text; the last of them is a word if there was none before.
        may_end: Whether the row may end here without a picture. If so, this processor, rather than
            the row, begins a picture when the text reaches its limit.

    Attributes:
        went_on: Whether the model would have ended before writing a word, and was prevented.
        began: Whether this processor began a picture for the model.
    """

    def __init__(
        self,
        config: InterleavedConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        longest: int,
        may_end: bool = False,
    ) -> None:
        assert config.boi_token_id is not None, "a configuration without [BOI] tells no stories"
        self._tokenizer, self._longest, self._may_end = tokenizer, longest, may_end
        self._boi = config.boi_token_id
        self._ends = [token for token in ends(config) if token is not None]
        self._marks = {config.sep_token_id, config.eoi_token_id}
        self.went_on = self.began = False

    def __call__(self, ids_1S: Tensor, scores_1V: Tensor) -> Tensor:  # type: ignore[override]
        said = self._since_last_mark(ids_1S[0].tolist())
        if not self._has_words(said):
            return self._words_first(scores_1V, is_last=len(said) + 1 >= self._longest)
        if self._may_end and len(said) >= self._longest:
            self.began = int(scores_1V.argmax()) != self._boi
            return _only(scores_1V, [self._boi])
        return scores_1V

    def _words_first(self, scores_1V: Tensor, *, is_last: bool) -> Tensor:
        if not self._may_end and int(scores_1V.argmax()) in self._ends:
            self.went_on = True
        if is_last:
            scores_1V = _only(scores_1V, [*self._words, *self._ends])
        special = {*self._tokenizer.all_special_ids, self._boi, *self._ends}
        ruled_out = sorted(special - set(self._ends) if self._may_end else special)
        return scores_1V.index_fill(1, torch.tensor(ruled_out, device=scores_1V.device), NEVER)

    def _since_last_mark(self, ids: Sequence[int]) -> list[int]:
        """The tokens after SEP, or after the last picture."""
        marked = [place for place, token in enumerate(ids) if token in self._marks]
        return list(ids[marked[-1] + 1 :]) if marked else list(ids)

    def _has_words(self, tokens: Sequence[int]) -> bool:
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return any(char.isalnum() for char in str(text))

    @cached_property
    def _words(self) -> list[int]:
        """The tokens that are words, or parts of words, by themselves."""
        special = set(self._tokenizer.all_special_ids)
        every = [token for token in range(len(self._tokenizer)) if token not in special]
        return [token for token in every if self._has_words([token])]


def _only(scores_1V: Tensor, allowed: Sequence[int]) -> Tensor:
    """The scores of these tokens; no other can be chosen."""
    index_N = torch.tensor(list(allowed), device=scores_1V.device)
    return torch.full_like(scores_1V, NEVER).index_copy(1, index_N, scores_1V[:, index_N])


class StoryPlan(NamedTuple):
    """Length and form of a story.

    Attributes:
        panels: Number of pictures, including those of an earlier story; the maximum when free.
        free: Whether the model decides where pictures come and when the story ends. The first
            picture comes in any case, and one is begun wherever the text reaches its limit.
        longest_text: Most text tokens of one panel.
        keep_panels: Number of latest panels that the model sees; None means as many as fit.
    """

    panels: int = 3
    free: bool = False
    longest_text: int = 64
    keep_panels: int | None = None


@dataclass(frozen=True)
class PanelDone:
    """A panel is finished.

    Attributes:
        number: Number of the panel, from 1, without the opening.
        text: Words of the panel.
        pixels_3HW: Picture of the panel in [-1, 1]; None only for the last words of a free story.
        forced: Whether the picture was begun for the model rather than by it.
        went_on: Whether the model would have ended the story before this panel.
        kept: Number of earlier panels that the model saw.
        context: The panel as the model reads it again.
    """

    number: int
    text: str
    pixels_3HW: Tensor | None
    forced: bool
    went_on: bool
    kept: int
    context: PanelContext


def panel_seed(seed: int, number: int) -> int:
    """The seed of a story's panel, made so that a story's second panel never shares a seed with
    another story's first.
    """
    # Of these 63 bits only the lower 32 ever reached the noise (see `seeds`).
    return random.Random(f"{seed}/{number}").getrandbits(63) % GENERATOR_SEEDS


def panel_context(builder: PromptBuilder, text: str, picture: Picture | None) -> PanelContext:
    """A panel of an earlier story, encoded again from its words and its picture.

    Raises:
        DataError: When the picture cannot be read.
    """
    ids = tuple(text_ids(builder.tokenizer, text)) if text else ()
    if picture is None:
        return PanelContext(ids)
    features_MPC = builder.context(picture).features_MPC
    assert features_MPC is not None, "a context with a picture has features"
    return PanelContext(ids, features_MPC[0])


PanelContinuer = Callable[[Prompt, SamplingParams, LogitsProcessor], Iterator[Event]]
"""Continues the prompt of a panel, and yields the events of row 0."""


def tell(
    builder: PromptBuilder,
    opening: Sequence[str | Picture],
    params: SamplingParams,
    plan: StoryPlan,
    *,
    seed: int,
    before: Sequence[PanelContext] = (),
    first: int = 1,
    continue_panel: PanelContinuer | None = None,
) -> Iterator[Event | PanelDone]:
    """Tells a story from an opening, and yields events as they happen.

    Args:
        builder: Prompt builder of the model.
        opening: Texts and images in order.
        params: How images and text are sampled; the plan sets how many of each.
        plan: Number of panels, and their length.
        seed: Seed of the story; each panel's seed is made from it, see `panel_seed`.
        before: The first panels, from an earlier story.
        first: Number of the first panel after the opening in notes and in ImageBegun.
        continue_panel: Continues a prompt in the place of `generate`, as a server does that
            continues several stories side by side.

    Yields: The events of `generate` except RowDone, pictures numbered through the story; a
        PanelDone after each panel; a Note where the story would have ended, and where the context
        is full.

    Raises:
        PromptError: When there is no opening, or it leaves no room for a panel.
        CheckpointError: When the model cannot draw.
        DataError: When a picture of the opening cannot be read.
    """
    config = builder.model.config
    prompt = builder.story(opening, params)
    longest = longest_text(config, prompt.context, plan.longest_text)
    panels, is_full, went_on = list(before), False, False
    while (drawn := sum(panel.features_PC is not None for panel in panels)) < plan.panels:
        number, name = len(panels) + 1, len(panels) + first
        # 1. What the model sees of the story so far.
        context, kept = context_window(
            config, prompt.context, panels, longest, most=plan.keep_panels
        )
        if not is_full and kept < _wanted(panels, plan):
            is_full = True
            yield Note(
                f"the context is full: from panel {name} on the model sees the opening and the "
                "latest panels only"
            )
        # 2. It writes and draws one panel.
        may_end = plan.free and drawn > 0
        direction = StoryLogitsProcessor(
            config, builder.tokenizer, longest=longest, may_end=may_end
        )
        panel_prompt = prompt._replace(context=context, seed=panel_seed(seed, number))
        panel_params = replace(
            params,
            max_images=1,
            min_images=0 if may_end else 1,
            max_text=longest + 1 if may_end else longest,
            end_with_image=True,
        )
        if continue_panel:
            events = continue_panel(panel_prompt, panel_params, direction)
        else:
            events = generate(builder.model, [panel_prompt], panel_params, processors=[direction])
        panel = yield from _panel(with_words(events, builder.tokenizer), direction, drawn, name)
        # 3. Report where the rules overruled the model; a panel without a picture ends the story.
        if direction.went_on and not went_on:
            went_on = True
            yield Note(
                f"the model would have ended the story before panel {name}; it goes on, because "
                f"{plan.panels} pictures are asked for"
            )
        if panel.text or panel.image is not None:
            panels.append(panel.context)
            yield PanelDone(
                number,
                panel.text,
                None if panel.image is None else panel.image.pixels_3HW,
                forced=panel.forced,
                went_on=direction.went_on,
                kept=kept,
                context=panel.context,
            )
        if panel.image is None:
            return


class _Panel(NamedTuple):
    text: str
    ids: tuple[int, ...]
    image: ImageDone | None
    forced: bool

    @property
    def context(self) -> PanelContext:
        return PanelContext(self.ids, None if self.image is None else self.image.features_PC)


def _panel(
    events: Iterator[Event], direction: StoryLogitsProcessor, drawn: int, name: int
) -> Generator[Event, None, _Panel]:
    """Passes on the events of one panel, pictures numbered through the story, and gathers it."""
    text, ids, image, forced = "", [], None, False
    for event in events:
        if isinstance(event, TextPiece):
            text, ids = text + event.text, [*ids, *event.token_ids]
        elif isinstance(event, ImageBegun):
            # The row counts an image that the logits processor forced as the model's own.
            forced = event.forced or direction.began
            event = replace(event, image=drawn, forced=forced, panel=name)
        elif isinstance(event, (PatchDone, ImageDone)):
            event = replace(event, image=drawn)
            image = event if isinstance(event, ImageDone) else None
        if not isinstance(event, RowDone):
            yield event
    # A model with byte tokens may write bytes that are not valid text.
    said = "".join(char for char in text if char.isprintable() or char.isspace())
    return _Panel(said.strip(), tuple(ids), image, forced)


def _wanted(panels: Sequence[PanelContext], plan: StoryPlan) -> int:
    """Panels that the model would see if there were room."""
    return len(panels) if plan.keep_panels is None else min(plan.keep_panels, len(panels))
