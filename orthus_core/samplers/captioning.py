"""Questions about many pictures: encoded together, answered together.

Legend: M pictures, P patches, C feature channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from orthus_core.data.pictures import Picture
from orthus_core.events import Event, RowDone, TextPiece
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.text import with_words

# Pictures encoded in one pass.
ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class AnswerDone:
    """Picture or question number `row` has its answer."""

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
    yield from _answers(builder, prompts, params, batch_size)


def answer_each(
    builder: PromptBuilder,
    questions: Sequence[Sequence[str | Picture]],
    params: SamplingParams,
    batch_size: Any = None,
) -> Iterator[Event | AnswerDone]:
    """Asks questions of texts and pictures in any order; the seed of sampled text is 0.

    Each different picture is encoded once, and what questions begin with in common is read once.

    Args:
        builder: Prompt builder of the model.
        questions: Texts and pictures of each question.
        params: How the text is sampled.
        batch_size: Questions answered at once, as for `generate`.

    Yields: The events of `generate` for text; an AnswerDone after each row.

    Raises:
        PromptError: When a question is empty, or does not fit the context.
        DataError: When a picture cannot be read.
    """
    pictures = {
        part.key: part for parts in questions for part in parts if not isinstance(part, str)
    }
    features = {}
    for first in range(0, len(pictures), ENCODED_AT_ONCE):
        keys = [*pictures][first : first + ENCODED_AT_ONCE]
        features_MPC = builder.features([pictures[key] for key in keys])
        features |= {key: features_MPC[n : n + 1] for n, key in enumerate(keys)}
    prompts = []
    for parts in questions:
        own = [features[part.key] for part in parts if not isinstance(part, str)]
        context = builder.context(*parts, features_MPC=torch.cat(own) if own else None)
        prompts.append(Prompt(context))
    yield from _answers(builder, prompts, params, batch_size)


def _answers(
    builder: PromptBuilder, prompts: Sequence[Prompt], params: SamplingParams, batch_size: Any
) -> Iterator[Event | AnswerDone]:
    said = [""] * len(prompts)
    events = generate(builder.model, prompts, params, batch_size)
    for event in with_words(events, builder.tokenizer):
        yield event
        if isinstance(event, TextPiece):
            said[event.row] += event.text
        elif isinstance(event, RowDone):
            yield AnswerDone(event.row, said[event.row].strip())
