"""The small world: names, English, and rows as functions of a seed."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from orthus_core.errors import DataError
from orthus_core.world.categories import GROUP_WORDS, KIND_OF_SUBGROUP
from orthus_core.world.english import join_list, with_article
from orthus_core.world.everyday_names import EVERYDAY_NAMES, PLAIN_NAMES
from orthus_core.world.records import MAKERS, record, records
from orthus_core.world.sprite_names import name_sprites, plain_name
from orthus_core.world.sprites import Sprite
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
    "label, name",
    [
        ("person: blond hair", "person with blond hair"),
        ("man: bald", "bald man"),
        ("woman: beard", "woman with a beard"),
        ("family: man, woman, boy", "family of a man, a woman and a boy"),
        ("A button (blood type)", "A button"),
        ("Japanese “here” button", "Japanese here button"),
        ("woman’s hat", "woman's hat"),
        ("one o’clock", "clock at one o'clock"),
        ("locked", "closed padlock"),
    ],
)
def test_a_label_becomes_a_name_that_fits_into_a_sentence(label: str, name: str):
    assert plain_name(Sprite("k", label)) == name


@pytest.mark.parametrize(
    "asked, label",
    [
        ("snowman", "snowman"),
        ("a cat", "cat"),
        ("the sun", "sun"),
        ("an aeroplane", "airplane"),
        ("Apple", "red apple"),
        ("green apple", "green apple"),
        ("car", "automobile"),
        ("dog face", "dog face"),
        ("a tree", "deciduous tree"),
        ("guitar", "guitar"),
    ],
)
def test_what_people_type_finds_its_sprite(world: World, asked: str, label: str):
    sprite = world.find(asked)
    assert sprite is not None and sprite.label == label


def test_an_unknown_name_finds_nothing(world: World):
    assert world.find("a floccinaucinihilipilification") is None


def test_a_name_means_one_sprite_only(world: World):
    owners = Counter(name.lower() for s in world.sprites for name in set(world.names(s).all))
    assert [name for name, count in owners.items() if count > 1] == []


def test_every_sprite_has_a_name_a_group_and_a_kind(world: World):
    assert len(world.sprites) + len(world.unseen) == len(world.pack)
    assert {sprite.subgroup for sprite in world.pack} <= KIND_OF_SUBGROUP.keys()
    assert {sprite.group for sprite in world.pack} == GROUP_WORDS.keys()


def test_every_everyday_name_belongs_to_a_sprite(world: World):
    labels = {sprite.label for sprite in world.pack}
    assert EVERYDAY_NAMES.keys() | PLAIN_NAMES.keys() <= labels
    sprites = [*world.sprites, *world.unseen]
    known = {name for sprite in sprites for name in world.names(sprite).all}
    assert {name for names in EVERYDAY_NAMES.values() for name in names} <= known


def test_the_later_of_two_sprites_with_one_name_is_left_out():
    names = name_sprites([Sprite("a", "cat"), Sprite("b", "Cat"), Sprite("c", "dog")])
    assert names.keys() == {"a", "c"}


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


def test_a_tone_and_a_twin_are_held_out_with_their_sprite(world: World):
    for sprite in world.sprites:
        for other in (*world.tones(sprite).values(), *world.twins(sprite).values()):
            assert world.colours(other) == world.colours(sprite)


def test_the_held_out_share_is_what_was_asked(world: World):
    plain = [sprite for sprite in world.sprites if not sprite.skin]
    pairs = [world.is_held_out(sprite, colour) for sprite in plain for colour in COLOURS]
    assert 0.04 < sum(pairs) / len(pairs) < 0.06


def test_what_is_held_out_never_changes():
    assert stable_share("2603", "blue") == pytest.approx(0.0625842, abs=1e-6)
