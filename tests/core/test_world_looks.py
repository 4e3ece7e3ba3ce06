"""Rows of every task show few looks: one sprite of each thing, in one style, at two sides."""

from __future__ import annotations

import itertools
import re

import pytest

from orthus_core.world.records import MAKERS, records
from orthus_core.world.scene import LARGE, SMALL, STEP, SceneImage, Thing
from orthus_core.world.world import World

ROWS = 200


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize("task", MAKERS)
def test_a_thing_is_shown_as_its_one_sprite_at_one_of_two_sides(
    world: World, testing_world: World, testing: bool, task: str
):
    here = testing_world if testing else world
    shown = {thing.sprites[0].key for thing in here.things.values()}
    shown |= {sprite.key for sprite in here.unseen}
    sides = set()
    for row in itertools.islice(records(here, {task: 1.0}, seed=11), ROWS):
        for segment in row.segments:
            if not isinstance(segment.value, SceneImage):
                continue
            things = segment.value.scene.things
            for thing in things:
                # The style is 3d, and nothing is mirrored or grey.
                assert thing == Thing(thing.sprite, thing.x, thing.y, thing.side, thing.colour)
                assert thing.sprite in shown, here.noun(thing.sprite)
                assert thing.x % STEP == thing.y % STEP == 0
                assert thing.side == SMALL or thing.side == LARGE and len(things) == 1
                sides.add(thing.side)
    alone = task in ("text_to_image", "caption", "edit")
    assert sides == ({LARGE} if alone else {SMALL, LARGE})


@pytest.mark.parametrize("task", MAKERS)
def test_no_text_names_a_style_or_asks_for_a_mirror(world: World, task: str):
    for row in itertools.islice(records(world, {task: 1.0}, seed=12), 2 * ROWS):
        words = " ".join(s.value for s in row.segments if isinstance(s.value, str)).lower()
        assert not re.search(r"\b(styles?|3d|flat|mirror\w*|flip|black and white)\b", words), words
