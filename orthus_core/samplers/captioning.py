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
    """Asks the same of each picture.

    Args:
        builder: Makes prompts for the model that answers.
        pictures: Encoded in one pass, so as many as memory holds decoded.
        question: What is asked.
        params: How the text is sampled.
        seeds: One a picture, for sampled text.
        batch_size: Pictures read at once, as `generate` takes it.

    Yields: What `generate` yields, with words; an AnswerDone after each row.

    Raises:
        PromptError: When nothing is asked, or it does not fit the context.
        DataError: When a picture does not read.
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
