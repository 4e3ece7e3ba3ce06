"""The engine: each prompt read once and in parts, tokens in place, a step that can be recorded; and
none of it changes what is read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orthus_core.errors import CheckpointError
from orthus_core.events import ImageDone, TextPiece
from orthus_core.model.cpu_linear import FewRowLinears
from orthus_core.samplers import branches, engine, prefix_sharing
from orthus_core.samplers import generate as loop
from orthus_core.samplers.cuda_graph import CUDAGraphCache
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prefix_sharing import numbered, shared_prefix_lengths
from orthus_core.samplers.prompt import Branch, Context, Guidance, Prompt
from tests.conftest import make_tiny_model

BOS, EOI, BOI, SEP, IMAGE, WORD = 0, 36, 37, 38, 39, 40
PATCHES, CHANNELS = 4, 8
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def branch(*numbers: int) -> Branch:
    return Branch((BOS, *(WORD + number for number in numbers), SEP))


def with_picture(seed: int, *numbers: int) -> Branch:
    features = torch.randn(1, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(seed))
    picture = (BOI, *[IMAGE] * PATCHES, EOI)
    return Branch((BOS, *picture, *(WORD + number for number in numbers), SEP), (features,))


UNCONDITIONAL = Context((BOS, SEP))
STREAMS = [branch(1), branch(*range(30), *range(30)), with_picture(1, 2), branch(1), branch(3, 4)]


def read_whole(model, one: Branch, *more: int) -> Tensor:
    """Hidden state after a stream and further tokens, all read at once, without a cache: [D]."""
    ids = torch.tensor([[*one.ids, *more]])
    with torch.no_grad():
        return model.run_backbone(ids, one.features_NC).hidden_BSD[0, -1]


@pytest.mark.parametrize("tokens_at_once", [1, 7, 64, 4096])
@torch.no_grad()
def test_streams_of_very_different_lengths_are_read_in_parts_as_they_are_read_alone(
    tiny_model, monkeypatch, tokens_at_once
):
    monkeypatch.setattr(engine, "TOKENS_AT_ONCE", tokens_at_once)
    backbone = Backbone(tiny_model)
    slots, hidden_RD = backbone.read(STREAMS, 80)
    for one, hidden_D in zip(STREAMS, hidden_RD, strict=True):
        torch.testing.assert_close(hidden_D, read_whole(tiny_model, one), **CLOSE)
    # What was read is what the next tokens see, each stream at its own place.
    lengths = [len(one.ids) for one in STREAMS]
    for said in ([5, 6, 7, 8, 9], [9, 8, 7, 6, 5]):
        tokens = torch.tensor([WORD + word for word in said])
        hidden_RD = backbone.step(slots, tiny_model.embed(tokens.unsqueeze(0))[0], lengths)
        lengths = [length + 1 for length in lengths]
    for n, one in enumerate(STREAMS):
        expected = read_whole(tiny_model, one, WORD + 5 + n, WORD + 9 - n)
        torch.testing.assert_close(hidden_RD[n], expected, **CLOSE)


class Passes:
    """Shapes [rows, tokens] of what the backbone reads."""

    def __init__(self, model, monkeypatch) -> None:
        self.seen: list[tuple[int, int]] = []
        run_backbone = type(model).run_backbone

        def watched(self_, *args, **kwargs):
            self.seen.append(tuple(kwargs["inputs_embeds"].shape[:2]))
            return run_backbone(self_, *args, **kwargs)

        monkeypatch.setattr(type(model), "run_backbone", watched)


def test_seeds_of_a_prompt_and_what_they_are_guided_against_are_read_once(tiny_model, monkeypatch):
    passes = Passes(tiny_model, monkeypatch)
    context = Context((BOS, *[WORD + 1] * 20, SEP))
    prompts = [
        Prompt(context, seed, Guidance.text(3.0), (Context((BOS, SEP)),)) for seed in range(64)
    ]
    events = generate(tiny_model, prompts, SamplingParams(max_images=1, steps=2))
    pictures = {event.row: event.features_PC for event in events if isinstance(event, ImageDone)}
    # The texts with [BOI], then all patches but the last.
    assert passes.seen == [(2, 23), *[(128, 1)] * (PATCHES - 1)]
    monkeypatch.undo()
    for row in (0, 37, 63):
        alone = generate(tiny_model, [prompts[row]], SamplingParams(max_images=1, steps=2))
        (done,) = (event for event in alone if isinstance(event, ImageDone))
        torch.testing.assert_close(pictures[row], done.features_PC, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(pictures[0], pictures[1], atol=0.1)


def test_a_pass_over_prompts_has_no_more_tokens_than_allowed(tiny_model, monkeypatch):
    monkeypatch.setattr(engine, "TOKENS_AT_ONCE", 16)
    passes = Passes(tiny_model, monkeypatch)
    with torch.no_grad():
        Backbone(tiny_model).read([branch(*range(40)), branch(1, 2), branch(3)], 60)
    assert all(rows * tokens <= 16 for rows, tokens in passes.seen)
    # The short ones leave: the tail of the long prompt is read alone.
    assert passes.seen[0] == (3, 4 + 1) and passes.seen[-1][0] == 1


def test_texts_are_equal_only_where_words_and_pictures_are_the_same():
    first, same, other_picture, longer, words = numbered(
        [
            with_picture(1, 2),
            with_picture(1, 2),
            with_picture(3, 2),
            with_picture(1, 2, 2),
            branch(1),
        ],
        IMAGE,
    )
    assert first == same and len(first) == len(with_picture(1, 2).ids)
    assert len({first, other_picture, longer, words}) == 4
    # Up to its first patch, and in the words after it, another picture is the same.
    alike = [mine == theirs for mine, theirs in zip(first, other_picture, strict=True)]
    assert alike == [True, True, *[False] * PATCHES, True, True, True]


def test_texts_part_where_reading_them_as_one_is_worth_a_pass():
    stem, side = tuple(range(100)), tuple(range(500, 560))
    assert shared_prefix_lengths([(*stem, 1), (*stem, 2, 3), (9, 9)]) == [100]
    # A text that ends where others go on, and two partings one after the other.
    assert shared_prefix_lengths([stem, (*stem, *side, 1), (*stem, *side, 2), (*stem, 3)]) == [100]
    assert shared_prefix_lengths([stem, *((*stem, *side, n) for n in range(3)), (*stem, 3)]) == [
        100,
        160,
    ]
    assert (
        shared_prefix_lengths([(1, 2), (1, 3), (1, 4)]) == []
        and shared_prefix_lengths([stem]) == []
    )


EDIT = [with_picture(1, 2, 3), with_picture(1), branch(), with_picture(1, 2, 4), with_picture(2, 2)]


@pytest.mark.parametrize("worth", [1, 3, 10**6])
@pytest.mark.parametrize("tokens_at_once", [1, 5, 4096])
@torch.no_grad()
def test_what_streams_begin_with_is_read_once_and_they_read_as_alone(
    tiny_model, monkeypatch, worth, tokens_at_once
):
    monkeypatch.setattr(prefix_sharing, "TOKENS_WORTH_A_PASS", worth)
    monkeypatch.setattr(engine, "TOKENS_AT_ONCE", tokens_at_once)
    backbone = Backbone(tiny_model)
    slots, hidden_RD = backbone.read([*EDIT, EDIT[0]], 40)
    for one, hidden_D in zip([*EDIT, EDIT[0]], hidden_RD, strict=True):
        torch.testing.assert_close(hidden_D, read_whole(tiny_model, one), **CLOSE)
    lengths = [len(one.ids) for one in [*EDIT, EDIT[0]]]
    embeds_RD = tiny_model.embed(torch.full((1, 6), WORD + 7))[0]
    hidden_RD = backbone.step(slots, embeds_RD, lengths)
    for one, hidden_D in zip(EDIT, hidden_RD, strict=False):
        torch.testing.assert_close(hidden_D, read_whole(tiny_model, one, WORD + 7), **CLOSE)


def test_the_picture_of_an_edit_is_read_once(tiny_model, monkeypatch):
    monkeypatch.setattr(prefix_sharing, "TOKENS_WORTH_A_PASS", PATCHES)
    passes = Passes(tiny_model, monkeypatch)
    features = torch.randn(1, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(1))
    picture = (BOS, BOI, *[IMAGE] * PATCHES, EOI)
    prompt = Prompt(
        Context((*picture, WORD, WORD + 1, SEP), features),
        guidance=Guidance.edit(4.0, 1.5),
        negatives=(Context((*picture, SEP), features), UNCONDITIONAL),
    )
    list(generate(tiny_model, [prompt._replace(seed=n) for n in range(2)], SamplingParams(steps=2)))
    # The picture beside the unconditional prompt, then what follows it up to [BOI], then patches.
    assert passes.seen == [(2, 3 + PATCHES), (2, 4), *[(6, 1)] * (PATCHES - 1)]


@torch.no_grad()
def test_a_step_through_a_recording_is_the_step(tiny_model):
    """What a GPU plays back as a graph, a CPU calls: with the same buffers, and the same width."""
    plain, recorded = Backbone(tiny_model), Backbone(tiny_model, records=True)
    told = [backbone.read(STREAMS, 96) for backbone in (plain, recorded)]
    lengths = [len(one.ids) for one in STREAMS]
    for word in range(12):
        embeds_RD = tiny_model.embed(torch.full((1, len(STREAMS)), WORD + word))[0]
        hidden = [
            backbone.step(slots, embeds_RD, lengths)
            for backbone, (slots, _) in zip((plain, recorded), told, strict=True)
        ]
        torch.testing.assert_close(*hidden, **CLOSE)
        lengths = [length + 1 for length in lengths]


def test_a_picture_through_recordings_is_the_picture(tiny_model, monkeypatch):
    prompts = [
        Prompt(Context((BOS, *[WORD] * (1 + 9 * n), SEP)), n, Guidance.text(3.0), (UNCONDITIONAL,))
        for n in range(3)
    ]

    def pictures() -> Tensor:
        events = generate(tiny_model, prompts, SamplingParams(max_images=2, steps=5))
        return torch.stack([e.features_PC for e in events if isinstance(e, ImageDone)])

    plain = pictures()
    monkeypatch.setattr(loop, "Backbone", lambda model: Backbone(model, records=True))
    torch.testing.assert_close(pictures(), plain, atol=1e-3, rtol=1e-4)


@pytest.mark.gpu
@torch.no_grad()
def test_a_step_as_a_graph_is_the_step():
    model = make_tiny_model().cuda()
    plain, recorded = Backbone(model, records=False), Backbone(model)
    told = [backbone.read(STREAMS, 96) for backbone in (plain, recorded)]
    lengths = [len(one.ids) for one in STREAMS]
    for word in range(12):
        embeds_RD = model.embed(torch.full((1, len(STREAMS)), WORD + word, device="cuda"))[0]
        hidden = [
            backbone.step(slots, embeds_RD, lengths)
            for backbone, (slots, _) in zip((plain, recorded), told, strict=True)
        ]
        torch.testing.assert_close(*hidden, atol=1e-4, rtol=1e-4)
        lengths = [length + 1 for length in lengths]


class Everything:
    """Says which recordings were asked for."""

    def __init__(self) -> None:
        self.keys: set = set()

    def __call__(self, key, function, *inputs):
        self.keys.add(key)
        return function(*inputs)


@torch.no_grad()
def test_a_recording_serves_many_lengths(tiny_model, monkeypatch):
    monkeypatch.setattr(engine, "RECORDED_WIDTH", 32)
    backbone = Backbone(tiny_model, records=True)
    slots, _ = backbone.read([branch(1)], 80)
    backbone._recordings = recordings = Everything()  # type: ignore[assignment]
    embeds_RD = tiny_model.embed(torch.tensor([[WORD]]))[0]
    for length in range(3, 79):
        backbone.step(slots, embeds_RD, [length])
    assert recordings.keys == {32, 64, 80}
    backbone.forget()
    assert isinstance(backbone._recordings, CUDAGraphCache)


@torch.no_grad()
def test_keys_and_values_are_written_where_they_are(tiny_model):
    backbone = Backbone(tiny_model)
    slots, hidden_RD = backbone.read([branch(1), branch(2)], 20)
    before = [keys.data_ptr() for keys in slots._keys if keys is not None]
    for length in range(3, 20):
        backbone.step(slots, torch.zeros_like(hidden_RD), [length, length])
    assert before == [keys.data_ptr() for keys in slots._keys if keys is not None]
    assert len(before) == tiny_model.config.num_hidden_layers


@torch.no_grad()
def test_what_a_stream_forgot_leaves_no_trace(tiny_model):
    """It goes back, and what it reads anew is what it would have read at first."""
    backbone = Backbone(tiny_model)
    slots, _ = backbone.read([branch(1, 2), branch(3)], 40)
    embeds = {word: tiny_model.embed(torch.tensor([[WORD + word] * 2]))[0] for word in range(9)}
    first = [backbone.step(slots, embeds[word], [4 + word, 3 + word]) for word in (0, 1, 2)]
    for word in (7, 8, 6, 5):
        backbone.step(slots, embeds[word], [4 + word, 3])
    again = [backbone.step(slots, embeds[word], [4 + word, 3 + word]) for word in (0, 1, 2)]
    torch.testing.assert_close(torch.stack(again), torch.stack(first), atol=0, rtol=0)


def test_pictures_of_a_row_reuse_the_slots_of_what_they_are_guided_against(tiny_model):
    widths: list[int] = []
    read = Backbone.step

    def watched(self, slots, embeds_RD, places):
        widths.append(places[1])
        return read(self, slots, embeds_RD, places)

    prompt = Prompt(
        Context((BOS, WORD, SEP)), 1, Guidance.text(3.0), (Context((BOS, WORD, WORD, SEP)),)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "step", watched)
        list(generate(tiny_model, [prompt], SamplingParams(max_images=3, steps=2)))
    # [BOI] and all patches but the last, from the end of the prompt on, with which the first [BOI]
    # is read; the last patch and [EOI] are not read.
    anew = [4, 5, 6, 7]
    assert widths == [*anew[1:], 8, 8, *anew, 8, 8, *anew]


def test_a_text_longer_than_the_room_made_ahead_is_the_same(tiny_model, monkeypatch):
    prompts = [Prompt(Context((BOS, WORD + n, SEP)), n) for n in range(3)]

    def texts() -> list[tuple[int, int]]:
        settings = SamplingParams(max_images=0, max_text=60)
        events = generate(tiny_model, prompts, settings)
        return [(e.row, *e.token_ids) for e in events if isinstance(e, TextPiece)]

    at_once = texts()
    rooms: list[int] = []
    step = Backbone.step
    monkeypatch.setattr(
        Backbone, "step", lambda self, s, *rest: rooms.append(s.capacity) or step(self, s, *rest)
    )
    monkeypatch.setattr(branches, "ROOM_AHEAD", 0)
    assert texts() == at_once
    assert len(set(rooms)) > 2 and max(rooms) <= 3 + 60 + 1


def test_both_ways_to_attend_read_alike_and_others_are_refused():
    model = make_tiny_model()
    with torch.no_grad():
        _, by_sdpa = Backbone(model).read(STREAMS, 80)
        model.set_attn_implementation("eager")
        slots, by_hand = Backbone(model).read(STREAMS, 80)
    torch.testing.assert_close(by_hand, by_sdpa, **CLOSE)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(CheckpointError, match="flash_attention_2 takes none"):
        Backbone(model)


@torch.no_grad()
def test_sixteen_bit_models_attend_by_hand_too():
    model = make_tiny_model().to(torch.bfloat16)
    model.set_attn_implementation("eager")
    _, hidden_RD = Backbone(model).read(STREAMS, 80)
    assert hidden_RD.dtype == torch.bfloat16 and hidden_RD.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 1), (2, 5)])
@torch.no_grad()
def test_layers_asked_faster_give_the_same_and_are_left_as_they_were(shape):
    random = torch.Generator().manual_seed(0)
    layers = torch.nn.ModuleList([torch.nn.Linear(24, 40), torch.nn.Linear(24, 40, bias=False)])
    layers.append(torch.nn.Linear(24, 40).bfloat16())
    x = torch.randn(*shape, 24, generator=random)
    expected = [layer(x.to(layer.weight.dtype)) for layer in layers]
    products = FewRowLinears(layers)
    with products.faster():
        asked = [layer(x.to(layer.weight.dtype)) for layer in layers]
        assert ["forward" in vars(layer) for layer in layers] == [True, True, False]
    for one, other in zip(asked, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert one.shape == (*shape, 40)
    assert not any("forward" in vars(layer) for layer in layers)


def test_a_layer_that_others_have_changed_is_left_alone():
    layer = torch.nn.Linear(4, 4)
    layer.forward = lambda x: x
    with FewRowLinears(torch.nn.Sequential(layer)).faster():
        assert layer(3) == 3
    assert layer(3) == 3
