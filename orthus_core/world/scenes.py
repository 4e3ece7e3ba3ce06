"""Random scenes by category: the six of GenEval (2310.11513), and one that mixes counts.

A training world shows nothing that is held out. In a testing world, something in every scene is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from orthus_core.data.document import Segment, turn
from orthus_core.errors import DataError
from orthus_core.world.arrange import MOST_THINGS, RELATIONS, arrange
from orthus_core.world.backdrops import COLOURS, GRADIENTS, OUTDOORS, SKYLESS
from orthus_core.world.cast import COLOURED
from orthus_core.world.co_occurrence import sample_companion, sample_noun
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.wording import describe
from orthus_core.world.wordings import prompt_of
from orthus_core.world.world import World

# Weights of the categories; all but "mixed" have GenEval's own names.
CATEGORIES: Mapping[str, float] = {
    "single_object": 0.08,
    "two_object": 0.16,
    "counting": 0.26,
    "colors": 0.12,
    "position": 0.18,
    "color_attr": 0.15,
    "mixed": 0.05,
}
# Categories with two things side by side in the caption's order, which need not name the relation.
SIDE_BY_SIDE = ("two_object", "color_attr")

# Backdrops by kind. A prompt names 4 of 7 backdrops that are not white, so that half of those that
# no prompt names are white.
BACKDROP_WEIGHTS: Mapping[str, float] = {
    "white": 0.3,
    "outdoors": 0.36,
    "skyless": 0.06,
    "gradient": 0.14,
    "colour": 0.14,
}
NAMED_CHANCE = 4 / 7
# Numbers of things of one kind; three are the hardest to draw.
_COUNT_WEIGHTS: Mapping[int, float] = {2: 0.25, 3: 0.5, 4: 0.25}
# Tries before a scene (or an edit of one) is reported as impossible with this pack; about one in
# ten is held out.
MOST_TRIES = 10_000

Look = tuple[str, str]
"""Noun and colour of a thing; "" for its own colour."""


class SceneSample(NamedTuple):
    """A scene and the category that it was sampled for."""

    scene: Scene
    category: str


def scene_picture(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A prompt, which may leave the backdrop open; then a scene that fulfils it."""
    scene, category = sample_scene(rng, world)
    asked = prompt_of(
        rng,
        scene,
        world.nouns(scene),
        relation=category not in SIDE_BY_SIDE,
        # A single thing without a named place is a row of `text_to_image`.
        place=category == "single_object" or rng.random() < NAMED_CHANCE,
        wordings=world.wordings,
    )
    return turn("user", asked.text) + turn("model", world.scene_image(scene))


def sample_scene(
    rng: random.Random,
    world: World,
    categories: Sequence[str] = tuple(CATEGORIES),
    *,
    outdoors: bool = False,
) -> SceneSample:
    """Samples a scene that this world may show.

    Args:
        rng: Random numbers.
        world: World of the scene.
        categories: Categories to choose from by weight, names of `CATEGORIES`.
        outdoors: Whether the backdrop must be outdoors.

    Raises:
        DataError: if the pack contains too few sprites of the cast.
    """
    category = rng.choices(categories, [CATEGORIES[c] for c in categories])[0]
    for _ in range(MOST_TRIES if len(world.cast) > 4 else 0):
        scene = _sample(rng, world, category, outdoors)
        if scene and world.allows(scene) and world.stands_out(scene):
            return SceneSample(scene, category)
    raise DataError(
        f"the sprite pack has too few sprites for scenes (category {category!r})",
        where=str(world.pack.path),
        hint="leave out the tasks with scenes, or use the bundled pack",
    )


def caption_of(world: World, scene: Scene, category: str) -> str:
    """The caption that asks for a scene: "a dog and a cat", "a dog left of a cat"."""
    return describe(scene, world.nouns(scene), relation=category not in SIDE_BY_SIDE)


def coloured_nouns(world: World) -> list[str]:
    """The nouns of the cast that can be recoloured."""
    return [noun for noun in COLOURED if noun in world.cast]


def _sample(rng: random.Random, world: World, category: str, outdoors: bool) -> Scene | None:
    """A scene of a category, whether or not it is held out; None if the pack lacks a sprite."""
    looks = _CASTS[category](rng, world)
    things = as_things(world, looks)
    if not things:
        return None
    backdrop = _backdrop(rng, category, {thing.colour for thing in things}, outdoors)
    relation = rng.choice(("left of", "right of") if category in SIDE_BY_SIDE else RELATIONS)
    return arrange(rng, things, backdrop, relation)


def as_things(world: World, looks: Sequence[Look]) -> list[Thing]:
    """Things of the cast in the looks."""
    return [Thing(world.cast[noun].key, colour=colour) for noun, colour in looks]


def _one(rng: random.Random, world: World) -> list[Look]:
    return [(sample_noun(rng, world.cast), "")]


def _two(rng: random.Random, world: World) -> list[Look]:
    noun = sample_noun(rng, world.cast)
    return [(noun, ""), (sample_companion(rng, noun, world.cast), "")]


def _many(rng: random.Random, world: World) -> list[Look]:
    count = rng.choices(list(_COUNT_WEIGHTS), list(_COUNT_WEIGHTS.values()))[0]
    return [(_countable(rng, world), "")] * count


def _one_coloured(rng: random.Random, world: World) -> list[Look]:
    nouns = coloured_nouns(world)
    return [(sample_noun(rng, nouns), rng.choice(list(HUES)))] if nouns else []


def _two_coloured(rng: random.Random, world: World) -> list[Look]:
    if len(nouns := coloured_nouns(world)) < 2:
        return []
    noun = sample_noun(rng, nouns)
    colour, other_colour = rng.sample(list(HUES), 2)
    return [(noun, colour), (sample_companion(rng, noun, nouns), other_colour)]


def _mixed(rng: random.Random, world: World) -> list[Look]:
    noun = _countable(rng, world)
    looks = [(noun, "")] * rng.randint(2, MOST_THINGS - 1)
    return [*looks, (sample_companion(rng, noun, world.cast), "")]


_CASTS: Mapping[str, Callable[[random.Random, World], list[Look]]] = {
    "single_object": _one,
    "two_object": _two,
    "counting": _many,
    "colors": _one_coloured,
    "position": _two,
    "color_attr": _two_coloured,
    "mixed": _mixed,
}


def _countable(rng: random.Random, world: World) -> str:
    return sample_noun(rng, world.countable)


def _backdrop(rng: random.Random, category: str, colours: set[str], outdoors: bool) -> str:
    if outdoors:
        return rng.choice(OUTDOORS)
    kinds = dict(BACKDROP_WEIGHTS)
    if category == "single_object":
        kinds = {kind: kinds[kind] for kind in ("outdoors", "skyless")}
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    if kind == "colour":
        # A blue car would be hard to see on blue.
        return rng.choice([colour for colour in COLOURS if colour not in colours])
    of_kind = {"white": ("white",), "outdoors": OUTDOORS, "skyless": SKYLESS}
    return rng.choice(of_kind.get(kind) or list(GRADIENTS))
