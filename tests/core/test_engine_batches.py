"""Batches: as many as fit, fewer when memory runs out, and nothing lost or drawn twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from orthus_core.errors import PromptError
from orthus_core.events import Event, ImageDone, Note, PatchDone, RowDone, TextPiece
from orthus_core.samplers import decode as decoding
from orthus_core.samplers import generate as loop
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.generate import fitting_batch_size, generate, prepare_batch
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import DiffusionPatchSampler
from orthus_core.samplers.prompt import Context, Guidance, Prompt
from tests.conftest import make_tiny_model

BOS, SEP, WORD, PATCHES = 0, 38, 40, 4
PICTURE = SamplingParams(max_images=1, steps=3)
STORY = SamplingParams(
    max_images=2, min_images=2, max_text=9, text_before_image=3, steps=3, temperature=1.0
)


@pytest.fixture(scope="module")
def model():
    """In float64, in which rounding leaves the fp32 features alone."""
    return make_tiny_model().double()


def prompts(count: int) -> list[Prompt]:
    """Of different lengths, each guided."""
    return [
        Prompt(
            Context((BOS, *[WORD + n] * (1 + n % 3), SEP)),
            seed=n,
            guidance=Guidance.text(3.0),
            negatives=(Context((BOS, WORD + 9, SEP)),),
        )
        for n in range(count)
    ]


def of_row(events: Sequence[Event], row: int) -> list[Event]:
    return [event for event in events if getattr(event, "row", None) == row]


def assert_same_rows(ours: Sequence[Event], theirs: Sequence[Event], count: int) -> None:
    """Each row tells the same, in the same order, once."""
    for row in range(count):
        mine, other = of_row(ours, row), of_row(theirs, row)
        assert [type(event) for event in mine] == [type(event) for event in other]
        for event, expected in zip(mine, other, strict=True):
            if isinstance(expected, ImageDone):
                assert isinstance(event, ImageDone) and event.image == expected.image
                torch.testing.assert_close(
                    event.features_PC, expected.features_PC, atol=1e-4, rtol=0
                )
                torch.testing.assert_close(event.pixels_3HW, expected.pixels_3HW, atol=1e-4, rtol=0)
            else:
                assert event == expected


class Fails:
    """Runs out of memory on some calls of a method, and does its work on all others."""

    def __init__(self, owner: type, method: str, when: Callable[[int, Any], bool], error) -> None:
        self.calls, self.failed = 0, 0
        inner = getattr(owner, method)

        def failing(self_, *args, **kwargs):
            self.calls += 1
            if when(self.calls, args):
                self.failed += 1
                raise error
            return inner(self_, *args, **kwargs)

        self.install = lambda patch: patch.setattr(owner, method, failing)


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")


@pytest.mark.parametrize("settings", [PICTURE, STORY], ids=["picture", "story"])
@pytest.mark.parametrize("size", [1, 2, 3, None, "auto"])
def test_any_size_of_batch_tells_the_same(model, settings, size):
    asked = prompts(5)
    whole = list(generate(model, asked, settings))
    assert_same_rows(list(generate(model, asked, settings, size)), whole, 5)


@pytest.mark.parametrize("error", [CUDA, CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("settings", [PICTURE, STORY], ids=["picture", "story"])
@pytest.mark.parametrize(
    ("owner", "method", "first"),
    [(Backbone, "read", 1), (Backbone, "step", 3), (DiffusionPatchSampler, "draw", 3)],
    ids=["prompt", "step", "patch"],
)
def test_out_of_memory_halves_the_batch_and_goes_on_from_there(
    model, monkeypatch, owner, method, first, settings, error
):
    asked = prompts(5)
    whole = list(generate(model, asked, settings))
    fails = Fails(owner, method, lambda call, _: call == first, error)
    fails.install(monkeypatch)
    events = list(generate(model, asked, settings, None))
    assert fails.failed == 1
    notes = [event.message for event in events if isinstance(event, Note)]
    assert "memory does not hold 5 at once: going on with 2" in notes
    assert_same_rows(events, whole, 5)
    patches = Counter((e.row, e.image, e.done) for e in events if isinstance(e, PatchDone))
    assert set(patches.values()) == {1}


def test_a_batch_is_halved_until_it_fits(model, monkeypatch):
    def too_many(_: int, args: Any) -> bool:
        return len(args[1]) > 2  # streams: one row's

    fails = Fails(Backbone, "step", too_many, CUDA)
    fails.install(monkeypatch)
    asked = prompts(8)
    events = list(generate(model, asked, PICTURE, 8))
    sizes = [event.message.split()[-1] for event in events if isinstance(event, Note)]
    assert sizes == ["4", "2", "1"]
    monkeypatch.undo()
    assert_same_rows(events, list(generate(model, asked, PICTURE)), 8)


def test_a_picture_is_not_lost_when_there_is_no_memory_to_decode_it(model, monkeypatch):
    fails = Fails(decoding.ImageDecoder, "_pixels", lambda call, _: call == 1, CUDA)
    fails.install(monkeypatch)
    events = list(generate(model, prompts(4), PICTURE, 4))
    monkeypatch.undo()
    assert_same_rows(events, list(generate(model, prompts(4), PICTURE)), 4)


def test_pictures_are_decoded_one_by_one_where_all_do_not_fit(model, monkeypatch):
    decode, sizes = decoding.decode, []

    def failing(model_, features_MPC):
        sizes.append(len(features_MPC))
        if len(features_MPC) > 1:
            raise CUDA
        return decode(model_, features_MPC)

    monkeypatch.setattr(decoding, "decode", failing)
    events = list(generate(model, prompts(3), PICTURE, 3))
    assert sizes == [3, 1, 1, 1]
    monkeypatch.undo()
    assert_same_rows(events, list(generate(model, prompts(3), PICTURE)), 3)
    assert not any(isinstance(event, Note) for event in events)


def test_a_worker_without_memory_says_so_too(model, monkeypatch):
    monkeypatch.setattr(
        loop, "ImageDecoder", lambda model: decoding.ImageDecoder(model, beside=True)
    )
    Fails(decoding.ImageDecoder, "_pixels", lambda *_: True, CUDA).install(monkeypatch)
    with pytest.raises(PromptError, match="not enough memory"):
        list(generate(model, prompts(2), PICTURE, 2))


def test_where_one_does_not_fit_it_says_so_after_what_was_finished(model, monkeypatch):
    asked = prompts(3)
    fails = Fails(Backbone, "step", lambda call, _: call > PATCHES, CPU)
    fails.install(monkeypatch)
    events: list[Event] = []
    with pytest.raises(PromptError, match="not enough memory on cpu for one"):
        for event in generate(model, asked, PICTURE, 1):
            events.append(event)
    assert [event.row for event in events if isinstance(event, ImageDone)] == [0]


def test_another_error_is_no_lack_of_memory(model, monkeypatch):
    Fails(Backbone, "step", lambda *_: True, RuntimeError("shapes differ")).install(monkeypatch)
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(generate(model, prompts(2), PICTURE))


def test_a_prompt_that_does_not_fit_is_refused_before_any_batch_is_drawn(model):
    asked = [*prompts(2), Prompt(Context((BOS, *[WORD] * 200, SEP)))]
    with pytest.raises(PromptError, match="tokens long"):
        next(generate(model, asked, PICTURE, 1))


@pytest.mark.parametrize(
    ("free", "expected"), [(0, 1), (10**13, loop.MOST_AT_ONCE), (None, loop.CAUTIOUS)]
)
def test_a_batch_is_as_large_as_memory_allows(model, monkeypatch, free, expected):
    monkeypatch.setattr(loop, "free_bytes", lambda _: free)
    job, rows = prepare_batch(model, prompts(5), PICTURE)
    assert fitting_batch_size(job, rows) == expected


def test_twice_the_memory_left_for_rows_is_twice_the_rows(model, monkeypatch):
    job, rows = prepare_batch(model, prompts(5), PICTURE)
    asked: dict[str, Any] = {}
    need = loop.need
    monkeypatch.setattr(loop, "need", lambda *a, **how: asked.update(how) or need(*a, **how))
    monkeypatch.setattr(loop, "free_bytes", lambda _: 0)
    fitting_batch_size(job, rows)
    # A row and what it is guided against; the longest prompt, [BOI], the patches, [EOI], one more.
    assert asked["branches"] == 2 and asked["slots"] == 5 + PATCHES + 2 + 1
    needed = need(model, **asked)
    for count in (3, 6, 12):
        free = (needed.fixed + count * needed.row) / (1 - 0.2) + 1000
        assert needed.rows_in(int(free)) == count


def test_a_text_goes_on_where_memory_ran_out(model, monkeypatch):
    """Sampled text too: a token that was said is not drawn again."""
    asked = [prompt._replace(guidance=Guidance.none(), negatives=()) for prompt in prompts(4)]
    settings = SamplingParams(max_images=0, max_text=8, temperature=1.0)
    whole = list(generate(model, asked, settings))
    Fails(Backbone, "step", lambda call, _: call == 4, CUDA).install(monkeypatch)
    events = list(generate(model, asked, settings, None))
    assert_same_rows(events, whole, 4)
    assert any(isinstance(event, TextPiece) for event in events)
    assert sum(isinstance(event, RowDone) for event in events) == 4
