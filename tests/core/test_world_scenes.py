"""Scenes: their records, their pictures, where things stand, and what is held out."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image

from orthus_core.errors import DataError
from orthus_core.world import splits
from orthus_core.world.arrange import CELLS, OPPOSITE, RELATIONS, arrange, free_places
from orthus_core.world.arrange import relation_between as between
from orthus_core.world.backdrops import (
    BACKDROPS,
    COLOURS,
    GRADIENTS,
    HORIZON,
    OUTDOORS,
    PLACES,
    PLAIN,
    has_floor,
    paint,
)
from orthus_core.world.cast import CAST, COLOURED
from orthus_core.world.recolour import HUES, recolour
from orthus_core.world.scene import LARGE, SMALL, UNITS, Scene, Thing, thing_pixels
from orthus_core.world.scenes import sample_scene
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.wording import describe, place_phrase, plural, with_count
from orthus_core.world.world import World


def test_three_things_leave_the_upper_left_cell_free_and_four_none():
    rng, firsts = random.Random(0), set()
    for count in (3, 4):
        for _ in range(100):
            scene = arrange(rng, [Thing(str(number)) for number in range(count)], "white")
            cells = [(thing.x, thing.y) for thing in scene.things]
            taken = CELLS[1:] if count == 3 else CELLS
            assert sorted(cells) == sorted((cell.x, cell.y) for cell in taken)
            firsts.add((count, cells[0]))
    assert len(firsts) == 3 + 4


def test_three_of_a_kind_are_sampled_as_often_as_two_and_four(world: World):
    rng, counts = random.Random(0), Counter()
    for _ in range(300):
        counts[len(sample_scene(rng, world, ["counting"]).scene.things)] += 1
    assert 0.4 < counts[3] / 300 < 0.6 and 0.18 < counts[2] / 300 < 0.32


def test_everyone_of_the_cast_is_found_drawn_in_each_style_and_once(world: World):
    assert list(world.cast) == list(CAST)
    keys = [sprite.key for sprite in world.cast.values()]
    assert len(set(keys)) == len(keys)
    assert all(key in pack for key in keys for pack in world.styles.values())
    assert [world.noun(key) for key in keys] == list(CAST)


def test_a_record_reads_back_as_the_same_scene(world: World):
    key = world.cast["car"].key
    scene = Scene(
        "meadow night", (Thing(key, 0, 32, 32, "blue"), Thing(key, 32, 0, 32, mirror=True))
    )
    assert Scene.of(scene.record()) == scene
    assert Scene.of(Scene().record()) == Scene()


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"backdrop": "moon"}, "no backdrop 'moon'"),
        ({"things": [{"sprite": "1f600", "x": 40, "side": 32}]}, "not inside"),
        ({"things": [{"sprite": "1f600", "side": 0}]}, "not inside"),
        ({"things": [{"sprite": "1f600", "x": 0.5}]}, "whole numbers"),
        ({"things": [{"sprite": "1f600", "colour": "beige"}]}, "no colour 'beige'"),
        ({"things": [{"sprite": "1f600", "style": "oil"}]}, "no style 'oil'"),
        ({"things": [{"sprite": "1f600", "colour": ["red"]}]}, "must be words"),
        ({"things": [{"size": 3}]}, "cannot read the scene"),
        ({"things": [3]}, "cannot read the scene"),
    ],
)
def test_a_broken_scene_is_refused(record: dict, complaint: str):
    with pytest.raises(DataError, match=complaint):
        Scene.of(record)


def test_a_picture_is_its_backdrop_where_nothing_stands(world: World):
    key = world.cast["dog"].key
    scene = Scene("beach sunset", (Thing(key, 32, 16, SMALL),))
    pixels_HW3 = world.scene_image(scene).load(64)
    ground_HW3 = paint("beach sunset", 64)
    outside_HW = np.ones((64, 64), bool)
    outside_HW[16:48, 32:] = False
    assert (pixels_HW3[outside_HW] == ground_HW3[outside_HW]).all()
    assert (pixels_HW3[~outside_HW] != ground_HW3[~outside_HW]).any()
    assert pixels_HW3.dtype == np.uint8 and paint("beach sunset", 64) is ground_HW3


def test_a_whole_thing_on_white_looks_as_its_sprite(world: World):
    sprite = world.cast["dog"]
    shown_HW3 = world.scene_image(Scene("white", (Thing(sprite.key),))).load(64)
    alone_HW3 = SpriteImage(world.pack, sprite.key).load(64)
    assert np.abs(shown_HW3.astype(int) - alone_HW3).max() <= 1


def test_pictures_share_a_name_only_when_they_show_the_same(world: World):
    key = world.cast["dog"].key
    things = [Thing(key), Thing(key, mirror=True), Thing(key, style="flat"), Thing(key, grey=True)]
    scenes = [Scene(backdrop, (thing,)) for backdrop in ("white", "red") for thing in things]
    assert len({world.scene_image(scene).key for scene in scenes}) == len(scenes)
    assert world.scene_image(scenes[0]).key == world.scene_image(Scene("white", (Thing(key),))).key


def test_an_unknown_style_or_sprite_is_named(world: World):
    for thing in (Thing("nobody"), Thing(world.cast["dog"].key, style="oil")):
        with pytest.raises(DataError, match="there is no sprite"):
            thing_pixels(world.styles, thing, 8)


@pytest.mark.parametrize("colour", HUES)
def test_a_laid_on_colour_is_the_hue_that_is_seen_and_keeps_the_shape(world: World, colour: str):
    for noun in COLOURED:
        rgba = world.pack.rgba(world.cast[noun])
        changed = recolour(rgba, colour)
        assert changed.getchannel("A").tobytes() == rgba.getchannel("A").tobytes()
        seen = np.asarray(changed.convert("RGB").convert("HSV"))[np.asarray(rgba)[..., 3] > 200]
        strong = seen[(seen[:, 1] > 60) & (seen[:, 2] > 60)]
        distance = np.abs(
            (strong[:, 0].astype(int) - round(HUES[colour].hue * 255) + 128) % 256 - 128
        )
        assert np.median(distance) <= 3


def test_what_has_no_colour_stays_as_it_is():
    grey = Image.new("RGBA", (4, 4), (90, 90, 90, 255))
    assert recolour(grey, "red").tobytes() == grey.tobytes()


@pytest.mark.parametrize("backdrop", ["white", "meadow day"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_things_never_overlap_and_are_inside(backdrop: str, count: int):
    for seed in range(50):
        things = [Thing(str(number)) for number in range(count)]
        scene = arrange(random.Random(seed), things, backdrop)
        scene.check()
        assert [thing.sprite for thing in scene.things] == [thing.sprite for thing in things]
        for index, thing in enumerate(scene.things):
            assert not any(thing.overlaps(other) for other in scene.things[index + 1 :])


@pytest.mark.parametrize(("relation", "backdrop"), [*product(RELATIONS, ["white", "snow night"])])
def test_two_things_stand_as_they_were_told_to(relation: str, backdrop: str):
    for seed in range(100):
        scene = arrange(random.Random(seed), [Thing("a"), Thing("b")], backdrop, relation)
        first, second = scene.things
        assert between(first, second) == relation
        assert between(second, first) == OPPOSITE[relation]


def test_what_stands_on_the_diagonal_is_neither_beside_nor_above():
    assert between(Thing("a", 0, 0, 32), Thing("b", 32, 32, 32)) == ""


def test_a_relation_is_that_of_the_boxes():
    assert between(Thing("a", 0, 8, 40), Thing("b", 40, 24, 24)) == "left of"
    assert between(Thing("b", 40, 24, 24), Thing("a", 0, 8, 40)) == "right of"
    assert between(Thing("a", 8, 0, 24), Thing("b", 16, 40, 24)) == "above"
    # They share less than half of the smaller side.
    assert between(Thing("a", 0, 0, 24), Thing("b", 24, 16, 24)) == ""


def test_pictures_that_words_leave_open_differ():
    looks = [arrange(random.Random(seed), [Thing("a")], "white").things[0] for seed in range(200)]
    assert {(thing.x, thing.y, thing.side) for thing in looks} == {
        (x, 8, LARGE) for x in (0, 8, 16)
    }


@pytest.mark.parametrize("backdrop", ["white", "snow rain", "room"])
def test_several_things_have_the_smaller_side_and_four_fill_the_picture(backdrop: str):
    for seed in range(50):
        for count in (2, 3, 4):
            things = [Thing(str(number)) for number in range(count)]
            placed = arrange(random.Random(seed), things, backdrop).things
            assert {thing.side for thing in placed} == {SMALL}
            assert {(thing.x, thing.y) for thing in placed} <= {*product((0, 32), repeat=2)}
        assert {(thing.x, thing.y) for thing in placed} == {*product((0, 32), repeat=2)}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("backdrop", ["snow rain", "room"])
def test_on_a_floor_all_things_stand_but_one_that_is_above_another(backdrop: str, count: int):
    assert has_floor(backdrop) and not has_floor("sea") and not has_floor("white")
    seen = set()
    for seed in range(80):
        things = [Thing(str(number)) for number in range(count)]
        placed = arrange(random.Random(seed), things, backdrop).things
        bottoms = [thing.y + thing.side for thing in placed]
        if count > 2 or count == 2 and between(*placed) in ("above", "below"):
            # Those farther back stand below the horizon, too.
            assert {*bottoms} == {32, UNITS} and HORIZON < 32
        else:
            (bottom,) = {*bottoms}
            seen.add(bottom)
    assert seen == ({UNITS} if count < 3 else set())


def test_free_places_are_free_and_all_of_them():
    scene = Scene("white", (Thing("a", 0, 0, 32), Thing("b", 32, 16, 32)))
    assert free_places(scene) == [(0, 32, SMALL)]
    assert free_places(Scene()) == [(x, y, SMALL) for y in (0, 32) for x in (0, 32)]
    assert free_places(Scene("white", (Thing("a", 8, 8, LARGE),))) == []


def test_a_thing_that_can_hardly_be_seen_is_not_shown(world: World):
    def stands_out(noun: str, backdrop: str) -> bool:
        return world.stands_out(Scene(backdrop, (Thing(world.cast[noun].key),)))

    assert not stands_out("cheese", "yellow") and not stands_out("cloud", "snow day")
    assert stands_out("cheese", "blue") and stands_out("cloud", "white")


def test_captions_say_what_is_there():
    dog, cat = Thing("d", 0, 16, 32), Thing("c", 32, 16, 32)
    assert describe(Scene("white", (dog, cat)), ["dog", "cat"]) == "a dog left of a cat"
    assert describe(Scene("white", (dog, cat)), ["dog", "cat"], relation=False) == "a dog and a cat"
    assert describe(Scene("meadow night", (dog, cat)), ["dog", "dog"]) == (
        "two dogs in a meadow at night"
    )
    car = Thing("k", colour="blue")
    assert describe(Scene("orange", (car,)), ["car"]) == "a blue car on an orange background"
    assert describe(Scene("beach day"), []) == "nothing on a beach by day"


def test_every_backdrop_has_its_own_words():
    words = [place_phrase(backdrop) for backdrop in BACKDROPS]
    assert len(set(words)) == len(BACKDROPS) == len(PLAIN) + len(GRADIENTS) + len(PLACES)
    assert len(OUTDOORS) == 20 and words[0] == "" and place_phrase("room") == "in a room"
    looks = [paint(backdrop, 32).astype(int) for backdrop in BACKDROPS]
    assert all(np.abs(a - b).mean() > 3 for i, a in enumerate(looks) for b in looks[:i])


def test_plurals():
    assert [plural(noun) for noun in ("dog", "fox", "mouse", "cherries", "butterfly", "key")] == [
        "dogs",
        "foxes",
        "mice",
        "cherries",
        "butterflies",
        "keys",
    ]
    assert plural("snowman") == "snowmen"
    assert (
        with_count("octopus", 1) == "an octopus" and with_count("octopus", 3) == "three octopuses"
    )


def test_the_shares_that_are_held_out_are_near_what_was_meant(world: World):
    pairs = [splits.pair_held_out(a, b) for a in CAST for b in CAST if a < b]
    assert 0.035 < np.mean(pairs) < 0.065
    counts = [splits.count_held_out(noun, count) for noun in CAST for count in (2, 3, 4)]
    assert 0.02 < np.mean(counts) < 0.09
    colours = [splits.colour_held_out(noun, colour) for noun in COLOURED for colour in HUES]
    assert 0.05 < np.mean(colours) < 0.16
    assert splits.colour_held_out("apple", "green") and not splits.colour_held_out("apple", "")
    assert not any(splits.count_held_out(noun, 1) for noun in CAST)
    places = [splits.place_held_out(noun, place) for noun in world.things for place in PLACES]
    assert 0.04 < np.mean(places) < 0.06
    plain = (*COLOURS, *GRADIENTS, "white")
    assert not any(splits.place_held_out(noun, ground) for noun in CAST for ground in plain)


def test_a_scene_is_held_out_for_its_pair_its_count_its_colour_or_its_place(world: World):
    training, testing = world, World.open(testing=True)
    pair = next((a, b) for a in CAST for b in CAST if a < b and splits.pair_held_out(a, b))
    noun, count = next((n, c) for n in CAST for c in (3, 4) if splits.count_held_out(n, c))

    def scene(*nouns: str, colour: str = "") -> Scene:
        things = [Thing(world.cast[noun].key, colour=colour) for noun in nouns]
        return arrange(random.Random(0), things, "white")

    for held in (scene(*pair), scene(*[noun] * count), scene("heart", colour="orange")):
        assert testing.allows(held) and not training.allows(held)
    assert training.allows(scene("dog")) and not testing.allows(scene("dog"))
    noun, place = next((n, p) for n in CAST for p in PLACES if splits.place_held_out(n, p))
    other = next(n for n in CAST if n != noun and not splits.pair_held_out(n, noun))
    alone, with_other = scene(noun), scene(noun, other)
    assert training.allows(alone) and testing.allows(replace(alone, backdrop=place))
    assert not training.allows(replace(alone, backdrop=place))
    # Only where it is alone: a place and a colour may both be shown with other things.
    assert training.allows(replace(with_other, backdrop=place))
    dog = world.cast["dog"]
    for backdrop in COLOURS:
        behind = Scene(backdrop, scene("dog").things)
        assert training.holds_out(behind) == world.is_held_out(dog, backdrop), backdrop
    assert any(
        world.holds_out(Scene(backdrop, (Thing(sprite.key),)))
        for backdrop in COLOURS
        for sprite in world.cast.values()
    )


def test_unseen_sprites_are_not_those_that_are_drawn_and_tests_have_their_own(
    world: World, testing_world: World
):
    drawn, trained = {s.key for s in world.sprites}, {s.key for s in world.unseen}
    kept = {s.key for s in testing_world.unseen}
    assert not drawn & (trained | kept) and not trained & kept
    assert 0.2 < len(kept) / len(trained | kept) < 0.4
    assert {s.key for s in World.open(held_out=0).unseen} == trained | kept


def test_places_are_within_the_units():
    assert all(
        0 <= thing.x <= UNITS - thing.side
        for seed in range(20)
        for thing in arrange(random.Random(seed), [Thing("a")], "autumn rain").things
    )
