"""Stories: each picture follows from its sentence, and what is held out is told in tests only."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import pytest

from orthus_core.data.document import Document, Segment
from orthus_core.errors import DataError
from orthus_core.world.backdrops import GROUND_WORDS, place_of
from orthus_core.world.cast import ACTORS, FOOD
from orthus_core.world.scene import LARGE, SMALL, WHOLE, Scene, SceneImage
from orthus_core.world.splits import scene_held_out, story_held_out
from orthus_core.world.sprites import SpritePack
from orthus_core.world.story_events import EVENTS, StoryState, scene_of_state
from orthus_core.world.story_rows import CONTINUE, WorldStory, make_story, story
from orthus_core.world.world import World


@pytest.fixture(scope="module")
def stories(world: World) -> list[WorldStory]:
    rng = random.Random(2)
    return [make_story(rng, world, rng.randint(2, 8)) for _ in range(250)]


def rows(world: World, count: int) -> list[tuple[Segment, ...]]:
    rng = random.Random(3)
    return [story(rng, world) for _ in range(count)]


def read_again(state: StoryState, text: str) -> StoryState:
    """The state after a sentence, worked out from its words alone."""
    hero, friend, thing, holder = state.hero, state.friend, state.thing, state.holder
    ground, _, sky = state.backdrop.partition(" ")
    words = re.sub(r"\b(the|a|an) ", "", text.rstrip("."))
    skies = {
        "night falls": "night",
        "morning comes": "day",
        "sun goes down": "sunset",
        "it starts to rain": "rain",
        "rain stops": "day",
    }
    if words in skies:
        sky = skies[words]
    elif match := re.fullmatch(r"(.+) walks? to (.+)", words):
        assert match[1] == (f"{hero} and {friend}" if friend else hero)
        (ground,) = (g for g, phrase in GROUND_WORDS.items() if phrase.endswith(match[2]))
        sky = sky or "day"
    elif match := re.fullmatch(r"(.+) meets (.+)", words):
        assert match[1] == hero and not friend
        friend = match[2]
    elif match := re.fullmatch(r"(.+) finds (.+)", words):
        assert match[1] == hero and not thing
        thing, holder = match[2], hero
    elif match := re.fullmatch(r"(.+) (eats|loses) (.+)", words):
        assert (match[1], match[3]) == (holder, thing)
        assert match[2] == "loses" or thing in FOOD
        thing = holder = ""
    elif match := re.fullmatch(r"(.+) gives (.+) to (.+)", words):
        assert (match[1], match[2]) == (holder, thing)
        holder = match[3]
        assert holder in (hero, friend) and holder != match[1]
    elif match := re.fullmatch(r"(.+) goes home", words):
        assert match[1] == friend
        if holder == friend:
            thing = holder = ""
        friend = ""
    elif match := re.fullmatch(r"(.+) turns into (.+)", words):
        assert match[1] == hero and match[2] != friend
        holder = match[2] if holder == hero else holder
        hero = match[2]
    else:
        raise AssertionError(f"nobody says {text!r}")
    return StoryState(hero, f"{ground} {sky}", friend, thing, holder)


def test_every_panel_follows_from_its_sentence_and_the_one_before(world: World, stories):
    for told in stories:
        for last, panel in pairwise(told.panels):
            assert read_again(last.state, panel.text) == panel.state
            assert panel.scene == scene_of_state(world, panel.state) != last.scene
            assert sorted(world.nouns(panel.scene)) == sorted(panel.state.entities)


def test_a_picture_and_a_sentence_lead_to_one_picture_only(world: World, stories):
    pictures: dict[tuple[Scene, str], Scene] = {}
    for told in stories:
        for last, panel in pairwise(told.panels):
            assert pictures.setdefault((last.scene, panel.text), panel.scene) == panel.scene


def test_everything_that_can_happen_does(stories):
    events = Counter(event for told in stories for _, event in told.cells)
    assert events.keys() == EVENTS.keys()
    assert events["meet"] > len(stories) / 3


def test_a_story_has_as_many_panels_as_asked_and_opens_with_its_hero(world: World):
    for panels in range(2, 9):
        told = make_story(random.Random(panels), world, panels)
        assert len(told.panels) == panels and told.panels[0].event == ""
        hero = told.panels[0].state.hero
        assert told.panels[0].text.startswith("once upon a time there was") and hero in ACTORS
        assert world.nouns(told.panels[0].scene) == [hero]


def test_a_hero_on_white_first_walks_to_a_place_by_day(stories):
    firsts = [told.panels[1] for told in stories if told.panels[0].scene.backdrop == "white"]
    assert len(firsts) > 50
    assert all(p.event == "walk" and place_of(p.scene.backdrop)[1] == "day" for p in firsts)


def test_where_all_stand_is_told_by_who_has_what(world: World):
    def stand(*state: str) -> list[tuple[str, int, int, int]]:
        scene = scene_of_state(world, StoryState(*state))
        return [(world.noun(t.sprite), t.x, t.y, t.side) for t in scene.things]

    assert stand("fox") == [("fox", 0, 0, WHOLE)]
    place = "beach night"
    fox, owl = ("fox", 0, 32, SMALL), ("owl", 32, 32, SMALL)
    assert stand("fox", place) == [("fox", 0, 16, LARGE)]
    assert stand("fox", place, "owl") == [fox, owl]
    assert stand("fox", place, "", "star", "fox") == [fox, ("star", 32, 32, SMALL)]
    assert stand("fox", place, "owl", "star", "fox") == [fox, owl, ("star", 0, 0, SMALL)]
    assert stand("fox", place, "owl", "star", "owl") == [fox, owl, ("star", 32, 0, SMALL)]


def test_a_friend_who_goes_home_takes_its_thing_along(world: World):
    goes_home, _ = EVENTS["go home"]
    state = StoryState("fox", "beach day", "owl", "star", "owl")
    assert goes_home(random.Random(0), world, state) == (
        "the owl goes home.",
        "owl",
        StoryState("fox", "beach day"),
    )
    kept = goes_home(
        random.Random(0), world, StoryState("fox", "beach day", "santa", "star", "fox")
    )
    assert kept and kept.sentence == "santa goes home." and kept.state.thing == "star"


def test_what_makes_no_sense_does_not_happen(world: World):
    def possible(state: StoryState) -> set[str]:
        return {
            name for name, (event, _) in EVENTS.items() if event(random.Random(0), world, state)
        }

    always = {"walk", "become"}
    assert possible(StoryState("fox", "snow night")) == always | {"meet", "find", "morning"}
    assert possible(StoryState("fox", "snow rain", "", "pizza", "fox")) == always | {
        "meet",
        "eat",
        "lose",
        "night",
        "dry",
    }
    assert possible(StoryState("fox", "snow day", "owl", "star", "owl")) == always | {
        "give",
        "lose",
        "go home",
        "sunset",
        "night",
        "rain",
    }


@pytest.mark.parametrize("testing", [False, True])
def test_training_tells_nothing_held_out_and_a_test_always_something(
    world: World, testing_world: World, testing: bool
):
    here, rng = testing_world if testing else world, random.Random(4)
    for _ in range(60):
        told = make_story(rng, here, rng.randint(2, 5))
        assert any(story_held_out(*cell) for cell in told.cells) == testing == told.held_out
        # The pictures themselves are ordinary: what is tested is the story.
        assert not any(scene_held_out(p.scene, here.nouns(p.scene)) for p in told.panels)


def test_a_row_asks_as_the_command_does_and_each_sentence_has_its_picture(world: World):
    forms = Counter()
    for row in rows(world, 300):
        document = Document(row)
        model = [segment.type for segment in document.model]
        assert model == ["text", "image"] * (len(model) // 2) and 1 <= len(model) // 2 <= 7
        *pictures, last = document.user
        text = last.value
        assert isinstance(text, str)
        if pictures:
            assert len(pictures) == 1 and text.endswith(CONTINUE)
            forms["wordless" if text == CONTINUE else "picture"] += 1
        else:
            assert CONTINUE not in text
            forms["opening" if text.startswith("once") else "ask"] += 1
    assert forms["wordless"] + forms["picture"] > 150
    assert min(forms[form] for form in ("wordless", "picture", "opening", "ask")) > 15


def test_a_story_that_is_asked_for_has_those_it_is_about(world: World):
    for row in rows(world, 200):
        asked = row[0].value
        if isinstance(asked, str) and (about := re.search(r"story about (.+)", asked)):
            named = re.sub(r"\b(a|an) ", "", about[1]).split(" and ")
            pictures = [s.value.scene for s in row if isinstance(s.value, SceneImage)]
            assert world.nouns(pictures[0]) == named[:1]
            shown_nouns = {noun for scene in pictures for noun in world.nouns(scene)}
            assert set(named) <= shown_nouns


def test_most_rows_are_short(world: World):
    pictures = [sum(segment.type == "image" for segment in row) for row in rows(world, 300)]
    assert max(pictures) <= 8
    assert sum(count <= 5 for count in pictures) > 0.85 * len(pictures)


def test_a_seed_gives_the_same_story_again(world: World):
    assert rows(world, 20) == rows(world, 20)


def test_without_the_cast_no_story_can_be_told(world: World, monkeypatch):
    pack: SpritePack = world.pack
    poor = World(pack)
    monkeypatch.setattr(poor, "cast", dict(list(world.cast.items())[:9]))
    with pytest.raises(DataError, match="sprites that stories need"):
        make_story(random.Random(0), poor, 3)
