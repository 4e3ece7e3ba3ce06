"""Stories of any length: panel by panel, each from the opening and the latest panels.

    for event in tell(asking, opening, sampling, Plan(panels=12), seed=1): ...

A panel is a row of its own: what the model sees is put together anew, so that a full context moves
on and no panel needs more than what it sees and its own seed. So a story can be rewound to any
panel, and told on from there.

Legend: P patches, C feature channels, H height, W width.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from orthus_core.data.pictures import Picture
from orthus_core.data.tokenizer import text_ids
from orthus_core.events import Event, ImageBegun, ImageDone, Note, PatchDone, RowDone, TextPiece
from orthus_core.samplers.direction import Direction
from orthus_core.samplers.interleave import interleave
from orthus_core.samplers.requests import Asking, Sampling
from orthus_core.samplers.window import Told, longest_text, window
from orthus_core.samplers.words import with_words


class Plan(NamedTuple):
    """How a story goes.

    panels: Pictures, those of an earlier telling among them; at most so many when free.
    free: Whether the model decides where pictures come and when it ends. The first one comes in
        any case, and one is begun wherever the text is at its longest.
    longest_text: Tokens of one panel's text.
    keep_panels: Latest panels that the model sees; None is as many as fit.
    temperature, top_p: Of the text, as in `Settings`.
    """

    panels: int = 3
    free: bool = False
    longest_text: int = 64
    keep_panels: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class PanelDone:
    """A panel is told.

    number: From 1, the opening not counted.
    text: Its words.
    pixels_3HW: Its picture in [-1, 1]; None only for the last words of a free story.
    forced: Whether the picture was begun for the model rather than by it.
    went_on: Whether the model would have ended the story before this panel.
    kept: Panels before it that the model saw.
    told: The same as the model reads it again.
    """

    number: int
    text: str
    pixels_3HW: Tensor | None
    forced: bool
    went_on: bool
    kept: int
    told: Told


def panel_seed(seed: int, number: int) -> int:
    """The seed of a story's panel: of its own, so that a story's second panel has nothing of
    another's first.
    """
    return random.Random(f"{seed}/{number}").getrandbits(63)


def remembered(asking: Asking, text: str, picture: Picture | None) -> Told:
    """A panel of an earlier telling, read again from its words and its picture.

    Raises: DataError when the picture does not read.
    """
    ids = tuple(text_ids(asking.tokenizer, text)) if text else ()
    if picture is None:
        return Told(ids)
    features_MPC = asking.context(picture).features_MPC
    assert features_MPC is not None, "a context with a picture has features"
    return Told(ids, features_MPC[0])


def tell(
    asking: Asking,
    opening: Sequence[str | Picture],
    sampling: Sampling,
    plan: Plan,
    *,
    seed: int,
    before: Sequence[Told] = (),
    first: int = 1,
) -> Iterator[Event | PanelDone]:
    """Tells a story from an opening, and yields what happens as it happens.

    Args:
        asking: Whose model tells.
        opening: Texts and pictures in order.
        sampling: Of the pictures.
        plan: How many panels, and how long.
        seed: Each panel's own is made from it, see `panel_seed`.
        before: The first panels, from an earlier telling.
        first: What the first panel after the opening is called in notes, and in ImageBegun.

    Yields: What `interleave` yields but RowDone, pictures numbered through the story; a PanelDone
        after each panel; a Note where the story would have ended, and where the context is full.

    Raises:
        PromptError: When there is no opening, or it leaves no room for a panel.
        CheckpointError: When the model cannot draw.
        DataError: When a picture of the opening does not read.
    """
    config = asking.model.config
    prompt = asking.story(opening, sampling)
    longest = longest_text(config, prompt.context, plan.longest_text)
    told, is_full, went_on = list(before), False, False
    while (drawn := sum(panel.features_PC is not None for panel in told)) < plan.panels:
        number, name = len(told) + 1, len(told) + first
        # 1. What the model sees of the story so far.
        context, kept = window(config, prompt.context, told, longest, most=plan.keep_panels)
        if not is_full and kept < _wanted(told, plan):
            is_full = True
            yield Note(
                f"the context is full: from panel {name} on the model sees the opening and the "
                "latest panels only"
            )
        # 2. It writes and draws one panel.
        may_end = plan.free and drawn > 0
        direction = Direction(config, asking.tokenizer, longest=longest, may_end=may_end)
        asked = prompt._replace(context=context, seed=panel_seed(seed, number))
        settings = sampling.settings(
            max_images=1,
            min_images=0 if may_end else 1,
            max_text=longest + 1 if may_end else longest,
            end_with_image=True,
            temperature=plan.temperature,
            top_p=plan.top_p,
        )
        events = interleave(asking.model, [asked], settings, processors=[direction])
        panel = yield from _panel(with_words(events, asking.tokenizer), direction, drawn, name)
        # 3. Where it was led, that is said; where it ends without a picture, so does the story.
        if direction.went_on and not went_on:
            went_on = True
            yield Note(
                f"the model would have ended the story before panel {name}; it goes on, because "
                f"{plan.panels} pictures are asked for"
            )
        if panel.text or panel.image is not None:
            told.append(panel.told)
            yield PanelDone(
                number,
                panel.text,
                None if panel.image is None else panel.image.pixels_3HW,
                forced=panel.forced,
                went_on=direction.went_on,
                kept=kept,
                told=panel.told,
            )
        if panel.image is None:
            return


class _Panel(NamedTuple):
    text: str
    ids: tuple[int, ...]
    image: ImageDone | None
    forced: bool

    @property
    def told(self) -> Told:
        return Told(self.ids, None if self.image is None else self.image.features_PC)


def _panel(
    events: Iterator[Event], direction: Direction, drawn: int, name: int
) -> Generator[Event, None, _Panel]:
    """Hands on the events of one panel, pictures numbered through the story, and gathers it."""
    text, ids, image, forced = "", [], None, False
    for event in events:
        if isinstance(event, TextPiece):
            text, ids = text + event.text, [*ids, *event.token_ids]
        elif isinstance(event, ImageBegun):
            # To the row, a beginning that the direction left no choice about is the model's own.
            forced = event.forced or direction.began
            event = replace(event, image=drawn, forced=forced, panel=name)
        elif isinstance(event, (PatchDone, ImageDone)):
            event = replace(event, image=drawn)
            image = event if isinstance(event, ImageDone) else None
        if not isinstance(event, RowDone):
            yield event
    # A model that knows bytes may write some that are no letters.
    said = "".join(char for char in text if char.isprintable() or char.isspace())
    return _Panel(said.strip(), tuple(ids), image, forced)


def _wanted(told: Sequence[Told], plan: Plan) -> int:
    """Panels that the model would see if there were room."""
    return len(told) if plan.keep_panels is None else min(plan.keep_panels, len(told))
