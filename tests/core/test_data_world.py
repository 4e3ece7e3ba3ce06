"""The small world: names, English, and rows as functions of a seed."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from orthus_core.errors import DataError
from orthus_core.world.cast import CAST, KEEPSAKES
from orthus_core.world.categories import GROUP_WORDS, KIND_OF_SUBGROUP
from orthus_core.world.english import join_list, with_article
from orthus_core.world.records import MAKERS, record, records
from orthus_core.world.sprite_names import name_sprites
from orthus_core.world.sprites import Sprite
from orthus_core.world.vocabulary import is_passed_over, vocabulary
from orthus_core.world.world import COLOURS, World, stable_share

ALL_TASKS = dict.fromkeys(MAKERS, 1.0)


@pytest.mark.parametrize(
    "name, phrase",
    [
        ("cat", "a cat"),
        ("apple", "an apple"),
        ("french fries", "french fries"),
        ("ear of corn", "an ear of corn"),
        ("hourglass", "an hourglass"),
        ("unicorn", "a unicorn"),
        ("ufo", "a ufo"),
        ("ewe", "a ewe"),
        ("x-ray", "an x-ray"),
        ("SOS button", "an SOS button"),
        ("NEW button", "a NEW button"),
        ("bus", "a bus"),
        ("octopus", "an octopus"),
        ("compass", "a compass"),
        ("skis", "skis"),
        ("person lifting weights", "a person lifting weights"),
        ("people wrestling", "people wrestling"),
        ("wine glass", "a wine glass"),
        ("shaved ice", "shaved ice"),
        ("Santa Claus", "Santa Claus"),
        ("sun", "the sun"),
        ("sun with face", "a sun with face"),
    ],
)
def test_a_name_takes_the_article_people_give_it(name: str, phrase: str):
    assert with_article(name) == phrase


def test_a_list_ends_in_and():
    assert join_list(["a"]) == "a"
    assert join_list(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    "asked, label",
    [
        ("snowman", "snowman"),
        ("a cat", "cat"),
        ("the sun", "sun"),
        ("an aeroplane", "airplane"),
        ("Apple", "red apple"),
        ("car", "automobile"),
        ("a puppy", "dog"),
        ("a tree", "deciduous tree"),
        ("a cup of coffee", "hot beverage"),
        ("a boat", "sailboat"),
        ("a bunch of grapes", "grapes"),
        ("the moon", "crescent moon"),
        ("guitar", "guitar"),
    ],
)
def test_what_people_type_finds_its_sprite(world: World, asked: str, label: str):
    sprite = world.find(asked)
    assert sprite is not None and sprite.label == label


@pytest.mark.parametrize("name", ["a floccinaucinihilipilification", "a goose", "a chef"])
def test_a_name_that_is_unknown_or_not_taught_finds_nothing(world: World, name: str):
    assert world.find(name) is None


def test_a_name_means_one_thing_and_a_sprite_shows_one():
    names = Counter(n.lower() for entry in vocabulary() for n in (entry.name, *entry.others))
    labels = Counter(label for entry in vocabulary() for label in entry.labels)
    assert [word for word, count in (names | labels).items() if count > 1] == []


def test_the_vocabulary_is_bundled_whole_in_both_styles(world: World):
    assert list(world.things) == [entry.name for entry in vocabulary()]
    for entry in vocabulary():
        for style in world.styles:
            assert len(world.variants(entry.name, style)) == len(entry.labels), (style, entry)
    assert set(KEEPSAKES) <= set(CAST) <= world.things.keys()
    assert len(world.things) == 200 and len(CAST) == 126


def test_every_sprite_has_a_group_and_a_kind(world: World):
    assert {sprite.subgroup for sprite in world.pack} <= KIND_OF_SUBGROUP.keys()
    assert {sprite.group for sprite in world.pack} == GROUP_WORDS.keys()


def test_what_resembles_a_thing_of_the_vocabulary_is_never_asked_about(
    world: World, testing_world: World
):
    asked = {sprite.label for of in (world, testing_world) for sprite in of.unseen}
    named = {sprite.label for sprite in world.sprites}
    assert len(asked) > 250 and not asked & named
    assert not asked & {"oncoming taxi", "green apple", "two o’clock", "grinning squinting face"}
    assert is_passed_over("oncoming taxi", "transport-ground")
    assert not any(sprite.skin or sprite.gender for sprite in world.unseen)


def test_what_is_not_taught_is_neither_drawn_nor_asked_about(world: World, testing_world: World):
    untaught = {"goose", "cook", "fountain", "black cat", "maple leaf", "camel", "two-hump camel"}
    in_pack = {sprite.label for sprite in world.pack}
    drawn = {sprite.label for thing in world.things.values() for sprite in thing.sprites}
    asked = {sprite.label for of in (world, testing_world) for sprite in of.unseen}
    assert untaught <= in_pack and not untaught & (drawn | asked)
    assert all(is_passed_over(label, "animal-mammal") for label in untaught)
    assert not any(is_passed_over(entry.labels[0], "animal-mammal") for entry in vocabulary())


def test_the_variants_of_a_thing_have_its_names_and_its_grounds_and_one_is_drawn(world: World):
    cat, face = world.variants("cat")
    assert (cat.label, face.label) == ("cat", "cat face")
    assert world.cast["cat"] == cat and cat in world.sprites and face not in world.sprites
    assert world.noun(face.key) == "cat" and world.names(face) == world.names(cat)
    assert world.colours(face) == world.colours(cat)
    assert world.mirrors(cat.key) and not world.mirrors(world.variants("clock")[0].key)


def test_a_thing_needs_one_of_its_sprites_only():
    things = name_sprites([Sprite("a", "cat face"), Sprite("b", "oncoming taxi")])
    assert list(things) == ["cat"] and [s.key for s in things["cat"].sprites] == ["a"]


def test_a_row_depends_on_seed_and_number_alone(world: World):
    ordered_events = list(itertools.islice(records(world, ALL_TASKS, seed=1, start=5), 20))
    alone = [record(world, ALL_TASKS, 1, number) for number in reversed(range(5, 25))]
    assert ordered_events == alone[::-1]
    assert ordered_events != list(itertools.islice(records(world, ALL_TASKS, seed=2, start=5), 20))


def test_tasks_come_as_often_as_their_weights_say(world: World):
    drawn = Counter(
        record(world, {"caption": 3.0, "edit": 1.0}, 0, n).id.split("/")[0] for n in range(400)
    )
    assert drawn["story"] == 0 and 250 < drawn["caption"] < 350


@pytest.mark.parametrize("task", MAKERS)
def test_every_task_has_something_to_learn_and_an_end(world: World, task: str):
    for row in itertools.islice(records(world, {task: 1.0}, seed=1), 50):
        assert row.segments[-1].role == "model"
        assert any(segment.type == "image" for segment in row.segments)
        assert any(segment.type == "text" and segment.value for segment in row.segments)


@pytest.mark.parametrize("tasks", [{"poem": 1.0}, {}, {"edit": 0.0}])
def test_an_unknown_task_or_none_is_refused(world: World, tasks: dict[str, float]):
    with pytest.raises(DataError, match="no such task|no task has a weight"):
        record(world, tasks, 0, 0)


def test_the_held_out_share_is_what_was_asked(world: World):
    pairs = [world.is_held_out(sprite, colour) for sprite in world.sprites for colour in COLOURS]
    assert 0.04 < sum(pairs) / len(pairs) < 0.06


def test_what_is_held_out_never_changes():
    assert stable_share("2603", "blue") == pytest.approx(0.0625842, abs=1e-6)
