"""Rows join and leave a running batch between two steps, and what each draws and writes is what it
draws and writes alone.

The models compute in double precision, where matrix products of other sizes differ by 1e-15 and
pictures not at all, so that they are compared exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from orthus_core.data.pixels import to_image
from orthus_core.events import ImageDone, PatchDone, RowDone, TextPiece
from orthus_core.samplers.branches import Branches
from orthus_core.samplers.decode import ImageDecoder, ordered_events
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.generate import Job, RunningBatch, generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import patch_sampler_for
from orthus_core.samplers.prompt import Branch, Context, Guidance, Prompt
from orthus_core.samplers.sequence import SequenceState
from tests.conftest import make_tiny_model

BOS, SEP, WORD = 0, 38, 40
PICTURE = SamplingParams(max_images=1, steps=3)
RISING = replace(PICTURE, guidance_schedule="linear")  # drawn together with PICTURE
OTHER_STEPS = SamplingParams(
    max_images=1, steps=5, noise_scale=0.5, guidance_interval=(0, 700), guidance_schedule="linear"
)
TEXT = SamplingParams(max_images=0, max_text=9, temperature=1.0)
BOTH = SamplingParams(
    max_images=2, min_images=1, max_text=6, temperature=2.0, top_p=0.9, text_before_image=2
)


@pytest.fixture(scope="module")
def model():
    return make_tiny_model().double()


def prompt(number: int, length: int = 2) -> Prompt:
    own = Context((BOS, *(WORD + (number + n) % 50 for n in range(length)), SEP))
    against = Context((BOS, *(WORD + n for n in range(1 + number)), SEP))
    return Prompt(own, number, Guidance.text(2.0), (against,))


# Number, prompt, params, and the step before which it joins.
ROWS = [
    (0, prompt(0), PICTURE, 0),
    (1, prompt(1, 30), PICTURE, 1),
    (2, prompt(2, 5), TEXT, 1),
    (3, prompt(3), OTHER_STEPS, 2),
    (4, prompt(4, 3), BOTH, 2),
    (5, prompt(0)._replace(seed=5), RISING, 3),
    (6, prompt(6, 11), BOTH, 30),  # when all others have left
]


def told(events) -> dict[int, tuple]:
    """Tokens, pictures, the number of patches, and the end of each row."""
    found: dict[int, tuple[list[int], list[bytes], list[str], list[int]]] = {}
    for event in events:
        row = getattr(event, "row", None)
        if row is None:
            continue
        tokens, pictures, ends, patches = found.setdefault(row, ([], [], [], []))
        if isinstance(event, TextPiece):
            tokens += event.token_ids
        elif isinstance(event, ImageDone):
            pictures.append(to_image(event.pixels_3HW).tobytes())
        elif isinstance(event, PatchDone):
            patches.append(event.done)
        elif isinstance(event, RowDone):
            ends.append(event.reason)
    return {
        row: (tokens, pictures, len(patches), *ends)
        for row, (tokens, pictures, ends, patches) in found.items()
    }


class Joining:
    """Runs `ROWS` in one batch; rows of equal params share a job."""

    def __init__(self, model, cancelled: dict[int, int] | None = None) -> None:
        self.model, self.cancelled = model, cancelled or {}
        self.rows_at: list[list[int]] = []
        backbone, decoder = Backbone(model), ImageDecoder(model)
        self.jobs = {
            params: Job(
                model,
                params,
                (),
                patch_sampler_for(model, params) if params.max_images else None,
                backbone,
                decoder,
            )
            for params in (PICTURE, OTHER_STEPS, TEXT, BOTH)
        }
        self.jobs[RISING] = self.jobs[PICTURE]._replace(params=RISING)
        self.batch = RunningBatch(backbone)

    def events(self):
        with torch.no_grad():
            for step in range(60):
                for number, own, params, joins in ROWS:
                    if joins == step:
                        job = self.jobs[params]
                        sampler = job.patch_sampler
                        state = SequenceState(number, own, params, self.model.config, sampler)
                        self.batch.join(job, [state])
                for sequence in self.batch.sequences:
                    if self.cancelled.get(sequence.number) == step:
                        sequence.cancel()
                self.rows_at.append([sequence.number for sequence in self.batch.sequences])
                yield from self.batch.step()


@pytest.fixture(scope="module")
def alone(model):
    return {number: told(generate(model, [own], params))[0] for number, own, params, _ in ROWS}


def test_a_row_that_joins_in_the_middle_draws_and_writes_what_it_does_alone(model, alone):
    joining = Joining(model)
    assert told(ordered_events(joining.events())) == alone
    assert [0, 1, 2, 3, 4, 5] in joining.rows_at and [6] in joining.rows_at
    assert sum(len(pictures) for _, pictures, *_ in alone.values()) >= 6


@torch.no_grad()
def test_a_long_row_takes_no_memory_once_it_has_left(model):
    branches = Branches(Backbone(model))
    short = Branch((BOS, WORD, SEP), longest=9)
    branches.add({0: [short], 1: [Branch((BOS, *[WORD] * 60, SEP), longest=90)]})
    branches.keep([0])
    branches.add({2: [short]})
    assert branches._cache.capacity == 9 + 1


def test_rows_that_are_cancelled_leave_and_change_no_other(model, alone):
    joining = Joining(model, cancelled={1: 3, 4: 5, 0: 0})
    found = told(ordered_events(joining.events()))
    assert [found[row][-1] for row in (0, 1, 4)] == ["cancelled"] * 3
    # A row draws in the step in which it joins: row 1 has drawn in both of its steps.
    assert found[0][:3] == ([], [], 0) and found[1][1:3] == ([], 2)
    left = (2, 3, 5, 6)
    assert {row: found[row] for row in left} == {row: alone[row] for row in left}
    assert all(1 not in rows for rows in joining.rows_at[4:])
