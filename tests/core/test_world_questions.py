"""Questions about sprites and scenes: each has the one right answer that its record gives."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from orthus_core.world import scene_questions, sprite_questions
from orthus_core.world.arrange import relation_between
from orthus_core.world.backdrops import is_outdoors
from orthus_core.world.categories import GROUP_WORDS, KIND_OF_SUBGROUP
from orthus_core.world.co_occurrence import POPULAR, companions
from orthus_core.world.english import the, with_article
from orthus_core.world.scene import Scene, SceneImage, Thing
from orthus_core.world.scene_questions import (
    HOW_MANY,
    IS_THERE,
    SPLITS,
    WHICH_COLOUR,
    SceneQuestion,
    ask_scene,
    pope_questions,
    scene_question,
)
from orthus_core.world.scenes import SceneSample, sample_scene
from orthus_core.world.sprite_questions import PictureQuestion, ask_single, caption, question
from orthus_core.world.wording import NUMBERS, describe, place_phrase, plural, with_colour
from orthus_core.world.wordings import RELATION_PHRASES, Phrases
from orthus_core.world.world import World


def asked_of_sprites(world: World, kind: str, count: int = 150) -> list[PictureQuestion]:
    rng = random.Random(kind)
    return [ask_single(rng, world, kind) for _ in range(count)]


def asked_of_scenes(world: World, kind: str, count: int = 120) -> list[PictureQuestion]:
    rng = random.Random(kind)
    return [ask_scene(rng, world, kind) for _ in range(count)]


def nouns_of(world: World, asked: PictureQuestion) -> list[str]:
    assert isinstance(asked.picture, SceneImage)
    return world.nouns(asked.picture.scene)


def said(table: Phrases, *fills: str, **named: str) -> set[str]:
    """A question in every trained wording."""
    return {phrase.format(*fills, **named) for phrase in table.trained}


@pytest.mark.parametrize("kind", ["name", "group", "kind", "background", "yes_or_no"])
def test_a_question_about_a_sprite_has_its_one_right_answer(world: World, kind: str):
    for asked in asked_of_sprites(world, kind):
        assert isinstance(asked.picture, SceneImage) and asked.kind == kind
        (thing,) = asked.picture.scene.things
        sprite, ground = world.pack[thing.sprite], asked.picture.scene.backdrop
        right = {
            "name": caption(world, sprite, ground),
            "group": GROUP_WORDS[sprite.group],
            "kind": KIND_OF_SUBGROUP[sprite.subgroup],
            "background": ground,
            "yes_or_no": "no",
        }[kind]
        if asked.question in said(sprite_questions.IS_IT, caption(world, sprite)):
            right = "yes"
        assert asked.answer == right


def test_the_colour_of_a_thing_is_the_one_laid_on(world: World):
    for asked in asked_of_sprites(world, "colour"):
        assert isinstance(asked.picture, SceneImage)
        (thing,) = asked.picture.scene.things
        assert asked.answer == thing.colour != ""


def test_a_thing_of_the_cast_is_called_alike_alone_and_in_scenes(world: World):
    car = world.find("car")
    assert car is not None and caption(world, car) == "a car"
    assert caption(world, car, "blue") == "a car on a blue background"


def test_what_is_outside_of_the_vocabulary_is_something_unknown(world: World, testing_world: World):
    for of in (world, testing_world):
        shown = set()
        for asked in asked_of_sprites(of, "unseen"):
            assert isinstance(asked.picture, SceneImage)
            (thing,) = asked.picture.scene.things
            assert of.pack[thing.sprite] in of.unseen
            assert (asked.answer, asked.kind) == ("something I do not know", "unseen")
            shown.add(asked.picture.scene.backdrop)
        assert len(shown) > 20


def test_captions_always_say_the_backdrop(world: World):
    car = world.find("car")
    assert car is not None and caption(world, car, "room") == "a car in a room"
    assert caption(world, car, "light blue") == "a car on a light blue background"
    assert caption(world, car, "beach night") == "a car on a beach at night"


def test_descriptions_counts_and_colours_are_those_of_the_record(world: World):
    for asked in asked_of_scenes(world, "description"):
        assert isinstance(asked.picture, SceneImage)
        assert asked.answer == describe(asked.picture.scene, nouns_of(world, asked))
    counts = set()
    for asked in asked_of_scenes(world, "count"):
        nouns = nouns_of(world, asked)
        (noun,) = (n for n in set(nouns) if asked.question in said(HOW_MANY, plural(n)))
        assert asked.answer == NUMBERS[nouns.count(noun)]
        counts.add(asked.answer)
    assert counts == {"one", "two", "three", "four"}
    for asked in asked_of_scenes(world, "colour"):
        assert isinstance(asked.picture, SceneImage)
        named = zip(nouns_of(world, asked), asked.picture.scene.things, strict=True)
        (colour,) = (
            t.colour for noun, t in named if asked.question in said(WHICH_COLOUR, the(noun))
        )
        assert asked.answer == colour


def test_what_cannot_be_counted_is_never_counted(world: World, monkeypatch):
    """A scene of grapes and scissors alone comes once in half a million rows, and is drawn anew."""

    def of(*nouns: str) -> Scene:
        return Scene(things=tuple(Thing(world.cast[noun].key) for noun in nouns))

    scenes = [of("grapes", "scissors"), of("grapes"), of("grapes", "cat", "cat")]
    monkeypatch.setattr(
        scene_questions, "sample_scene", lambda *_, **__: SceneSample(scenes.pop(0), "mixed")
    )
    asked = ask_scene(random.Random(0), world, "count")
    assert asked.question in said(HOW_MANY, "cats") and asked.answer == "two"
    assert not scenes


def test_where_and_which_are_each_others_answers(world: World):
    for kind in ("where", "which"):
        for asked in asked_of_scenes(world, kind):
            assert isinstance(asked.picture, SceneImage)
            first, second = asked.picture.scene.things
            told = set()
            for thing, other in ((first, second), (second, first)):
                noun, to = world.noun(thing.sprite), the(world.noun(other.sprite))
                relation = relation_between(thing, other)
                if kind == "where":
                    for be in ("is", "are"):
                        asks = said(scene_questions.WHERE, the=the(noun), **{"is": be})
                        told |= {(ask, f"{relation} {to}") for ask in asks}
                else:
                    phrase = with_article(with_colour(noun, thing.colour))
                    ends = [way for way in RELATION_PHRASES[relation].trained if _ENDS(way)]
                    places = [way.removeprefix("{a} ").format(b=to) for way in ends]
                    asks = {q for p in places for q in said(scene_questions.WHAT_IS, place=p)}
                    told |= {(ask, phrase) for ask in asks}
            assert relation and (asked.question, asked.answer) in told


def test_the_corner_of_a_thing_is_where_it_stands(world: World):
    corners = {(0, 0): "top left", (32, 0): "top right"}
    corners |= {(0, 32): "bottom left", (32, 32): "bottom right"}
    seen = set()
    for asked in asked_of_scenes(world, "corner"):
        assert isinstance(asked.picture, SceneImage)
        named = zip(nouns_of(world, asked), asked.picture.scene.things, strict=True)
        (thing,) = (
            thing
            for noun, thing in named
            for be in ("is", "are")
            if asked.question in said(scene_questions.CORNER, the=the(noun), **{"is": be})
        )
        assert asked.answer == corners[thing.x, thing.y]
        seen.add(asked.answer)
    assert seen == {*corners.values()}


def test_the_side_of_a_thing_is_that_of_its_middle_alone_and_beside_another(world: World):
    seen = set()
    for asked in asked_of_scenes(world, "side"):
        assert isinstance(asked.picture, SceneImage)
        things = asked.picture.scene.things
        (thing,) = {
            thing
            for noun, thing in zip(nouns_of(world, asked), things, strict=True)
            for be in ("is", "are")
            if asked.question
            in said(scene_questions.SIDE, the=the(noun), **{"is": be, "Is": be.capitalize()})
        }
        middle = thing.x + thing.side / 2
        assert asked.answer == ("left" if middle < 26 else "right" if middle > 38 else "middle")
        seen.add((len(things), asked.answer))
    assert seen == {(1, "left"), (1, "middle"), (1, "right"), (2, "left"), (2, "right")}


def test_only_outdoors_is_asked_for_its_place(world: World):
    for asked in asked_of_scenes(world, "place"):
        assert isinstance(asked.picture, SceneImage)
        assert is_outdoors(asked.picture.scene.backdrop)
        assert asked.answer == place_phrase(asked.picture.scene.backdrop)


@pytest.mark.parametrize("split", SPLITS)
def test_half_of_what_is_asked_for_is_there(world: World, split: str):
    rng = random.Random(split)
    answers: Counter[str] = Counter()
    nouns_of: dict[str, set[str]] = {}
    for noun in world.cast:
        for be in ("Is", "Are"):
            for words in said(IS_THERE, a=with_article(noun), Is=be):
                nouns_of.setdefault(words, set()).add(noun)
    for _ in range(200):
        scene, _ = sample_scene(rng, world)
        present = set(world.nouns(scene))
        for asked in pope_questions(rng, world, scene, split, pairs=2):
            (noun,) = nouns_of[asked.question]
            assert asked.answer == ("yes" if noun in present else "no")
            assert asked.kind == f"pope_{split}"
            answers[asked.answer] += 1
            if asked.answer == "no" and split == "popular":
                assert noun in POPULAR
            if asked.answer == "no" and split == "adversarial":
                near = {other for one in present for other in companions(one)} - present
                assert noun in near
    assert answers["yes"] == answers["no"] > 200


@pytest.mark.parametrize("split", SPLITS)
def test_training_questions_say_yes_half_of_the_time(world: World, split: str):
    answers = Counter(a.answer for a in asked_of_scenes(world, f"pope_{split}", 400))
    assert 0.4 < answers["yes"] / 400 < 0.6 and answers.total() == answers["yes"] + answers["no"]


def test_questions_come_as_often_as_their_weights_say(world: World):
    rng = random.Random(0)
    for kinds, ask in ((sprite_questions.KINDS, ask_single), (scene_questions.KINDS, ask_scene)):
        drawn = Counter(ask(rng, world).kind for _ in range(1000))
        assert drawn.keys() == kinds.keys()
        assert sum(kinds.values()) == pytest.approx(1.0)
        for kind, weight in kinds.items():
            assert abs(drawn[kind] / 1000 - weight) < 0.05


FIRST = [("user", "image"), ("user", "text"), ("model", "text")]


def test_a_row_of_a_sprite_has_up_to_eight_further_questions(world: World):
    rng, lengths, answers = random.Random(0), Counter(), Counter()
    tables = (sprite_questions.WHICH_GROUP, sprite_questions.WHICH_KIND)
    for _ in range(600):
        row = question(rng, world)
        assert [(s.role, s.type) for s in row] == FIRST + FIRST[1:] * ((len(row) - 3) // 2)
        (thing,) = row[0].value.scene.things  # type: ignore[union-attr]
        sprite = world.pack[thing.sprite]
        right = said(sprite_questions.IS_IT, caption(world, sprite))
        asked = [segment.value for segment in row[1::2]]
        assert len(set(asked)) == len(asked)
        assert all(len(said(table) & {*asked}) <= 1 for table in tables)
        for words, answer in zip(row[3::2], row[4::2], strict=True):
            if words.value in said(sprite_questions.WHICH_GROUP):
                assert answer.value == GROUP_WORDS[sprite.group]
            elif words.value in said(sprite_questions.WHICH_KIND):
                assert answer.value == KIND_OF_SUBGROUP[sprite.subgroup]
            else:
                assert answer.value == ("yes" if words.value in right else "no")
            answers[answer.value] += 1
        lengths[len(asked)] += 1
    assert {1, 2, 3, 4, 5, 6, 7} <= {*lengths} <= {*range(1, 10)}
    yes, no = answers.pop("yes"), answers.pop("no")
    assert 0.4 < yes / (yes + no) < 0.6
    assert 0.3 < answers.total() / (yes + no) < 0.7


def test_a_row_of_a_scene_asks_several_different_things(world: World, monkeypatch):
    abouts: list[str] = []
    for kind, asker in list(scene_questions._ASKERS.items()):

        def ask(rng, world, scene, asker=asker):
            asked = asker(rng, world, scene)
            abouts.append(asked.about)
            return asked

        monkeypatch.setitem(scene_questions._ASKERS, kind, ask)  # type: ignore[arg-type]
    rng, counts, answers = random.Random(0), Counter(), Counter()
    for _ in range(400):
        abouts.clear()
        row = scene_question(rng, world)
        answers.update(segment.value for segment in row[2::2])
        assert [(s.role, s.type) for s in row] == FIRST + FIRST[1:] * ((len(row) - 3) // 2)
        counts[len(row) // 2] += 1
        assert len(row) // 2 == len(set(abouts))
    assert 0.45 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.55
    assert 4 < sum(n * k for n, k in counts.items()) / 400 < 6


def test_each_further_question_has_an_answer_in_the_scene(world: World, monkeypatch):
    """No count where nothing can be counted, no relation of one thing, no place on white."""
    asked: list[tuple[str, Scene]] = []
    monkeypatch.setattr(
        scene_questions,
        "_ASKERS",
        {
            kind: lambda rng, world, scene, kind=kind: SceneQuestion(
                kind, "yes", f"{kind} {rng.random()}"
            )
            for kind in scene_questions.KINDS
        },
    )
    rng = random.Random(0)
    for _ in range(300):
        row = scene_question(rng, world)
        scene = row[0].value.scene  # type: ignore[union-attr]
        for segment in row[1::2]:
            kind = str(segment.value)
            asked.append((kind, scene))
            if kind == "place":
                assert is_outdoors(scene.backdrop)
            if kind in ("where", "which"):
                assert len({thing.sprite for thing in scene.things}) == 2
            if kind in ("corner", "side"):
                nouns = world.nouns(scene)
                assert any(nouns.count(noun) == 1 for noun in nouns)
            if kind == "colour":
                assert all(thing.colour for thing in scene.things)
            if kind == "count":
                assert any(noun in world.countable for noun in world.nouns(scene))
    assert {kind for kind, _ in asked} == {*scene_questions.KINDS}


_ENDS = re.compile(r"\{a\} (?!and ).* \{b\}$").match
