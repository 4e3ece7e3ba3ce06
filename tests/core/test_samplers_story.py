"""The story's controller: every panel has words and a picture, whatever the model wants."""

from __future__ import annotations

import pytest
import torch

from orthus_core.checkpoint.model_folder import open_model
from orthus_core.errors import PromptError
from orthus_core.events import ImageBegun, ImageDone, Note, PatchDone
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.story import (
    ContextWindow,
    PanelContext,
    PanelDone,
    StoryLogitsProcessor,
    StoryPlan,
    context_window,
    longest_text,
    panel_seed,
    tell,
)


@pytest.fixture(scope="module")
def builder(tiny_folder) -> PromptBuilder:
    opened = open_model(tiny_folder, device="cpu")
    return PromptBuilder(opened.model, opened.processor.tokenizer)


def told_by(
    builder: PromptBuilder,
    plan: StoryPlan,
    *,
    seed: int = 1,
    before=(),
    opening=("a red fox",),
    first=1,
    temperature=0.0,
):
    params = SamplingParams.resolve(builder.model.config, "story", steps=1, temperature=temperature)
    return list(tell(builder, list(opening), params, plan, seed=seed, before=before, first=first))


def panels_of(events) -> list[PanelDone]:
    return [event for event in events if isinstance(event, PanelDone)]


def notes_of(events) -> list[str]:
    return [event.message for event in events if isinstance(event, Note)]


def begun_by(events) -> list[ImageBegun]:
    return [event for event in events if isinstance(event, ImageBegun)]


@pytest.mark.parametrize("seed", range(20))
def test_twelve_panels_have_twelve_pictures_and_twelve_texts(builder, seed):
    plan = StoryPlan(panels=12, longest_text=4)
    panels = panels_of(told_by(builder, plan, seed=seed, temperature=float(seed > 0)))
    assert len(panels) == 12
    assert all(panel.pixels_3HW is not None for panel in panels)
    assert all(any(char.isalnum() for char in panel.text) for panel in panels)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_the_bundled_model_tells_twelve_panels(seed):
    opened = open_model("mini", device="cpu")
    builder = PromptBuilder(opened.model, opened.processor.tokenizer)
    panels = panels_of(
        told_by(builder, StoryPlan(panels=12), seed=seed, opening=["a story about a fox"])
    )
    assert len(panels) == 12
    assert all(panel.pixels_3HW is not None and panel.text for panel in panels)


class Wanting:
    """A model whose likeliest token is always the same, and "fox" where that may not be."""

    def __init__(self, builder: PromptBuilder, monkeypatch, token: int) -> None:
        text_logits = builder.model.text_logits

        def wanting(hidden_ND):
            logits_NV = text_logits(hidden_ND).clone()
            logits_NV[:, builder.tokenizer("fox", add_special_tokens=False).input_ids] = 1e3
            logits_NV[:, token] = 1e4
            return logits_NV

        monkeypatch.setattr(builder.model, "text_logits", wanting)


def test_a_model_that_would_end_is_led_on_and_that_is_said(builder, monkeypatch):
    Wanting(builder, monkeypatch, builder.model.config.eos_token_id)
    events = told_by(builder, StoryPlan(panels=3, longest_text=8))
    panels = panels_of(events)
    assert [panel.went_on for panel in panels] == [True] * 3
    assert [panel.forced for panel in panels] == [True] * 3
    assert [note for note in notes_of(events) if "goes on" in note] == [
        "the model would have ended the story before panel 1; it goes on, because 3 pictures are "
        "asked for"
    ]
    assert begun_by(events)[2] == ImageBegun(0, 2, forced=True, ending=True, panel=3)


def test_a_model_that_would_only_draw_says_a_word_first(builder, monkeypatch):
    Wanting(builder, monkeypatch, builder.model.config.boi_token_id)
    events = told_by(builder, StoryPlan(panels=3, longest_text=8))
    assert all(panel.text and not panel.forced for panel in panels_of(events))
    assert notes_of(events) == []
    assert not any(event.forced for event in begun_by(events)) and len(begun_by(events)) == 3


def test_a_model_that_would_only_write_is_interrupted(builder, monkeypatch):
    word = builder.tokenizer("fox", add_special_tokens=False).input_ids[0]
    Wanting(builder, monkeypatch, word)
    for free in (False, True):
        events = told_by(builder, StoryPlan(panels=3, longest_text=5, free=free))
        panels = panels_of(events)
        assert [len(panel.context.ids) for panel in panels] == [5, 5, 5]
        assert all(panel.forced for panel in panels)
        assert begun_by(events) == [
            ImageBegun(0, n, forced=True, ending=False, panel=n + 1) for n in range(3)
        ]
        assert notes_of(events) == []


def test_a_free_story_ends_when_the_model_ends_it_but_not_before_it_drew(builder, monkeypatch):
    Wanting(builder, monkeypatch, builder.model.config.eos_token_id)
    panels = panels_of(told_by(builder, StoryPlan(panels=5, longest_text=8, free=True)))
    assert len(panels) == 1 and panels[0].pixels_3HW is not None


def test_pictures_are_numbered_through_the_story(builder):
    events = told_by(builder, StoryPlan(panels=3, longest_text=3))
    images = [event.image for event in events if isinstance(event, ImageDone)]
    patches = sorted({event.image for event in events if isinstance(event, PatchDone)})
    assert images == patches == [0, 1, 2]


@pytest.mark.parametrize("free", [False, True])
def test_a_forced_picture_is_known_by_its_event(builder, monkeypatch, free):
    word = builder.tokenizer("fox", add_special_tokens=False).input_ids[0]
    Wanting(builder, monkeypatch, word)
    for first in (1, 4):  # with an opening of three panels the first is called 4
        events = told_by(builder, StoryPlan(panels=2, longest_text=3, free=free), first=first)
        assert [event.panel for event in begun_by(events)] == [first, first + 1]
        assert [panel.forced for panel in panels_of(events)] == [True, True]
        assert notes_of(events) == []


def test_a_story_does_not_depend_on_how_long_it_will_be(builder):
    short, long = (told_by(builder, StoryPlan(panels=n, longest_text=4)) for n in (2, 4))
    for one, other in zip(panels_of(short), panels_of(long), strict=False):
        assert one.text == other.text and torch.equal(one.pixels_3HW, other.pixels_3HW)


def test_a_story_goes_on_from_earlier_panels_as_if_it_had_never_stopped(builder):
    whole = panels_of(told_by(builder, StoryPlan(panels=4, longest_text=4)))
    before = [panel.context for panel in whole[:2]]
    rest = panels_of(told_by(builder, StoryPlan(panels=4, longest_text=4), before=before))
    assert [panel.number for panel in rest] == [3, 4]
    for one, other in zip(rest, whole[2:], strict=True):
        assert one.text == other.text and torch.equal(one.pixels_3HW, other.pixels_3HW)


def test_panels_that_are_not_kept_are_not_seen(builder):
    events = told_by(builder, StoryPlan(panels=5, longest_text=4, keep_panels=2))
    assert [panel.kept for panel in panels_of(events)] == [0, 1, 2, 2, 2]
    assert not any("context is full" in note for note in notes_of(events)), "it was asked for"


def test_each_panel_has_a_seed_of_its_own():
    seeds = {panel_seed(seed, number) for seed in range(20) for number in range(1, 13)}
    assert len(seeds) == 240 and all(0 <= seed < 2**63 for seed in seeds)


def test_a_window_keeps_the_opening_and_the_latest_panels(builder):
    config = builder.model.config
    opening = builder.context("a red fox")
    picture = torch.zeros(config.patches, config.vq_config.embed_dim)
    told = [PanelContext(tuple([50 + n] * 10), picture + n) for n in range(30)]
    found = context_window(config, opening, told, 20)
    assert isinstance(found, ContextWindow)
    ids, features_MPC = found.context
    assert 0 < found.kept < 30
    assert ids[: len(opening.ids)] == opening.ids and ids[-config.patches - 3] == 50 + 29
    assert features_MPC is not None and len(features_MPC) == found.kept
    assert float(features_MPC[0, 0, 0]) == 30 - found.kept
    capacity = config.max_position_embeddings - len(ids)
    assert 20 + config.patches + 2 <= capacity < 20 + 2 * (config.patches + 2) + 10
    assert context_window(config, opening, told, 20, most=3).kept == 3
    assert context_window(config, opening, [], 20) == ContextWindow(opening, 0)


def test_text_is_shorter_behind_a_long_opening_and_too_long_a_one_is_refused(builder):
    config = builder.model.config
    words = builder.tokenizer("fox", add_special_tokens=False).input_ids
    capacity = config.max_position_embeddings - config.patches - 2
    opening = builder.context("a red fox")
    assert longest_text(config, opening, 40) == 40
    long = opening._replace(ids=(*opening.ids, *words * 300)[: capacity - 7])
    assert longest_text(config, long, 40) == 7
    with pytest.raises(PromptError, match="begin with fewer"):
        longest_text(config, opening._replace(ids=(*opening.ids, *words * 300)[:capacity]), 40)


def test_words_are_counted_since_the_last_picture(builder):
    config = builder.model.config
    boi, eoi, sep = config.boi_token_id, config.eoi_token_id, config.sep_token_id
    word = builder.tokenizer("fox", add_special_tokens=False).input_ids
    scores = torch.zeros(1, config.vocab_size)

    def may_draw(*ids: int) -> bool:
        direction = StoryLogitsProcessor(config, builder.tokenizer, longest=8)
        return bool(direction(torch.tensor([list(ids)]), scores)[0, boi].isfinite())

    assert not may_draw(0, *word, sep) and may_draw(0, sep, *word)
    assert not may_draw(0, sep, *word, boi, 7, 7, 7, 7, eoi)
    assert may_draw(0, sep, *word, boi, 7, 7, 7, 7, eoi, *word)
