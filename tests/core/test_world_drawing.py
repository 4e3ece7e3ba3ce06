"""Rows that ask for a picture, of one sprite or of a scene, and GenEval's prompts."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from orthus_core.errors import DataError
from orthus_core.world.arrange import relation_between
from orthus_core.world.backdrops import (
    COLOURS,
    GRADIENTS,
    PLACES,
    is_outdoors,
    is_place,
    place_of,
)
from orthus_core.world.cast import CAST
from orthus_core.world.co_occurrence import POPULAR, companions
from orthus_core.world.geneval_prompts import TAGS, GenevalPrompt, geneval_prompts
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import SceneImage
from orthus_core.world.scenes import CATEGORIES, caption_of, sample_scene, scene_picture
from orthus_core.world.single_sprites import caption_names
from orthus_core.world.splits import (
    count_held_out,
    pair_held_out,
    place_held_out,
    scene_held_out,
)
from orthus_core.world.sprites import SpritePack
from orthus_core.world.text_to_image import text_to_image
from orthus_core.world.wordings import without_articles
from orthus_core.world.world import World


@pytest.fixture(scope="module")
def prompts(world: World) -> list[GenevalPrompt]:
    return geneval_prompts(world, 40, seed=0)


def test_a_caption_names_its_thing_and_may_leave_the_ground_open(world: World):
    grounds: Counter[str] = Counter()
    for number in range(1500):
        words, shown = (s.value for s in text_to_image(random.Random(number), world))
        assert isinstance(words, str) and isinstance(shown, SceneImage)
        (thing,) = shown.scene.things
        words = words.lower()
        known = [name.lower() for name in world.names(world.pack[thing.sprite]).all]
        assert any(without_articles(name) in without_articles(words) for name in known), words
        ground = shown.scene.backdrop
        if f"{ground} background" in words or f"on {ground}" in words:
            assert ground in COLOURS
        else:
            grounds[shown.scene.backdrop] += 1
    assert 0.45 < grounds["white"] / grounds.total() < 0.55
    assert grounds.keys() & COLOURS.keys() and grounds.keys() & GRADIENTS.keys()
    assert grounds.keys() & set(PLACES)


def test_things_that_no_scene_shows_are_shown_alone_more_often(world: World):
    rng = random.Random(0)
    shown = Counter(world.noun(world.sample_sprite(rng).key) for _ in range(20_000))
    cast = sum(shown[noun] for noun in world.cast) / len(world.cast)
    others = [noun for noun in world.things if noun not in world.cast]
    ratio = sum(shown[noun] for noun in others) / len(others) / cast
    assert 1.8 < ratio < 2.2


def test_a_name_with_a_colour_is_left_to_a_recoloured_thing(world: World):
    heart = world.find("red heart")
    assert heart is not None and caption_names(world, heart) == ["heart"]
    leaf = world.find("green leaf")
    assert leaf is not None and caption_names(world, leaf) == ["leaf", "green leaf"]


def test_categories_are_what_they_are_called(world: World):
    rng = random.Random(1)
    for category in CATEGORIES:
        for _ in range(60):
            scene, drawn = sample_scene(rng, world, [category])
            nouns, colours = world.nouns(scene), [thing.colour for thing in scene.things]
            kinds = len(set(nouns))
            assert drawn == category
            if category == "single_object":
                assert len(nouns) == 1 and is_place(scene.backdrop) and colours == [""]
            elif category == "counting":
                assert kinds == 1 and 2 <= len(nouns) <= 4
            elif category == "colors":
                assert len(nouns) == 1 and colours[0] in HUES
            elif category == "mixed":
                assert kinds == 2 and len(nouns) in (3, 4)
            else:
                assert kinds == len(nouns) == 2
                assert (len(set(colours) & HUES.keys()) == 2) == (category == "color_attr")


def test_scenes_have_the_backdrops_of_their_weights(world: World):
    seen: Counter[str] = Counter()
    for number in range(800):
        words, shown = (s.value for s in scene_picture(random.Random(number), world))
        assert isinstance(shown, SceneImage) and isinstance(words, str)
        scene = shown.scene
        seen["outdoors"] += is_outdoors(scene.backdrop)
        seen["white"] += scene.backdrop == "white"
        if scene.backdrop in GRADIENTS:
            seen["gradient"] += 1
            seen["named"] += scene.backdrop in words.lower()
    assert 0.3 < seen["outdoors"] / 800 < 0.55 and 0.2 < seen["white"] / 800 < 0.35
    # The others are left open.
    assert 0.4 < seen["named"] / seen["gradient"] < 0.7


def test_seeds_of_the_same_words_differ(world: World):
    rng = random.Random(0)
    sides = {
        relation_between(*sample_scene(rng, world, ["two_object"]).scene.things) for _ in range(40)
    }
    assert sides == {"left of", "right of"}


def test_a_thing_never_stands_on_a_plain_ground_of_its_own_colour(world: World):
    rng = random.Random(0)
    for _ in range(300):
        scene, _ = sample_scene(rng, world, ["color_attr"])
        assert scene.backdrop not in {thing.colour for thing in scene.things}


def test_a_scene_can_be_asked_for_outdoors(world: World):
    rng = random.Random(0)
    places = {place_of(sample_scene(rng, world, ["position"], outdoors=True).scene.backdrop)}
    for _ in range(200):
        places.add(place_of(sample_scene(rng, world, ["position"], outdoors=True).scene.backdrop))
    assert len(places) == 20


def test_a_pack_without_a_cast_is_refused(world: World):
    class Few(SpritePack):
        def __iter__(self):
            return iter([s for s in super().__iter__() if s.label in ("dog", "cat")])

    few = Few(world.pack.path, world.pack.digest, list(world.pack), {})
    with pytest.raises(DataError, match="too few sprites for scenes"):
        sample_scene(random.Random(0), World(few))


def test_popular_things_and_companions_are_shown_more_often(world: World):
    rng = random.Random(0)
    seen: Counter[str] = Counter()
    beside = 0
    for _ in range(1500):
        scene, _ = sample_scene(rng, world, ["two_object"])
        noun, other = world.nouns(scene)
        seen.update((noun, other))
        beside += other in companions(noun)
    rest = [seen[noun] for noun in CAST if noun not in POPULAR]
    popular = [seen[noun] for noun in POPULAR]
    assert sum(popular) / len(popular) > 1.8 * sum(rest) / len(rest)
    # Without the habit 3 of the 126 others would stand there.
    assert beside / 1500 > 0.3


def test_companions_never_change_and_are_never_held_out():
    assert companions("dog") == companions("dog") and len(set(companions("dog"))) == 3
    for noun in CAST:
        assert noun not in companions(noun)
        assert not any(pair_held_out(noun, other) for other in companions(noun))


def test_geneval_prompts_are_all_different_and_the_same_for_a_seed(
    world: World, prompts: list[GenevalPrompt]
):
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)
    assert geneval_prompts(world, 40, seed=0) == prompts != geneval_prompts(world, 40, seed=1)
    counts = Counter(prompt.tag for prompt in prompts)
    assert tuple(counts) == TAGS and max(counts.values()) == 40 and min(counts.values()) > 12


def test_combining_prompts_ask_for_what_is_held_out(world: World, prompts: list[GenevalPrompt]):
    for prompt in prompts:
        held_out = scene_held_out(prompt.scene, world.nouns(prompt.scene))
        assert held_out == (prompt.tag != "single_object"), prompt
        assert prompt.scene.backdrop == "white"
        assert prompt.prompt == caption_of(world, prompt.scene, prompt.tag)


def test_prompts_are_in_the_official_schema(world: World, prompts: list[GenevalPrompt]):
    by_tag = {prompt.tag: prompt.record() for prompt in prompts}
    for tag, record in by_tag.items():
        assert record["tag"] == tag and isinstance(record["prompt"], str)
        assert all(wanted["class"] in world.cast for wanted in record["include"])
    counting = by_tag["counting"]
    (wanted,), (too_many,) = counting["include"], counting["exclude"]
    assert count_held_out(wanted["class"], wanted["count"])
    assert too_many == {"class": wanted["class"], "count": wanted["count"] + 1}
    other, placed = by_tag["position"]["include"]
    relation, index = placed["position"]
    assert index == 0 and "position" not in other
    told = by_tag["position"]["prompt"]
    assert told.index(placed["class"]) < told.index(relation) < told.rindex(other["class"])
    assert {wanted["color"] for wanted in by_tag["color_attr"]["include"]} <= HUES.keys()
    assert "color" not in by_tag["two_object"]["include"][0]


def test_a_test_scene_of_one_thing_is_at_a_place_where_it_never_is_alone(testing_world: World):
    rng = random.Random(0)
    for _ in range(100):
        scene, _ = sample_scene(rng, testing_world, ["single_object"])
        (noun,) = testing_world.nouns(scene)
        assert place_held_out(noun, scene.backdrop)
