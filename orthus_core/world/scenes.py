"""Random scenes by category: the six of GenEval (2310.11513), and one that mixes counts.

A training world shows nothing that is held out. In a testing world, something in every scene is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from orthus_core.data.document import Segment, turn
from orthus_core.errors import DataError
from orthus_core.world.arrange import MOST_THINGS, RELATIONS, arrange
from orthus_core.world.backdrops import COLOURS, OUTDOORS
from orthus_core.world.cast import COLOURED
from orthus_core.world.co_occurrence import sample_companion, sample_noun
from orthus_core.world.english import is_plural
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.wording import describe
from orthus_core.world.wordings import prompt_of
from orthus_core.world.world import World

# Weights of the categories; all but "mixed" have GenEval's own names.
CATEGORIES: Mapping[str, float] = {
    "single_object": 0.12,
    "two_object": 0.20,
    "counting": 0.16,
    "colors": 0.14,
    "position": 0.20,
    "color_attr": 0.12,
    "mixed": 0.06,
}
# Categories with two things side by side in the caption's order, which need not name the relation.
SIDE_BY_SIDE = ("two_object", "color_attr")

# Weights of styles; a scene is drawn in one style.
STYLE_WEIGHTS: Mapping[str, float] = {"3d": 0.9, "flat": 0.05, "noto": 0.05}
# Shares of backdrops; the rest is a plain colour.
WHITE_CHANCE, OUTDOORS_CHANCE = 0.5, 0.3
# Tries before a scene (or an edit of one) is reported as impossible with this pack; about one in
# twenty is held out.
MOST_TRIES = 10_000


class SceneSample(NamedTuple):
    """A scene and the category that it was sampled for."""

    scene: Scene
    category: str


def scene_picture(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A prompt; then a scene that fulfils it."""
    scene, category = sample_scene(rng, world)
    asked = prompt_of(
        rng,
        scene,
        world.nouns(scene),
        relation=category not in SIDE_BY_SIDE,
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
        if scene and world.allows(scene):
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
    things = _CASTS[category](rng, world)
    style = _style(rng, world, category)
    if not things or any(thing.sprite not in world.styles[style] for thing in things):
        return None
    things = [replace(thing, style=style) for thing in things]
    backdrop = _backdrop(rng, category, {thing.colour for thing in things}, outdoors)
    relation = "left of" if category in SIDE_BY_SIDE else rng.choice(RELATIONS)
    return arrange(rng, things, backdrop, relation)


def _one(rng: random.Random, world: World) -> list[Thing]:
    return [_thing(world, sample_noun(rng, world.cast))]


def _two(rng: random.Random, world: World) -> list[Thing]:
    noun = sample_noun(rng, world.cast)
    return [_thing(world, noun), _thing(world, sample_companion(rng, noun, world.cast))]


def _many(rng: random.Random, world: World) -> list[Thing]:
    return [_countable(rng, world)] * rng.randint(2, MOST_THINGS)


def _one_coloured(rng: random.Random, world: World) -> list[Thing]:
    nouns = coloured_nouns(world)
    return [_thing(world, sample_noun(rng, nouns), rng.choice(list(HUES)))] if nouns else []


def _two_coloured(rng: random.Random, world: World) -> list[Thing]:
    if len(nouns := coloured_nouns(world)) < 2:
        return []
    noun = sample_noun(rng, nouns)
    colour, other_colour = rng.sample(list(HUES), 2)
    other = sample_companion(rng, noun, nouns)
    return [_thing(world, noun, colour), _thing(world, other, other_colour)]


def _mixed(rng: random.Random, world: World) -> list[Thing]:
    things = [_countable(rng, world)] * rng.randint(2, MOST_THINGS - 1)
    noun = world.noun(things[0].sprite)
    return [*things, _thing(world, sample_companion(rng, noun, world.cast))]


_CASTS: Mapping[str, Callable[[random.Random, World], list[Thing]]] = {
    "single_object": _one,
    "two_object": _two,
    "counting": _many,
    "colors": _one_coloured,
    "position": _two,
    "color_attr": _two_coloured,
    "mixed": _mixed,
}


def _thing(world: World, noun: str, colour: str = "") -> Thing:
    return Thing(world.cast[noun].key, colour=colour)


def _countable(rng: random.Random, world: World) -> Thing:
    # "two cherries" could mean one sprite of cherries or two of them.
    return _thing(world, sample_noun(rng, [noun for noun in world.cast if not is_plural(noun)]))


def _style(rng: random.Random, world: World, category: str) -> str:
    # In a scene of one thing in its own colour, only the style can be held out.
    passed_over = "3d" if world.testing and category == "single_object" else ""
    styles = {s: w for s, w in STYLE_WEIGHTS.items() if s in world.styles and s != passed_over}
    return rng.choices(list(styles), list(styles.values()))[0] if styles else "3d"


def _backdrop(rng: random.Random, category: str, colours: set[str], outdoors: bool) -> str:
    if outdoors or category == "single_object":
        return rng.choice(OUTDOORS)
    # A single coloured thing is trained as it is tested: at full size, on white.
    if category == "colors" or rng.random() < WHITE_CHANCE:
        return "white"
    if rng.random() < OUTDOORS_CHANCE / (1 - WHITE_CHANCE):
        return rng.choice(OUTDOORS)
    # A blue car would be hard to see on blue.
    return rng.choice([colour for colour in COLOURS if colour not in colours])
