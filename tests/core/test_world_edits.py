"""Edits: the instruction is done, nothing else is touched, and what is held out stays so."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from orthus_core.data.document import Document
from orthus_core.errors import DataError
from orthus_core.world.backdrops import COLOURS, has_floor, is_outdoors
from orthus_core.world.cast import COLOURED
from orthus_core.world.copy_task import KEEP, copy
from orthus_core.world.english import the
from orthus_core.world.scene import Scene, SceneImage, Thing
from orthus_core.world.scene_edits import (
    CLEAR_BACKGROUND,
    DIRECTIONS,
    KINDS,
    OWN_COLOURS,
    SET_SKY,
    SKY_NOUNS,
    SceneEdit,
    make_edit,
    place_for,
    scene_edit,
)
from orthus_core.world.splits import colour_held_out, edit_held_out
from orthus_core.world.sprite_edits import SpriteEdit, make_single_edit
from orthus_core.world.wording import describe_in_places
from orthus_core.world.world import World


def edits(world: World, kind: str | None = None, count: int = 150) -> list[SceneEdit]:
    rng = random.Random(f"{kind}/{world.testing}")
    return [make_edit(rng, world, kind) for _ in range(count)]


def touched(made: SceneEdit) -> list[Thing]:
    """What stands in one of the scenes and not in the other."""
    return [*{*made.before.things} ^ {*made.after.things}]


def test_a_seed_gives_the_same_edits_again(world: World):
    assert edits(world, count=40) == edits(world, count=40)
    assert {made.kind for made in edits(world)} == set(KINDS)


def test_an_edit_is_a_scene_words_and_the_changed_scene(world: World):
    document = Document(scene_edit(random.Random(1), world))
    assert [segment.type for segment in document.user] == ["image", "text"]
    said, after = document.model
    assert isinstance(after.value, SceneImage)
    nouns = world.nouns(after.value.scene)
    assert said.value == describe_in_places(after.value.scene, nouns)


def test_words_name_the_places_of_things_by_their_centres(world: World):
    dog, cat = (Thing(world.cast[noun].key) for noun in ("dog", "cat"))
    alone = Scene("white", (dog,))
    assert describe_in_places(alone, ["dog"]) == "a dog"
    large = replace(dog, x=16, y=16, side=48)
    assert (
        describe_in_places(Scene("meadow night", (large,)), ["dog"])
        == "a large dog bottom right, in a meadow at night"
    )
    several = (
        replace(dog, x=32, y=32, side=32, colour="red"),
        replace(cat, x=8, y=16, side=32),
        replace(cat, x=16, y=0, side=32),
        replace(dog, x=0, y=32, side=32),
    )
    assert describe_in_places(Scene("blue", several), ["dog", "cat", "cat", "dog"]) == (
        "a cat top, a cat left, a dog bottom left, a red dog bottom right, on a blue background"
    )


def test_a_copy_is_a_picture_words_and_the_same_picture(world: World, testing_world: World):
    for shown in (world, testing_world):
        rng, kinds = random.Random(2), set()
        for _ in range(60):
            document = Document(copy(rng, shown))
            before, words = document.user
            (after,) = document.model
            assert before.value == after.value and words.value in KEEP
            assert isinstance(after.value, SceneImage)
            kinds.add(len(after.value.scene.things))
        assert kinds == {1, 2, 3, 4}


@pytest.mark.parametrize("kind", KINDS)
def test_the_scenes_are_valid_and_no_thing_covers_another(world: World, kind: str):
    for made in edits(world, kind):
        assert made.kind == kind and made.before != made.after
        for scene in (made.before, made.after):
            scene.check()
            things = scene.things
            assert not any(a.overlaps(b) for i, a in enumerate(things) for b in things[:i])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "background"])
def test_pixels_outside_of_what_is_touched_stay_as_they_were(world: World, kind: str):
    for made in edits(world, kind, 25):
        changed_HW = (
            world.scene_image(made.before).load(128) != world.scene_image(made.after).load(128)
        ).any(-1)
        assert changed_HW.any()
        for thing in touched(made):
            x, y, side = 2 * thing.x, 2 * thing.y, 2 * thing.side
            box = np.s_[y : y + side, x : x + side]
            changed_HW[box] = False
        assert not changed_HW.any(), made.instruction


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_training_never_makes_a_held_out_edit_and_a_test_always_does(
    world: World, testing_world: World, kind: str, testing: bool
):
    here = testing_world if testing else world
    for made in edits(here, kind, 25 if testing else 150):
        assert not here.holds_out(made.before)
        ends_held_out = here.holds_out(made.after)
        assert (edit_held_out(*made.cell) or ends_held_out) == testing


def test_a_thing_and_words_and_a_scene_lead_to_one_scene_only(world: World):
    answers: dict[tuple[Scene, str], Scene] = {}
    for made in edits(world, count=1500):
        assert answers.setdefault((made.before, made.instruction), made.after) == made.after


def test_an_added_thing_has_its_place_and_all_else_stays(world: World):
    for made in edits(world, "add"):
        *kept, new = made.after.things
        assert tuple(kept) == made.before.things and 1 <= len(kept) <= 3
        assert made.noun == world.noun(new.sprite) and made.to == new.colour
        assert f" {new.colour} {made.noun}".replace("  ", " ") in made.instruction
        assert (new.x, new.y, new.side) == place_for(made.before)
        assert new.sprite == world.cast[made.noun].key


@pytest.mark.parametrize(
    "backdrop, standing, place",
    [
        ("white", [(0, 0, 32)], (32, 0, 32)),
        ("white", [(32, 32, 32)], (0, 32, 32)),
        ("white", [(16, 0, 32)], (32, 32, 32)),
        ("white", [(0, 0, 32), (32, 0, 32)], (0, 32, 32)),
        ("white", [(8, 8, 48)], None),
        ("meadow day", [(32, 32, 32)], (0, 32, 32)),
        ("meadow day", [(16, 0, 32), (16, 32, 32)], None),
    ],
)
def test_a_further_thing_stands_beside_the_first_if_there_is_room(backdrop, standing, place):
    things = tuple(Thing("", *box) for box in standing)
    assert place_for(Scene(backdrop, things)) == place


def test_what_is_removed_is_gone_and_all_else_stays(world: World):
    for made in edits(world, "remove"):
        nouns = world.nouns(made.before)
        assert made.after == made.before.without(nouns.index(made.noun))
        assert made.noun not in world.nouns(made.after) and made.after.things
        assert the(made.noun) in made.instruction


def test_what_is_replaced_leaves_its_place_to_the_other(world: World):
    for made in edits(world, "replace"):
        at = world.nouns(made.before).index(made.noun)
        old, new = made.before.things[at], made.after.things[at]
        assert world.nouns(made.after)[at] == made.to != made.noun
        assert (new.x, new.y, new.side) == (old.x, old.y, old.side)
        assert made.after.without(at) == made.before.without(at)


def test_a_moved_thing_goes_to_the_edge_and_two_swapped_change_places(world: World):
    ways = Counter()
    for made in edits(world, "move"):
        before = dict(zip(world.nouns(made.before), made.before.things, strict=True))
        after = dict(zip(world.nouns(made.after), made.after.things, strict=True))
        swapped = made.instruction.startswith(("swap", "switch", "interchange", "let"))
        if swapped:
            one, other = made.noun, made.to
            for noun, to in ((one, other), (other, one)):
                place = before[to]
                assert after[noun] == replace(before[noun], x=place.x, y=place.y)
        else:
            thing = after[made.noun]
            edge = {"left": thing.x, "up": thing.y}
            edge |= {"right": 64 - thing.side - thing.x, "down": 64 - thing.side - thing.y}
            assert edge[made.to] == 0
            assert made.instruction.endswith(DIRECTIONS[made.to].trained)
            assert len(touched(made)) == 2
            old = before[made.noun]
            assert abs(thing.x - old.x) + abs(thing.y - old.y) >= 16
        ways[swapped] += 1
    assert min(ways[True], ways[False]) > 20


def test_a_recoloured_thing_has_the_colour_and_did_not_before(world: World):
    for made in edits(world, "recolour"):
        at = world.nouns(made.before).index(made.noun)
        old, new = made.before.things[at], made.after.things[at]
        assert made.noun in COLOURED and made.instruction.endswith(made.to)
        assert new.colour == made.to != (old.colour or OWN_COLOURS.get(made.noun))
        assert made.after == made.before.with_thing(at, colour=made.to)


def test_a_new_background_leaves_the_things(world: World):
    skies = {way.format(noun): sky for way in SET_SKY.trained for sky, noun in SKY_NOUNS.items()}
    for made in edits(world, "background"):
        assert made.after.things == made.before.things
        assert made.to == made.after.backdrop != made.before.backdrop
        if sky := skies.get(made.instruction):
            assert is_outdoors(made.before.backdrop)
            assert made.after.backdrop == f"{made.before.backdrop.split()[0]} {sky}"
        elif made.to in COLOURS:
            assert made.to in made.instruction or made.instruction in CLEAR_BACKGROUND.trained
        if has_floor(made.to) and len(made.after.things) == 1:
            (thing,) = made.after.things
            assert thing.y + thing.side >= 48
        if made.instruction.startswith("put"):
            assert (made.instruction.split()[1] == "it") <= (len(made.before.things) == 1)


def test_a_colour_is_never_laid_on_before_a_backdrop_of_the_same(world: World):
    for made in edits(world):
        for scene in (made.before, made.after):
            assert scene.backdrop not in {thing.colour for thing in scene.things}


def test_without_enough_things_no_edit_of_a_scene_can_be_made(world: World, monkeypatch):
    poor = World(world.pack)
    monkeypatch.setattr(poor, "cast", dict(list(world.cast.items())[:3]))
    with pytest.raises(DataError, match="too few sprites for scene edits"):
        make_edit(random.Random(0), poor)


def single_edits(world: World, count: int = 600):
    rng = random.Random(f"single/{world.testing}")
    return [make_single_edit(rng, world) for _ in range(count)]


def scenes_of(made: SpriteEdit) -> tuple[Scene, Scene]:
    assert isinstance(made.before, SceneImage) and isinstance(made.after, SceneImage)
    return made.before.scene, made.after.scene


def test_an_edit_of_a_single_thing_changes_one_aspect(world: World):
    changed = Counter()
    for made in single_edits(world):
        before, after = scenes_of(made)
        (old,), (new,) = before.things, after.things
        aspects = [name for name, value in asdict(old).items() if value != getattr(new, name)]
        if before.backdrop != after.backdrop:
            aspects.append("backdrop")
        assert len(aspects) == 1, made
        changed[aspects[0]] += 1
    assert changed.keys() == {"sprite", "colour", "backdrop"}


@pytest.mark.parametrize("testing", [False, True])
def test_a_single_thing_never_ends_in_what_is_held_out_but_in_a_test(
    world: World, testing_world: World, testing: bool
):
    kinds = Counter()
    here = testing_world if testing else world
    for made in single_edits(here, 250):
        assert testing or not edit_held_out(*made.cell)
        _, after = scenes_of(made)
        assert here.holds_out(after) == testing
        (thing,) = after.things
        if made.cell[0] == "recolour":
            assert colour_held_out(world.noun(thing.sprite), thing.colour) == testing
        kinds[made.cell[0]] += 1
    assert kinds.keys() == {"background", "replace", "recolour"}
