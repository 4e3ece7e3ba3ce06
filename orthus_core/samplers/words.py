"""Token ids into words as they arrive: a tokenizer's letters may take several tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from orthus_core.events import Event, ImageDone, RowDone, TextPiece

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
