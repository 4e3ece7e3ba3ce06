"""Text tokens: which ones are allowed, how the next one is sampled, and how tokens become words.

Legend: N sequences that choose, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from orthus_core.events import Event, ImageDone, RowDone, TextPiece
from orthus_core.model.config import InterleavedConfig
from orthus_core.samplers.seeds import text_stream


def text_generator(seed: int) -> torch.Generator:
    """The generator for one sequence's text: on the CPU, so that devices do not differ."""
    return torch.Generator().manual_seed(text_stream(seed))


# Logits divided by less may be infinite; at this the likeliest token alone is chosen already.
LEAST_TEMPERATURE = 1e-6


def warpers(temperature: float, top_k: int = 0, top_p: float = 1.0) -> LogitsProcessorList:
    """Transformers' own warpers in its own order; at temperature 0, which is greedy, none."""
    chain = LogitsProcessorList()
    if temperature == 0:
        return chain
    if temperature != 1:
        chain.append(TemperatureLogitsWarper(max(float(temperature), LEAST_TEMPERATURE)))
    if top_k > 0:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    return chain


def never_chosen(config: InterleavedConfig, *, may_begin_image: bool) -> list[int]:
    """Ids that the model must not choose; `text_logits` already excludes image codes and slots.

    [EOI] is never chosen: it is appended after the last patch of an image.

    Args:
        config: Configuration of the model.
        may_begin_image: Whether [BOI] may be chosen.
    """
    never = [config.bos_token_id, config.pad_token_id, config.eoi_token_id]
    if not may_begin_image:
        never.append(config.boi_token_id)
    return [token for token in never if token is not None]


def choose_token(
    logits_V: Tensor,
    ids: Sequence[int],
    never: Sequence[int],
    *,
    processors: Sequence[LogitsProcessor] = (),
    warp: LogitsProcessorList | None = None,
    generator: torch.Generator | None = None,
) -> int:
    """The id of the next token.

    Args:
        logits_V: Logits from `text_logits`.
        ids: All tokens of the sequence so far, for processors that need them (repetition).
        never: Ids that cannot be chosen, whatever the processors do.
        processors: Logits processors; they run before `never` is applied.
        warp: Result of `warpers`.
        generator: Generator to sample with; None chooses the most likely token.
    """
    ids_1S = torch.tensor([list(ids)], device=logits_V.device)
    scores_1V = logits_V.float().unsqueeze(0)
    scores_1V = LogitsProcessorList(processors)(ids_1S, scores_1V)  # type: ignore[arg-type]
    ruled_out = torch.tensor(list(never), dtype=torch.long, device=logits_V.device)
    scores_1V = scores_1V.index_fill(1, ruled_out, float("-inf"))
    if generator is None:
        return int(scores_1V.argmax())
    if warp is not None:
        scores_1V = warp(ids_1S, scores_1V)  # type: ignore[arg-type]
    return int(torch.multinomial(scores_1V.softmax(-1).cpu(), 1, generator=generator))


# Decoding gives this for a character whose last bytes are still missing.
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Written(NamedTuple):
    """What a sequence has written since its last image: tokens, and those of their words that were
    shown.
    """

    tokens: list[int]
    words: str


def with_words(
    events: Iterable[Event],
    tokenizer: PreTrainedTokenizerBase,
    written: dict[int, Written] | None = None,
) -> Iterator[Event]:
    """The same events; each TextPiece gets the text that its tokens add.

    A token that ends inside a character adds nothing yet. The text of a sequence between two images
    is decoded together, and begins without a space.

    Args:
        events: Events of any number of sequences.
        tokenizer: The model's tokenizer.
        written: What sequences have written so far, by number, for events that continue earlier
            ones; it is changed.
    """
    written = {} if written is None else written
    for event in events:
        if isinstance(event, TextPiece):
            tokens, before = written.get(event.row, Written([], ""))
            tokens.extend(event.token_ids)
            text = str(tokenizer.decode(tokens, skip_special_tokens=True)).lstrip()
            if text.endswith(UNFINISHED) or not text.startswith(before):
                text = before
            written[event.row] = Written(tokens, text)
            event = replace(event, text=text[len(before) :])
        elif isinstance(event, (ImageDone, RowDone)):
            written.pop(event.row, None)
        yield event
