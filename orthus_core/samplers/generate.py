"""The loop that writes text and draws images: a generator of events over any number of prompts.

    for event in generate(model, prompts, SamplingParams(max_images=1)): ...

In each step, one pass of the backbone serves every sequence, whether it writes a token or draws a
patch. The text and the images of a sequence depend on its own prompt, seed and parameters only, not
on its batch. The batch size is given, or chosen from the free memory. When memory runs out in spite
of that, half the sequences continue from where they are, and the others wait: no patch is lost, and
none is drawn twice.

Read `RunningBatch.extend` first. engine.py makes a pass fast, and patch_sampler.py draws a patch;
reference.py does the same plainly, for one image.

Legend: N sequences in the same phase, R branches (the sequences' own and the other guidance
branches), V vocabulary, C feature channels, P patches, M finished images, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import LogitsProcessor

from orthus_core.device import free_bytes, is_out_of_memory, release_memory
from orthus_core.errors import ArgumentError, CheckpointError, PromptError
from orthus_core.events import Event, Note, RowDone
from orthus_core.model.config import DiscreteConfig
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

# Where to get a pixel decoder.
FOR_AN_ORTHUS = "convert again with --vqgan vqgan.ckpt, or train one with `orthus finetune-vae`"
FOR_A_CHAMELEON = (
    "Meta ships it apart, as tokenizer/vqgan.ckpt: `orthus convert ... --vqgan vqgan.ckpt` makes "
    "an Orthus that has it; Anole's folders (anole-7b) bring theirs"
)


Part = TypeVar("Part")
OnFailure = Callable[[int, Exception], None]


class Job(NamedTuple):
    """The parts that all sequences of a run share."""

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
    """Continues every prompt with text and images, and yields events as they happen.

    Args:
        model: Orthus or discrete Chameleon, with a pixel decoder if it is to draw.
        prompts: Prompts, one for each sequence.
        params: Amount of text and number of images, and how both are sampled.
        batch_size: Sequences side by side; "auto" takes as many as fit into memory, None takes all.
        processors: Logits processors of transformers for the text; each is called with the tokens
            of one sequence so far.

    Yields: TextPiece (with token ids; `with_words` adds the words), ImageBegun, PatchDone,
        ImageDone, and one RowDone for each sequence, numbered through all prompts; a Note when
        memory ran out.

    Raises:
        ArgumentError: For a `batch_size` below 1.
        PromptError: When a prompt does not fit the model (see `check_prompt`), and when memory does
            not suffice for one sequence.
        CheckpointError: When a model without a pixel decoder is to draw.
    """
    if isinstance(batch_size, int) and batch_size < 1:
        raise ArgumentError(
            f"{batch_size} sequences side by side",
            where="batch_size",
            hint="give a whole number from 1, or nothing",
        )
    with torch.autocast(model.device.type, enabled=False):
        job, sequences = prepare_batch(model, prompts, params, processors)
    if batch_size == "auto":
        batch_size = fitting_batch_size(job, sequences)
    with job.decoder:
        try:
            events = _in_turn(job, sequences, batch_size or len(sequences))
            yield from ordered_events(_in_own_precision(events, model.device.type))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise _too_large(job) from error
            raise


def _in_own_precision(
    events: Iterator[Event | PendingImage], device: str
) -> Iterator[Event | PendingImage]:
    """The events, each computed outside of a caller's `torch.autocast`: a seed is the same picture
    there, and the products for a CPU take one precision.
    """
    while True:
        with torch.autocast(device, enabled=False):
            event = next(events, None)
        if event is None:
            return
        yield event


def prepare_batch(
    model: InterleavedModel,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    processors: Sequence[LogitsProcessor] = (),
) -> tuple[Job, list[SequenceState]]:
    """The shared parts of a run, and a new sequence for each prompt. Raises: As `generate`."""
    check_prompts(model, prompts, params)
    patch_sampler = patch_sampler_for(model, params) if params.max_images else None
    job = Job(model, params, processors, patch_sampler, Backbone(model), ImageDecoder(model))
    return job, [
        SequenceState(n, prompt, params, model.config, patch_sampler)
        for n, prompt in enumerate(prompts)
    ]


def run_batch(job: Job, sequences: list[SequenceState]) -> Iterator[Event | PendingImage]:
    """Continues sequences until all have ended; each is removed from the list when it ends.

    A sequence makes a step completely or not at all. So the sequences that are left in the list
    after an error can continue later.
    """
    batch = RunningBatch(job.backbone)
    batch.join(job, sequences)
    batch.sequences = sequences
    while sequences:
        yield from batch.step()


class RunningBatch:
    """Sequences that are continued side by side. Others join between two steps, and those that have
    ended leave; none of this changes what the others write and draw.

    Args:
        backbone: Reads all of them.
        on_failure: Called with the number of a sequence whose token could not be chosen, and the
            error; that sequence ends, and the others continue. None raises the error.

    Attributes:
        sequences: The sequences; each is removed when it ends.
    """

    def __init__(self, backbone: Backbone, on_failure: OnFailure | None = None) -> None:
        self.sequences: list[SequenceState] = []
        self._on_failure = on_failure
        self._jobs: dict[int, Job] = {}
        self._backbone, self._branches = backbone, Branches(backbone)

    def join(self, job: Job, sequences: Sequence[SequenceState]) -> None:
        """Adds sequences, whose job has this backbone; call it between two steps."""
        self.sequences.extend(sequences)
        self._jobs |= {sequence.number: job for sequence in sequences}

    def step(self) -> Iterator[Event | PendingImage]:
        """One step of every sequence."""
        yield from self.extend()
        self.read()

    def extend(self) -> Iterator[Event | PendingImage]:
        """The first part of a step: every sequence grows by a token or a patch."""
        sequences, branches = self.sequences, self._branches
        # 1. Read the prompts of those that have joined, and the contexts of their other guidance
        # branches. Those that begin with an image read [BOI] in the same pass, and draw at once.
        joined = [each for each in sequences if not (each.ended or each.number in branches)]
        yield from _mark([each for each in joined if each.phase is Phase.OPEN], [])
        branches.add({sequence.number: sequence.branches for sequence in joined})
        at = {
            phase: [sequence for sequence in sequences if sequence.phase is phase]
            for phase in Phase
        }
        # 2. Sequences in text choose a token; those at the edge of an image append [BOI] or [EOI].
        yield from _write(self._jobs, branches, at[Phase.WRITE], self._on_failure)
        yield from _mark(at[Phase.OPEN], at[Phase.CLOSE])
        # 3. Sequences in an image draw its next patch, all at once that are drawn alike.
        for patch_sampler, drawing in self._by(lambda job: job.patch_sampler, at[Phase.DRAW]):
            assert patch_sampler is not None, "a row draws only where pictures are wanted"
            yield from _draw(patch_sampler, branches, drawing)
        # 4. Images with all patches become pixels.
        full = [sequence for sequence in sequences if sequence.undecoded is not None]
        for decoder, drawn in self._by(lambda job: job.decoder, full):
            yield from _submit_images(decoder, drawn)
        # 5. Sequences that have ended leave.
        for sequence in [sequence for sequence in sequences if sequence.ended]:
            sequences.remove(sequence)
            del self._jobs[sequence.number]
            yield RowDone(sequence.number, sequence.ended)
        branches.keep([sequence.number for sequence in sequences])

    def read(self) -> None:
        """The second part of a step: the backbone reads the new tokens and patches, in one pass."""
        _read(self._backbone, self._branches, self.sequences)

    def _by(
        self, part: Callable[[Job], Part], sequences: Sequence[SequenceState]
    ) -> list[tuple[Part, list[SequenceState]]]:
        """The sequences in groups with the same part of their jobs."""
        groups: dict[int, tuple[Part, list[SequenceState]]] = {}
        for sequence in sequences:
            own = part(self._jobs[sequence.number])
            groups.setdefault(id(own), (own, []))[1].append(sequence)
        return list(groups.values())


def check_prompts(
    model: InterleavedModel, prompts: Sequence[Prompt], params: SamplingParams
) -> None:
    """Checks that the model can continue these prompts. Raises: As `generate`."""
    if params.max_images and model.model.vqmodel.decoder is None:
        raise CheckpointError(
            "this model has no pixel decoder, so it can read pictures but draw none",
            where="model.vqmodel.decoder",
            hint=FOR_A_CHAMELEON if isinstance(model.config, DiscreteConfig) else FOR_AN_ORTHUS,
        )
    if params.max_images and None in (model.config.boi_token_id, model.config.eoi_token_id):
        raise CheckpointError(
            "the vocabulary names no tokens for the beginning and the end of a picture",
            where="config.json: boi_token_id, eoi_token_id",
            hint="the tokenizer must be the checkpoint's own",
        )
    if not prompts:
        raise PromptError("there is no prompt", where="prompts")
    if getattr(model.config, "distilled_guidance", None) is not None:
        _check_one_stream(prompts)
    for prompt in prompts:
        check_prompt(model.config, prompt, must_draw=params.owed_images > 0)


def _check_one_stream(prompts: Sequence[Prompt]) -> None:
    """Raises: PromptError for a prompt with streams to guide by, of a model guided inside."""
    if any(prompt.negatives for prompt in prompts):
        raise PromptError(
            "the prompt has other streams to guide by, and this model is guided in its one",
            where="prompt.negatives",
            hint="make it with the parameters of SamplingParams.resolve, or with guidance 1",
        )


def _write(
    jobs: Mapping[int, Job],
    branches: Branches,
    sequences: Sequence[SequenceState],
    on_failure: OnFailure | None,
) -> Iterator[Event]:
    """Chooses one token for each sequence; the LM head runs for these sequences only."""
    if not sequences:
        return
    model = jobs[sequences[0].number].model
    logits_NV = model.text_logits(branches.own([sequence.number for sequence in sequences]))
    for sequence, logits_V in zip(sequences, logits_NV, strict=True):
        try:
            token = _chosen(jobs[sequence.number], sequence, logits_V)
        except Exception as error:
            # Memory that runs out concerns the whole batch, which continues with fewer sequences.
            if on_failure is None or is_out_of_memory(error):
                raise
            sequence.cancel()
            on_failure(sequence.number, error)
            continue
        yield from sequence.say(token)


def _chosen(job: Job, sequence: SequenceState, logits_V: Tensor) -> int:
    """The next token of a sequence."""
    params = job.params
    return choose_token(
        logits_V,
        sequence.ids,
        never_chosen(job.model.config, may_begin_image=sequence.may_begin_image),
        processors=job.processors,
        warp=warpers(params.temperature, params.top_k, params.top_p),
        generator=sequence.text_random,
    )


def _mark(opening: Sequence[SequenceState], closing: Sequence[SequenceState]) -> Iterator[Event]:
    """Appends [BOI] and [EOI] where the rules require them."""
    for sequence in opening:
        yield from sequence.open()
    for sequence in closing:
        yield from sequence.close()


def _draw(
    patch_sampler: PatchSampler, branches: Branches, sequences: Sequence[SequenceState]
) -> Iterator[Event]:
    """Draws the next patch of each sequence's image."""
    features_NC = patch_sampler.draw(
        branches.all([sequence.number for sequence in sequences]),
        torch.stack([sequence.next_noise() for sequence in sequences]),
        mixing([sequence.guidance for sequence in sequences]),
        [len(sequence.patches) for sequence in sequences],
    )
    for sequence, feature_C in zip(sequences, features_NC, strict=True):
        yield from sequence.draw(feature_C)


def _submit_images(
    decoder: ImageDecoder, sequences: Sequence[SequenceState]
) -> Iterator[PendingImage]:
    """Hands the images that these sequences have just completed to the decoder."""
    full_MPC = [sequence.undecoded for sequence in sequences if sequence.undecoded is not None]
    taken = decoder.submit(
        [sequence.number for sequence in sequences],
        [sequence.images - 1 for sequence in sequences],
        torch.stack(full_MPC),
    )
    for sequence in sequences:
        sequence.undecoded = None
    yield from taken


def _read(backbone: Backbone, branches: Branches, sequences: Sequence[SequenceState]) -> None:
    """Reads each sequence's newest token or patch; all earlier ones are in the cache."""
    if not sequences:
        return
    drawing = [sequence for sequence in sequences if sequence.phase is Phase.DRAW]
    branches.reset_negatives([sequence.number for sequence in drawing if not sequence.patches])
    embeds_ND = backbone.embed([sequence.newest for sequence in sequences])
    branches.read(
        embeds_ND,
        [sequence.number for sequence in sequences],
        [sequence.number for sequence in drawing],
    )


def fitting_batch_size(job: Job, sequences: Sequence[SequenceState]) -> int:
    """The number of sequences that fit together into the memory that is free now."""
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
    """Runs batches of `size`, and halves the size when memory runs out."""
    while waiting:
        seated, waiting = waiting[:size], waiting[size:]
        try:
            yield from run_batch(job, seated)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(seated) == 1:
                raise
        # Here the error and the tensors it referred to are gone, and their memory is free again.
        job.backbone.forget()
        release_memory(job.model.device)
        size = len(seated) // 2
        waiting = seated + waiting
        yield Note(f"memory does not hold {len(seated)} at once: going on with {size}")


def _too_large(job: Job) -> PromptError:
    return PromptError(
        f"not enough memory on {job.model.device} for one at a time",
        where="memory",
        hint="close other programs, shorten the prompt, or draw with --dtype bf16 or --device cpu",
    )
