"""The loop that writes text and draws images: a generator of events over any number of prompts.

    for event in generate(model, prompts, SamplingParams(max_images=1)): ...

One pass of the backbone a step serves every sequence, whether it writes a token or draws a patch. A
sequence's text and images depend on its own prompt, seed and parameters alone, whatever batch it is
in. How many sequences run side by side is chosen from the memory that is free, or given; where
memory runs out all the same, half as many continue from where they are, and the others wait: no
patch is lost, and none is drawn twice.

`run_batch` is the story. How a pass is made fast is the business of engine.py, and how a patch is
drawn that of patch_sampler.py.

Legend: N sequences in the same phase, R branches (a sequence's own, and those it is guided
against), V vocabulary, C feature channels, P patches, M finished images, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from transformers import LogitsProcessor

from orthus_core.device import free_bytes, is_out_of_memory, release
from orthus_core.errors import CheckpointError, PromptError
from orthus_core.events import Event, Note, RowDone
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.branches import Branches
from orthus_core.samplers.decode import DECODED_AT_ONCE, ImageDecoder, PendingImage, ordered_events
from orthus_core.samplers.engine import TOKENS_AT_ONCE, Backbone
from orthus_core.samplers.memory_estimate import need
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import PatchSampler, patch_sampler_for
from orthus_core.samplers.prompt import Prompt, check_prompt, mixing
from orthus_core.samplers.sequence import Phase, SequenceState
from orthus_core.samplers.text import choose_token, never_chosen, warpers

# Where a pixel decoder can be had.
FOR_AN_ORTHUS = "convert again with --vqgan vqgan.ckpt, or train one with `orthus finetune-vae`"
FOR_A_CHAMELEON = (
    "Meta ships it apart, as tokenizer/vqgan.ckpt: `orthus convert ... --vqgan vqgan.ckpt` makes "
    "an Orthus that has it; Anole's folders (anole-7b) bring theirs"
)


class Job(NamedTuple):
    """What all rows share."""

    model: InterleavedModel
    params: SamplingParams
    processors: Sequence[LogitsProcessor]
    patch_sampler: PatchSampler | None
    backbone: Backbone
    decoder: ImageDecoder


# More sequences at once than this make each no cheaper, and the first image comes later.
MOST_AT_ONCE = 64
# Where nobody says how much memory is free.
CAUTIOUS = 4


@torch.no_grad()
def generate(
    model: InterleavedModel,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    batch_size: int | Literal["auto"] | None = None,
    *,
    processors: Sequence[LogitsProcessor] = (),
) -> Iterator[Event]:
    """Continues every prompt with text and images, and yields what happens as it happens.

    Args:
        model: Any Orthus or discrete Chameleon; with a pixel decoder if images are wanted.
        prompts: One a sequence.
        params: How much text and how many images, and how both are sampled.
        batch_size: Sequences side by side; "auto" is as many as fit into memory, None is all.
        processors: Transformers' logits processors for the text; each sees one sequence's tokens so
            far.

    Yields: TextPiece (token ids; the words are the tokenizer's to say), ImageBegun, PatchDone,
        ImageDone, one RowDone a sequence; rows are numbered through all prompts. A Note where
        memory ran out.

    Raises:
        PromptError: When a prompt does not fit the model (see `check_prompt`), and when memory does
            not suffice for one sequence.
        CheckpointError: When images are wanted of a model without a pixel decoder.
    """
    job, sequences = prepare_batch(model, prompts, params, processors)
    if batch_size == "auto":
        batch_size = fitting_batch_size(job, sequences)
    with job.decoder:
        try:
            yield from ordered_events(_in_turn(job, sequences, batch_size or len(sequences)))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise _too_large(job) from error
            raise


def prepare_batch(
    model: InterleavedModel,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    processors: Sequence[LogitsProcessor] = (),
) -> tuple[Job, list[SequenceState]]:
    """The prompts as rows that have not begun, and what they will need. Raises: As `generate`."""
    _check(model, prompts, params)
    patch_sampler = patch_sampler_for(model, params) if params.max_images else None
    job = Job(model, params, processors, patch_sampler, Backbone(model), ImageDecoder(model))
    return job, [
        SequenceState(n, prompt, params, model.config, patch_sampler)
        for n, prompt in enumerate(prompts)
    ]


def run_batch(job: Job, sequences: list[SequenceState]) -> Iterator[Event | PendingImage]:
    """Writes and draws on from where rows stand, until each is at its end and has left `rows`.

    Each row moves on as a whole or not at all, so those that are left when something fails can go
    on later.
    """
    # 1. Read every prompt, and all that its pictures are guided against.
    branches = Branches(
        job.backbone,
        {sequence.number: sequence.branches for sequence in sequences if not sequence.ended},
    )
    while sequences:
        at = {
            phase: [sequence for sequence in sequences if sequence.phase is phase]
            for phase in Phase
        }
        # 2. Rows at a word choose it; those at the edge of a picture say [BOI] or [EOI].
        yield from _write(job, branches, at[Phase.WRITE])
        yield from _mark(at[Phase.OPEN], at[Phase.CLOSE])
        # 3. Rows in a picture draw its next patch, all at once.
        yield from _draw(job, branches, at[Phase.DRAW])
        # 4. Pictures that are full become pixels.
        yield from _submit_images(
            job, [sequence for sequence in sequences if sequence.undecoded is not None]
        )
        # 5. Rows at their end leave.
        yield from _leave(sequences)
        branches.keep([sequence.number for sequence in sequences])
        # 6. The backbone reads what is new, in one pass.
        _read(job, branches, sequences)


def _check(model: InterleavedModel, prompts: Sequence[Prompt], params: SamplingParams) -> None:
    if params.max_images and model.model.vqmodel.decoder is None:
        raise CheckpointError(
            "this model has no pixel decoder, so it can read pictures but draw none",
            where="model.vqmodel.decoder",
            hint=FOR_A_CHAMELEON if isinstance(model, DiscreteChameleon) else FOR_AN_ORTHUS,
        )
    if params.max_images and None in (model.config.boi_token_id, model.config.eoi_token_id):
        raise CheckpointError(
            "the vocabulary names no tokens for the beginning and the end of a picture",
            where="config.json: boi_token_id, eoi_token_id",
            hint="the tokenizer must be the checkpoint's own",
        )
    if not prompts:
        raise PromptError("there is no prompt", where="prompts")
    for prompt in prompts:
        check_prompt(model.config, prompt, must_draw=params.owed_images > 0)


def _write(job: Job, branches: Branches, sequences: Sequence[SequenceState]) -> Iterator[Event]:
    """One token for each row; the LM head runs for these rows only."""
    if not sequences:
        return
    params = job.params
    logits_NV = job.model.text_logits(branches.own([sequence.number for sequence in sequences]))
    warp = warpers(params.temperature, params.top_k, params.top_p)
    for sequence, logits_V in zip(sequences, logits_NV, strict=True):
        token = choose_token(
            logits_V,
            sequence.ids,
            never_chosen(job.model.config, may_begin_image=sequence.may_begin_image),
            processors=job.processors,
            warp=warp,
            generator=sequence.text_random,
        )
        yield from sequence.say(token)


def _mark(opening: Sequence[SequenceState], closing: Sequence[SequenceState]) -> Iterator[Event]:
    """[BOI] and [EOI], which are no choice of the model."""
    for sequence in opening:
        yield from sequence.open()
    for sequence in closing:
        yield from sequence.close()


def _draw(job: Job, branches: Branches, sequences: Sequence[SequenceState]) -> Iterator[Event]:
    """The next patch of each row's picture."""
    if not sequences:
        return
    assert job.patch_sampler is not None, "a row draws only where pictures are wanted"
    features_NC = job.patch_sampler.draw(
        branches.all([sequence.number for sequence in sequences]),
        torch.stack([sequence.next_noise() for sequence in sequences]),
        mixing([sequence.prompt.guidance for sequence in sequences]),
        [len(sequence.patches) for sequence in sequences],
    )
    for sequence, feature_C in zip(sequences, features_NC, strict=True):
        yield from sequence.draw(feature_C)


def _submit_images(job: Job, sequences: Sequence[SequenceState]) -> Iterator[PendingImage]:
    """The pictures that these rows have just filled, on their way to pixels."""
    full_MPC = [sequence.undecoded for sequence in sequences if sequence.undecoded is not None]
    if not full_MPC:
        return
    taken = job.decoder.submit(
        [sequence.number for sequence in sequences],
        [sequence.images - 1 for sequence in sequences],
        torch.stack(full_MPC),
    )
    for sequence in sequences:
        sequence.undecoded = None
    yield from taken


def _leave(sequences: list[SequenceState]) -> Iterator[RowDone]:
    for sequence in [sequence for sequence in sequences if sequence.ended]:
        sequences.remove(sequence)
        yield RowDone(sequence.number, sequence.ended)


def _read(job: Job, branches: Branches, sequences: Sequence[SequenceState]) -> None:
    """Each row's newest token or patch, embedded alone: what came before is in the cache."""
    if not sequences:
        return
    drawing = [sequence for sequence in sequences if sequence.phase is Phase.DRAW]
    branches.reset_negatives([sequence.number for sequence in drawing if not sequence.patches])
    embeds_ND = job.backbone.embed([sequence.newest for sequence in sequences])
    branches.read(
        embeds_ND,
        [sequence.number for sequence in sequences],
        [sequence.number for sequence in drawing],
    )


def fitting_batch_size(job: Job, sequences: Sequence[SequenceState]) -> int:
    """How many rows fit side by side into the memory that is free now."""
    branches = [sequence.branches for sequence in sequences]
    free = free_bytes(job.model.device)
    if free is None:
        return CAUTIOUS
    needed = need(
        job.model,
        slots=1 + max(branch.longest for sequence in branches for branch in sequence),
        branches=max(map(len, branches)),
        tokens_at_once=TOKENS_AT_ONCE,
        decoded_at_once=DECODED_AT_ONCE if job.params.max_images else 0,
    )
    return min(MOST_AT_ONCE, needed.rows_in(free))


def _in_turn(job: Job, waiting: list[SequenceState], size: int) -> Iterator[Event | PendingImage]:
    """Rows in batches of `size`, and of ever fewer as memory demands."""
    while waiting:
        seated, waiting = waiting[:size], waiting[size:]
        try:
            yield from run_batch(job, seated)
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
