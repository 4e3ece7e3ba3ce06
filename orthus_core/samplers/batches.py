"""Many prompts a few at a time, as if they were one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from orthus_core.events import Event, ImageDone, PatchDone, RowDone, TextPiece
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.interleave import interleave
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.settings import Settings


def in_batches(
    model: InterleavedModel,
    prompts: Sequence[Prompt],
    settings: Settings,
    size: int | None = None,
) -> Iterator[Event]:
    """`interleave` over at most `size` prompts at once; rows are numbered through all prompts.

    Args:
        size: None is all of them.
    """
    size = size or max(len(prompts), 1)
    for first in range(0, max(len(prompts), 1), size):
        for event in interleave(model, prompts[first : first + size], settings):
            if isinstance(event, (TextPiece, PatchDone, ImageDone, RowDone)):
                event = replace(event, row=first + event.row)
            yield event
