"""Text tokens: which may be chosen, how the next one is sampled, and how tokens become words as
they arrive.

Legend: N sequences that choose, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

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

# A row's words are drawn apart from its pictures, so that a longer text leaves their noise alone.
TEXT_STREAM = 0x7E57


def text_generator(seed: int) -> torch.Generator:
    """Randomness of one row's text: on the CPU, so that every device chooses alike."""
    return torch.Generator().manual_seed(seed ^ (TEXT_STREAM << 32))


def warpers(temperature: float, top_k: int = 0, top_p: float = 1.0) -> LogitsProcessorList:
    """Transformers' own warpers in its own order; none at temperature 0, which is greedy."""
    chain = LogitsProcessorList()
    if temperature == 0:
        return chain
    if temperature != 1:
        chain.append(TemperatureLogitsWarper(float(temperature)))
    if top_k > 0:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    return chain


def never_chosen(config: InterleavedConfig, *, may_begin_image: bool) -> list[int]:
    """Ids that the model must not write here; image codes and slots are ruled out by `text_logits`
    already.

    [EOI] is only ever appended, after an image's last patch; [BOI] needs an image that is wanted
    and fits.
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
        logits_V: As `text_logits` gives them.
        ids: All tokens of the row so far, for processors that look back (repetition, forced words).
        never: Ids ruled out, whatever the processors say.
        processors: Transformers' or the caller's own; they run before the rules.
        warp: See `warpers`.
        generator: Samples with it; greedy when None.
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


# What decoding gives for the first bytes of a letter whose last are still to come.
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def with_words(events: Iterable[Event], tokenizer: PreTrainedTokenizerBase) -> Iterator[Event]:
    """The same events, each TextPiece with the words that its tokens add.

    A token in the midst of a letter adds nothing yet. What a row writes between two pictures is
    decoded together, and begins without a space.
    """
    said: dict[int, list[int]] = {}
    shown: dict[int, str] = {}
    for event in events:
        if isinstance(event, TextPiece):
            tokens = said.setdefault(event.row, [])
            tokens.extend(event.token_ids)
            text = str(tokenizer.decode(tokens, skip_special_tokens=True)).lstrip()
            before = shown.get(event.row, "")
            if text.endswith(UNFINISHED) or not text.startswith(before):
                text = before
            shown[event.row] = text
            event = replace(event, text=text[len(before) :])
        elif isinstance(event, (ImageDone, RowDone)):
            said.pop(event.row, None)
            shown.pop(event.row, None)
        yield event
