"""The loop that writes and draws: a generator of events over any number of rows, each at its own
place.

    for event in interleave(model, prompts, Settings(max_images=1)): ...

One pass of the backbone a step serves every row, whether it writes a word or draws a patch. A row's
text and pictures depend on its own prompt, seed and settings alone, whatever batch it is in.

`go_on` is the story. How a pass is made fast is the business of `engine.py`, how a patch is drawn
that of a brush, and how many rows sit together that of `batches.py`.

Legend: N rows at the same kind of turn, R streams (a row's own, and those it is guided against), V
vocabulary, C feature channels, P patches, M finished pictures, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import LogitsProcessor

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.events import Event, RowDone
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.brush import Brush, brush_for
from orthus_core.samplers.darkroom import Darkroom, Full, in_order
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.guidance import mixing
from orthus_core.samplers.prompt import Prompt, check_prompt
from orthus_core.samplers.row import Row, Turn
from orthus_core.samplers.settings import Settings
from orthus_core.samplers.streams import Streams
from orthus_core.samplers.tokens import choose_token, never_chosen, warpers

# Where a pixel decoder can be had.
FOR_AN_ORTHUS = "convert again with --vqgan vqgan.ckpt, or train one with `orthus finetune-vae`"
FOR_A_CHAMELEON = (
    "Meta ships it apart, as tokenizer/vqgan.ckpt: `orthus convert ... --vqgan vqgan.ckpt` makes "
    "an Orthus that has it; Anole's folders (anole-7b) bring theirs"
)


class Job(NamedTuple):
    """What all rows share."""

    model: InterleavedModel
    settings: Settings
    processors: Sequence[LogitsProcessor]
    brush: Brush | None
    backbone: Backbone
    darkroom: Darkroom


@torch.no_grad()
def interleave(
    model: InterleavedModel,
    prompts: Sequence[Prompt],
    settings: Settings,
    *,
    processors: Sequence[LogitsProcessor] = (),
) -> Iterator[Event]:
    """Writes and draws on from every prompt, and yields what happens as it happens.

    All prompts go side by side; `in_batches` is the same for more of them than memory holds.

    Args:
        model: Any Orthus or discrete Chameleon; with a pixel decoder if pictures are wanted.
        prompts: One a row.
        settings: How much text and how many pictures, and how both are sampled.
        processors: Transformers' logits processors for the text; each sees one row's tokens so far.

    Yields: TextPiece (token ids; the words are the tokenizer's to say), ImageBegun, PatchDone,
        ImageDone, one RowDone a row.

    Raises:
        PromptError: When a prompt does not fit the model (see `check_prompt`).
        CheckpointError: When pictures are wanted of a model without a pixel decoder.
    """
    job, rows = begin(model, prompts, settings, processors)
    with job.darkroom:
        yield from in_order(go_on(job, rows))


def begin(
    model: InterleavedModel,
    prompts: Sequence[Prompt],
    settings: Settings,
    processors: Sequence[LogitsProcessor] = (),
) -> tuple[Job, list[Row]]:
    """The prompts as rows that have not begun, and what they will need. Raises: As `interleave`."""
    _check(model, prompts, settings)
    brush = brush_for(model, settings) if settings.max_images else None
    job = Job(model, settings, processors, brush, Backbone(model), Darkroom(model))
    return job, [Row(n, prompt, settings, model.config, brush) for n, prompt in enumerate(prompts)]


def go_on(job: Job, rows: list[Row]) -> Iterator[Event | Full]:
    """Writes and draws on from where rows stand, until each is at its end and has left `rows`.

    Each row moves on as a whole or not at all, so those that are left when something fails can go
    on later.
    """
    # 1. Read every prompt, and all that its pictures are guided against.
    streams = Streams(job.backbone, {row.number: row.streams for row in rows if not row.ended})
    while rows:
        at = {turn: [row for row in rows if row.turn is turn] for turn in Turn}
        # 2. Rows at a word choose it; those at the edge of a picture say [BOI] or [EOI].
        yield from _write(job, streams, at[Turn.WRITE])
        yield from _mark(at[Turn.OPEN], at[Turn.CLOSE])
        # 3. Rows in a picture draw its next patch, all at once.
        yield from _draw(job, streams, at[Turn.DRAW])
        # 4. Pictures that are full become pixels.
        yield from _develop(job, [row for row in rows if row.undeveloped is not None])
        # 5. Rows at their end leave.
        yield from _leave(rows)
        streams.keep([row.number for row in rows])
        # 6. The backbone reads what is new, in one pass.
        _read(job, streams, rows)


def _check(model: InterleavedModel, prompts: Sequence[Prompt], settings: Settings) -> None:
    if settings.max_images and model.model.vqmodel.decoder is None:
        raise CheckpointError(
            "this model has no pixel decoder, so it can read pictures but draw none",
            where="model.vqmodel.decoder",
            hint=FOR_A_CHAMELEON if isinstance(model, DiscreteChameleon) else FOR_AN_ORTHUS,
        )
    if settings.max_images and None in (model.config.boi_token_id, model.config.eoi_token_id):
        raise CheckpointError(
            "the vocabulary names no tokens for the beginning and the end of a picture",
            where="config.json: boi_token_id, eoi_token_id",
            hint="the tokenizer must be the checkpoint's own",
        )
    if not prompts:
        raise PromptError("there is no prompt", where="prompts")
    for prompt in prompts:
        check_prompt(model.config, prompt, must_draw=settings.owed_images > 0)


def _write(job: Job, streams: Streams, rows: Sequence[Row]) -> Iterator[Event]:
    """One token for each row; the LM head runs for these rows only."""
    if not rows:
        return
    settings = job.settings
    logits_NV = job.model.text_logits(streams.own([row.number for row in rows]))
    warp = warpers(settings.temperature, settings.top_k, settings.top_p)
    for row, logits_V in zip(rows, logits_NV, strict=True):
        token = choose_token(
            logits_V,
            row.ids,
            never_chosen(job.model.config, may_begin_image=row.may_begin_image),
            processors=job.processors,
            warp=warp,
            generator=row.text_random,
        )
        yield from row.say(token)


def _mark(opening: Sequence[Row], closing: Sequence[Row]) -> Iterator[Event]:
    """[BOI] and [EOI], which are no choice of the model."""
    for row in opening:
        yield from row.open()
    for row in closing:
        yield from row.close()


def _draw(job: Job, streams: Streams, rows: Sequence[Row]) -> Iterator[Event]:
    """The next patch of each row's picture."""
    if not rows:
        return
    assert job.brush is not None, "a row draws only where pictures are wanted"
    features_NC = job.brush.draw(
        streams.all([row.number for row in rows]),
        torch.stack([row.next_noise() for row in rows]),
        mixing([row.prompt.guidance for row in rows]),
        [len(row.patches) for row in rows],
    )
    for row, feature_C in zip(rows, features_NC, strict=True):
        yield from row.draw(feature_C)


def _develop(job: Job, rows: Sequence[Row]) -> Iterator[Full]:
    """The pictures that these rows have just filled, on their way to pixels."""
    full_MPC = [row.undeveloped for row in rows if row.undeveloped is not None]
    if not full_MPC:
        return
    taken = job.darkroom.develop(
        [row.number for row in rows], [row.images - 1 for row in rows], torch.stack(full_MPC)
    )
    for row in rows:
        row.undeveloped = None
    yield from taken


def _leave(rows: list[Row]) -> Iterator[RowDone]:
    for row in [row for row in rows if row.ended]:
        rows.remove(row)
        yield RowDone(row.number, row.ended)


def _read(job: Job, streams: Streams, rows: Sequence[Row]) -> None:
    """Each row's newest token or patch, embedded alone: what came before is in the cache."""
    if not rows:
        return
    drawing = [row for row in rows if row.turn is Turn.DRAW]
    streams.begin_anew([row.number for row in drawing if not row.patches])
    embeds_ND = job.backbone.embed([row.newest for row in rows])
    streams.read(embeds_ND, [row.number for row in rows], [row.number for row in drawing])
