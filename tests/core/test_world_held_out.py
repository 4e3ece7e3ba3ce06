"""What is held out stays out of every task's training rows, and is what test rows are about."""

from __future__ import annotations

import itertools

import pytest

from orthus_core.data.document import Document
from orthus_core.data.pictures import Picture
from orthus_core.world import splits
from orthus_core.world.records import MAKERS, records
from orthus_core.world.scene import SceneImage
from orthus_core.world.world import World

ROWS = 300


def rows(world: World, task: str, count: int = ROWS) -> list[Document]:
    return list(itertools.islice(records(world, {task: 1.0}, seed=7), count))


def pictures(row: Document) -> list[Picture]:
    return [s.value for s in row.segments if not isinstance(s.value, str)]


def shows_held_out(world: World, picture: Picture) -> bool:
    assert isinstance(picture, SceneImage)
    scene, nouns = picture.scene, world.nouns(picture.scene)
    sprites = [world.pack[thing.sprite] for thing in scene.things]
    alone = len(sprites) == 1 and not scene.things[0].colour and sprites[0] in world.sprites
    return (
        splits.scene_held_out(scene, nouns)
        or any(splits.sprite_held_out(s.key) for s in sprites if s not in world.sprites)
        or (alone and world.is_held_out(sprites[0], scene.backdrop))
    )


@pytest.mark.parametrize("task", MAKERS)
def test_training_never_shows_what_is_held_out(world: World, task: str):
    for row in rows(world, task):
        assert not any(shows_held_out(world, picture) for picture in pictures(row)), row


@pytest.mark.parametrize("task", ["text_to_image", "scene", "caption", "scene_question"])
def test_a_test_is_about_what_is_held_out(testing_world: World, task: str):
    for row in rows(testing_world, task):
        (picture,) = pictures(row)
        assert shows_held_out(testing_world, picture), row


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize("task", MAKERS)
def test_the_same_seed_makes_the_same_rows(
    world: World, testing_world: World, testing: bool, task: str
):
    of = testing_world if testing else world
    again = World(world.pack, styles=world.styles, testing=testing)
    assert rows(of, task, 40) == rows(again, task, 40)
