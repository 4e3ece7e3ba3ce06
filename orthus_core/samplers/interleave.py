"""The loop that writes and draws: a generator of events over any number of rows, each at its own
place.

    for event in interleave(model, prompts, Settings(max_images=1)): ...

One pass of the backbone a step serves every row, whether it writes a word or draws a patch. A row's
text and pictures depend on its own prompt, seed and settings alone, whatever batch it is in.

Legend: N rows at the same kind of turn, R streams (a row's own, and those it is guided against), V
vocabulary, C feature channels, P patches, M finished pictures, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.events import Event, ImageDone, RowDone
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.brush import Brush, brush_for
from orthus_core.samplers.guidance import mixing
from orthus_core.samplers.prompt import Prompt, check_prompt
from orthus_core.samplers.row import Row, Turn
from orthus_core.samplers.settings import Settings
from orthus_core.samplers.streams import Streams
from orthus_core.samplers.tokens import choose_token, never_chosen, warpers

# At 512 x 512 the decoder's activations are about half a GB a picture in fp32.
DECODED_AT_ONCE = 8
# Where a pixel decoder can be had.
FOR_AN_ORTHUS = "convert again with --vqgan vqgan.ckpt, or train one with `orthus finetune-vae`"
FOR_A_CHAMELEON = (
    "Meta ships it apart, as tokenizer/vqgan.ckpt: `orthus convert ... --vqgan vqgan.ckpt` makes "
    "an Orthus that has it; Anole's folders (anole-7b) bring theirs"
)


@torch.no_grad()
def interleave(
    model: InterleavedModel,
    prompts: Sequence[Prompt],
    settings: Settings,
    *,
    processors: Sequence[LogitsProcessor] = (),
) -> Iterator[Event]:
    """Writes and draws on from every prompt, and yields what happens as it happens.

    Args:
        model: Any Orthus or discrete Chameleon; with a pixel decoder if pictures are wanted.
        prompts: One a row.
        settings: How much text and how many pictures, and how both are sampled.
        processors: Transformers' logits processors for the text; each sees one row's tokens so far.

    Yields: TextPiece (token ids; the words are the tokenizer's to say), PatchDone, ImageDone, Note,
        one RowDone a row.

    Raises:
        PromptError: When a prompt does not fit the model (see `check_prompt`).
        CheckpointError: When pictures are wanted of a model without a pixel decoder.
    """
    # 1. Read every prompt, and all that its pictures are guided against.
    _check(model, prompts, settings)
    brush = brush_for(model, settings) if settings.max_images else None
    rows = [Row(n, prompt, settings, model.config, brush) for n, prompt in enumerate(prompts)]
    streams = Streams(model, [prompt.contexts for prompt in prompts])
    while rows:
        at = {turn: [row for row in rows if row.turn is turn] for turn in Turn}
        # 2. Rows at a word choose it; those at the edge of a picture say [BOI] or [EOI].
        yield from _write(model, streams, at[Turn.WRITE], settings, processors)
        yield from _mark(at[Turn.OPEN], at[Turn.CLOSE])
        # 3. Rows in a picture draw its next patch, all at once.
        yield from _draw(brush, streams, at[Turn.DRAW])
        # 4. Pictures that are full become pixels.
        yield from _develop(model, [row for row in at[Turn.DRAW] if row.picture_is_full])
        # 5. Rows at their end leave.
        yield from (RowDone(row.number, row.ended) for row in rows if row.ended)
        rows = [row for row in rows if not row.ended]
        streams.keep([row.number for row in rows])
        # 6. The backbone reads what is new, in one pass.
        _read(model, streams, rows)


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


def _write(
    model: InterleavedModel,
    streams: Streams,
    rows: Sequence[Row],
    settings: Settings,
    processors: Sequence[LogitsProcessor],
) -> Iterator[Event]:
    """One token for each row; the LM head runs for these rows only."""
    if not rows:
        return
    logits_NV = model.text_logits(streams.own([row.number for row in rows]))
    warp = warpers(settings.temperature, settings.top_k, settings.top_p)
    for row, logits_V in zip(rows, logits_NV, strict=True):
        token = choose_token(
            logits_V,
            row.ids,
            never_chosen(model.config, may_begin_image=row.may_begin_image),
            processors=processors,
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


def _draw(brush: Brush | None, streams: Streams, rows: Sequence[Row]) -> Iterator[Event]:
    """The next patch of each row's picture."""
    if not rows:
        return
    assert brush is not None, "a row draws only where pictures are wanted"
    features_NC = brush.draw(
        streams.all([row.number for row in rows]),
        torch.stack([row.next_noise() for row in rows]),
        mixing([row.prompt.guidance for row in rows]),
    )
    for row, feature_C in zip(rows, features_NC, strict=True):
        yield from row.draw(feature_C)


def _develop(model: InterleavedModel, rows: Sequence[Row]) -> Iterator[ImageDone]:
    """Pixels of the pictures that these rows have just filled."""
    for first in range(0, len(rows), DECODED_AT_ONCE):
        batch = rows[first : first + DECODED_AT_ONCE]
        features_MPC = torch.stack([torch.stack(row.patches) for row in batch])
        pixels_M3HW = model.decode_images(features_MPC).float()
        for row, pixels_3HW, features_PC in zip(batch, pixels_M3HW, features_MPC, strict=True):
            yield ImageDone(row.number, row.images - 1, pixels_3HW, features_PC)


def _read(model: InterleavedModel, streams: Streams, rows: Sequence[Row]) -> None:
    """Each row's newest token or patch, embedded alone: what came before is in the cache."""
    if not rows:
        return
    drawing = [row for row in rows if row.turn is Turn.DRAW]
    streams.begin_anew([row.number for row in drawing if not row.patches])
    # One by one: rounding depends on how many rows a product has, and a sharp softmax over codes
    # magnifies it.
    embeds_ND = torch.cat([_newest(model, row) for row in rows])
    streams.read(embeds_ND, [row.number for row in rows], [row.number for row in drawing])


def _newest(model: InterleavedModel, row: Row) -> Tensor:
    """The row's last token, or the patch in its place, as an input embedding: [1, D]."""
    if row.ids[-1] == model.config.image_token_id:
        return model.embed_features(row.patches[-1].unsqueeze(0))
    return model.embed(torch.tensor([[row.ids[-1]]], device=model.device))[0]
