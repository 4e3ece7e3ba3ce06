"""Many prompts a few at a time, as if they were one batch.

How many is chosen from the memory that is free, or named. Where memory runs out all the same, half
as many go on from where they stand, and the others wait: no patch is lost, and none is drawn twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from transformers import LogitsProcessor

from orthus_core.errors import PromptError
from orthus_core.events import Event, Note
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.darkroom import DECODED_AT_ONCE, Full, in_order
from orthus_core.samplers.engine import TOKENS_AT_ONCE
from orthus_core.samplers.interleave import Job, begin, go_on
from orthus_core.samplers.memory import free_bytes, is_out_of_memory, need, release
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.row import Row
from orthus_core.samplers.settings import Settings

# More rows at once than this make each no cheaper, and the first picture comes later.
MOST_AT_ONCE = 64
# Where nobody says how much memory is free.
CAUTIOUS = 4


@torch.no_grad()
def in_batches(
    model: InterleavedModel,
    prompts: Sequence[Prompt],
    settings: Settings,
    size: int | Literal["auto"] | None = "auto",
    *,
    processors: Sequence[LogitsProcessor] = (),
) -> Iterator[Event]:
    """`interleave` over some of the prompts at once; rows are numbered through all prompts.

    Args:
        size: How many at once; "auto" is as many as fit into memory, None is all.
        processors: As for `interleave`.

    Yields: What `interleave` does, and a Note where memory ran out.

    Raises:
        PromptError, CheckpointError: As `interleave`; also when memory does not suffice for one.
    """
    job, rows = begin(model, prompts, settings, processors)
    if size == "auto":
        size = fitting(job, rows)
    with job.darkroom:
        try:
            yield from in_order(_in_turn(job, rows, size or len(rows)))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise _too_large(job) from error
            raise


def fitting(job: Job, rows: Sequence[Row]) -> int:
    """How many rows fit side by side into the memory that is free now."""
    streams = [row.streams for row in rows]
    free = free_bytes(job.model.device)
    if free is None:
        return CAUTIOUS
    needed = need(
        job.model,
        slots=1 + max(stream.longest for row in streams for stream in row),
        streams=max(map(len, streams)),
        tokens_at_once=TOKENS_AT_ONCE,
        decoded_at_once=DECODED_AT_ONCE if job.settings.max_images else 0,
    )
    return min(MOST_AT_ONCE, needed.rows_in(free))


def _in_turn(job: Job, waiting: list[Row], size: int) -> Iterator[Event | Full]:
    """Rows in batches of `size`, and of ever fewer as memory demands."""
    while waiting:
        seated, waiting = waiting[:size], waiting[size:]
        try:
            yield from go_on(job, seated)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(seated) == 1:
                raise
        # Here the error and what it held on to are gone, and memory is free again.
        job.backbone.forget()
        release(job.model.device)
        size = len(seated) // 2
        waiting = seated + waiting
        yield Note(f"memory does not hold {len(seated)} at once: going on with {size}")


def _too_large(job: Job) -> PromptError:
    return PromptError(
        f"not enough memory on {job.model.device} for one at a time",
        where="memory",
        hint="close other programs, shorten the prompt, or draw with --dtype bf16 or --device cpu",
    )
