"""One question about many pictures: encoded together, answered together.

Legend: M pictures, P patches, C feature channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orthus_core.data.pictures import Picture
from orthus_core.events import Event, RowDone, TextPiece
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.text import with_words


@dataclass(frozen=True)
class AnswerDone:
    """Picture number `row` has its answer."""

    row: int
    text: str


def answer(
    builder: PromptBuilder,
    pictures: Sequence[Picture],
    question: str,
    params: SamplingParams,
    seeds: Sequence[int],
    batch_size: Any = None,
) -> Iterator[Event | AnswerDone]:
    """Asks the same question about each picture.

    Args:
        builder: Prompt builder of the model.
        pictures: Pictures to ask about; they are encoded in one pass, so all must fit in memory
            decoded.
        question: The question.
        params: How the text is sampled.
        seeds: One seed for each picture, for sampled text.
        batch_size: Pictures read at once, as for `generate`.

    Yields: The events of `generate` for text; an AnswerDone after each row.

    Raises:
        PromptError: When the question is empty, or does not fit the context.
        DataError: When a picture cannot be read.
    """
    features_MPC = builder.features(pictures)
    prompts = []
    for number, (picture, seed) in enumerate(zip(pictures, seeds, strict=True)):
        own_1PC = features_MPC[number : number + 1]
        prompts.append(Prompt(builder.context(picture, question, features_MPC=own_1PC), seed))
    said = [""] * len(pictures)
    events = generate(builder.model, prompts, params, batch_size)
    for event in with_words(events, builder.tokenizer):
        yield event
        if isinstance(event, TextPiece):
            said[event.row] += event.text
        elif isinstance(event, RowDone):
            yield AnswerDone(event.row, said[event.row].strip())
