"""Stories: each picture follows from its sentence, and what is held out is told in tests only."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from orthus_core.data.document import Document, Segment
from orthus_core.errors import DataError
from orthus_core.world.backdrops import GROUND_WORDS, PLACES, place_of
from orthus_core.world.cast import ACTORS, FOOD
from orthus_core.world.scene import Scene, SceneImage
from orthus_core.world.splits import place_held_out, scene_held_out, story_held_out
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


# What each sentence changes, in the words of the state.
SKIES = {
    "night falls": "night",
    "it gets dark": "night",
    "soon it is night": "night",
    "morning comes": "day",
    "sun rises": "day",
    "next morning comes": "day",
    "sun goes down": "sunset",
    "sun sets": "sunset",
    "evening comes": "sunset",
    "it starts to rain": "rain",
    "rain begins to fall": "rain",
    "rain stops": "day",
    "it stops raining": "day",
}
GOES = r"(.+) (?:walks?|go|goes|travels?|dives?|swims?|fly|flies)(?: inside| into| under| to)+ (.+)"
MEETS = (
    r"(.+) meets (.+)",
    r"()then (.+) comes along",
    r"(.+) makes new friend, (.+)",
    r"(.+) sees (.+) and says hello",
    r"(.+) (?:builds|makes) (snowman)",
)
FINDS = (
    r"(.+) (?:finds|discovers|picks up) (.+?)(?: on ground)?",
    r"(.+) picks (.+)",
    r"it is birthday of (.+), and .+ brings (.+)",
    r".+ has (.+) for (.+)",
)
GIVES = (r"(.+) (?:gives|hands) (.+) to (.+)", r"(.+) gives (.+) (.+)")


def read_again(state: StoryState, text: str) -> StoryState:
    """The state after a sentence, worked out from its words alone."""
    hero, friend, thing, holder = state.hero, state.friend, state.thing, state.holder
    words = re.sub(r"\b(the|a|an) ", "", text.rstrip("."))

    def match(*patterns: str) -> tuple[str, ...]:
        found = (re.fullmatch(pattern, words) for pattern in patterns)
        return next((m.groups() for m in found if m), ())

    if words in SKIES:
        return state.under(SKIES[words])
    if said := match(r"(?:by magic, |suddenly )(.+) turns into (.+)"):
        assert said[0] == hero and said[1] != friend
        holder = said[1] if holder == hero else holder
        return replace(state, hero=said[1], holder=holder)
    if (said := match(r"(.+)(?: says goodbye and)? (?:goes home|has to leave)")) or (
        said := match(r"(.+) says goodbye and goes home")
    ):
        assert said[0].removesuffix(" says goodbye and") == friend
        left = state.without_thing() if holder == friend else state
        return replace(left, friend="")
    if said := match(*MEETS):
        assert said[0] in (hero, "") and not friend
        return replace(state, friend=said[1])
    if said := match(
        r"(.+?)(?: is hungry and)? (?:eats up|eats|loses|drops) (.+?)(?: and it is gone)?"
    ):
        assert said[:2] == (holder, thing)
        assert thing in FOOD or "eat" not in words
        return state.without_thing()
    if holder and friend and " give" in words or " hands " in words:
        other = friend if holder == hero else hero
        assert words in {
            f"{holder} gives {thing} to {other}",
            f"{holder} gives {other} {thing}",
            f"{holder} hands {thing} to {other}",
        }
        return replace(state, holder=other)
    if said := match(r"it is birthday of (.+), and (.+) brings (.+)", r"(.+) has (.+) for (.+)"):
        who, other, what = said if words.startswith("it") else (said[2], said[0], said[1])
        assert (who, other) == (hero, friend) and not thing
        return state.with_thing(what, hero)
    if said := match(*FINDS):
        assert said[0] == hero and not thing
        return state.with_thing(said[1], hero)
    if said := match(GOES):
        assert said[0] == (f"{hero} and {friend}" if friend else hero)
        (ground,) = (
            g
            for g, phrase in GROUND_WORDS.items()
            if re.sub(r"\b(the|a|an) ", "", phrase).endswith(said[1])
        )
        return state.at(ground)
    raise AssertionError(f"nobody says {text!r}")


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
        assert hero in told.panels[0].text and hero in ACTORS
        assert world.nouns(told.panels[0].scene) == [hero]


def test_a_hero_on_white_first_walks_to_a_place_by_day(stories):
    firsts = [told.panels[1] for told in stories if told.panels[0].scene.backdrop == "white"]
    assert len(firsts) > 50
    assert all(p.event == "walk" and place_of(p.scene.backdrop)[1] in ("day", "") for p in firsts)


def test_where_all_stand_is_told_by_who_has_what_and_the_hero_stays(world: World):
    def stand(
        hero: str, backdrop: str = "white", friend: str = "", thing: str = "", holder: str = ""
    ) -> list[tuple[str, int, int, int]]:
        scene = scene_of_state(world, StoryState(hero, backdrop, friend, thing, holder))
        return [(world.noun(t.sprite), t.x, t.y, t.side) for t in scene.things]

    assert stand("fox") == [("fox", 8, 8, 48)]
    place = "beach night"
    fox, owl = ("fox", 0, 32, 32), ("owl", 32, 32, 32)
    assert stand("fox", place) == [fox]
    assert stand("fox", place, "owl") == [fox, owl]
    assert stand("fox", place, "", "star", "fox") == [fox, ("star", 32, 32, 32)]
    assert stand("fox", place, "owl", "star", "fox") == [fox, owl, ("star", 0, 0, 32)]
    assert stand("fox", place, "owl", "star", "owl") == [fox, owl, ("star", 32, 0, 32)]


def test_a_hero_looks_the_same_in_all_pictures_until_it_becomes_another(stories):
    for told in stories:
        for last, panel in pairwise(told.panels):
            old, new = last.scene.things[0], panel.scene.things[0]
            assert (old.sprite == new.sprite) == (panel.event != "become")
            if last.state.ground:
                assert (old.x, old.y, old.side) == (new.x, new.y, new.side)


def test_after_a_place_without_a_sky_the_sky_is_as_it_was(world: World):
    state = StoryState("fox", "beach night").at("room")
    assert state.backdrop == "room" and state.sky == "night"
    assert state.at("snow").backdrop == "snow night"


def test_a_friend_who_goes_home_takes_its_thing_along(world: World):
    goes_home, _ = EVENTS["go home"]
    state = StoryState("fox", "beach day", "owl", "star", "owl")
    outcome = goes_home(random.Random(0), world, state)
    assert outcome and outcome[1:] == ("owl", StoryState("fox", "beach day"))
    kept = goes_home(
        random.Random(0), world, StoryState("fox", "beach day", "santa", "star", "fox")
    )
    assert kept and kept.sentence.startswith("santa ") and kept.state.thing == "star"


def test_what_makes_no_sense_does_not_happen(world: World):
    def possible(state: StoryState) -> set[str]:
        return {
            name for name, (event, _) in EVENTS.items() if event(random.Random(0), world, state)
        }

    always = {"walk", "become"}
    assert possible(StoryState("fox", "snow night")) == always | {
        "meet",
        "find",
        "build",
        "morning",
    }
    assert possible(StoryState("fox", "meadow rain", "", "pizza", "fox")) == always | {
        "meet",
        "eat",
        "lose",
        "dry",
    }
    assert possible(StoryState("fox", "meadow day", "owl")) == always | {
        "find",
        "pick",
        "present",
        "go home",
        "sunset",
        "rain",
    }
    assert possible(StoryState("fox", "space", "owl", "star", "owl")) == always | {
        "give",
        "lose",
        "go home",
    }
    assert "eat" not in possible(StoryState("robot", "snow day", "", "pizza", "robot"))


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


@pytest.mark.parametrize("testing", [False, True])
def test_a_hero_is_never_alone_where_training_never_shows_it(
    world: World, testing_world: World, testing: bool
):
    here, rng = testing_world if testing else world, random.Random(5)
    alone = set()
    for _ in range(400):
        for panel in make_story(rng, here, 4).panels:
            if panel.state.entities == (panel.state.hero,) and panel.state.ground:
                alone.add((panel.state.hero, panel.scene.backdrop))
    held_out = {(hero, place) for hero in ACTORS for place in PLACES if place_held_out(hero, place)}
    assert len(alone) > 200 and held_out and not alone & held_out


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
            forms["ask" if "story about" in text else "opening"] += 1
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


def test_most_stories_of_rows_have_three_panels_or_more(world):
    """A model learns from rows where a story ends: with half of them shorter than three panels,
    `mini` ended half of its stories of three panels after two.
    """
    panels = [
        sum(part.type == "image" and part.role == "model" for part in row)
        for row in rows(world, 200)
    ]
    assert sum(count >= 3 for count in panels) > 0.75 * len(panels) and max(panels) > 4
