"""Places of things in a scene, and the spatial relation between two of them.

Every position and side is a multiple of `STEP`. Things never overlap. On a floor, they stand: their
lower edges lie below the horizon, and those that are higher up stand farther back.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from orthus_core.world.backdrops import has_floor
from orthus_core.world.scene import LARGE, SMALL, STEP, UNITS, Scene, Thing

T = TypeVar("T")

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MOST_THINGS = 4

# Two things are side by side more often than one above the other.
_PAIR_WEIGHTS = {"left of": 3, "right of": 3, "above": 1, "below": 1}
# Sides of one thing. Several have the smaller side, with which four fill a picture. There are only
# two: at each of them a thing consists of other patches, which a small model has to learn anew.
_SINGLE_SIDES = {LARGE: 0.8, SMALL: 0.2}
# Lower edges of standing things; of three or four, those farther back stand on the far one.
_STANDING = (64, 64, 56, 48)
_FAR, _NEAR = 32, 64

# A thing is at the left, in the middle or at the right by its centre.
_LEFT, _RIGHT = 26, 38


class Square(NamedTuple):
    """A free square of a scene: left and upper edge, and side."""

    x: int
    y: int
    side: int


def arrange(
    rng: random.Random, things: Sequence[Thing], backdrop: str, relation: str = ""
) -> Scene:
    """A scene of one to four things that do not overlap.

    Args:
        rng: Random numbers.
        things: Things to place. Their positions and sizes are set here, the rest is kept.
        backdrop: Name of the backdrop.
        relation: Relation of the first of two things to the second, one of `RELATIONS`; sampled
            when empty.
    """
    floor = has_floor(backdrop)
    if len(things) == 1:
        places = [_single_place(rng, floor)]
    elif len(things) == 2:
        relation = relation or rng.choices(list(_PAIR_WEIGHTS), list(_PAIR_WEIGHTS.values()))[0]
        places = _pair_places(rng, relation, floor)
    else:
        places = _row_places(rng, len(things))
    placed = [replace(t, **p._asdict()) for t, p in zip(things, places, strict=True)]
    return Scene(backdrop, tuple(placed))


def relation_between(thing: Thing, other: Thing) -> str:
    """The relation of `thing` to `other`, one of `RELATIONS`; "" when none of them holds.

    "left of": the boxes do not overlap from left to right, and from top to bottom they share at
    least half of the smaller side. The other relations are meant in the same way.
    """
    half = min(thing.side, other.side) / 2
    across = min(thing.x + thing.side, other.x + other.side) - max(thing.x, other.x)
    down = min(thing.y + thing.side, other.y + other.side) - max(thing.y, other.y)
    if across <= 0 and down >= half:
        return "left of" if thing.x < other.x else "right of"
    if down <= 0 and across >= half:
        return "above" if thing.y < other.y else "below"
    return ""


def words_for_place(thing: Thing) -> tuple[str, str]:
    """The row and the column of a thing in words: ("top", "left"); "" for those in the middle."""
    across, down = thing.centre
    row = "top" if down < _LEFT else "bottom" if down > _RIGHT else ""
    return row, "left" if across < _LEFT else "right" if across > _RIGHT else ""


def word_for_size(thing: Thing) -> str:
    """ "large" or ""."""
    return "large" if thing.side >= LARGE else ""


def free_places(scene: Scene) -> list[Square]:
    """Squares on the raster where one more of several things overlaps nothing, in reading order.

    On a floor it stands in each of them, as their lower edges lie below the horizon.
    """
    raster = range(0, UNITS - SMALL + 1, STEP)
    return [
        Square(x, y, SMALL)
        for y in raster
        for x in raster
        if not any(Thing("", x, y, SMALL).overlaps(thing) for thing in scene.things)
    ]


def _single_place(rng: random.Random, floor: bool) -> Square:
    side = _one_of(rng, _SINGLE_SIDES)
    free = UNITS - side
    top = rng.choice(_STANDING) - side if floor else _on_raster(rng, free)
    return Square(_on_raster(rng, free), top, side)


def _pair_places(rng: random.Random, relation: str, floor: bool) -> list[Square]:
    """Two things that fill the picture along their relation."""
    if relation in ("left of", "right of"):
        tops = (rng.choice(_STANDING) - SMALL,) * 2 if floor else _across(rng)
        places = [Square(0, tops[0], SMALL), Square(SMALL, tops[1], SMALL)]
    else:
        lefts = _across(rng)
        places = [Square(lefts[0], 0, SMALL), Square(lefts[1], SMALL, SMALL)]
    return places if relation in ("left of", "above") else places[::-1]


def _across(rng: random.Random) -> tuple[int, int]:
    """Positions of two things across their relation, so that `relation_between` finds it."""
    first = _on_raster(rng, UNITS - SMALL)
    raster = range(0, UNITS - SMALL + 1, STEP)
    return first, rng.choice([other for other in raster if abs(other - first) <= SMALL / 2])


def _row_places(rng: random.Random, count: int) -> list[Square]:
    """Three or four things in two rows."""
    upper = 2 if count == 4 else rng.choice((1, 2))
    places = []
    for number, bottom in ((upper, _FAR), (count - upper, _NEAR)):
        left = _on_raster(rng, UNITS - number * SMALL)
        places += [Square(left + SMALL * n, bottom - SMALL, SMALL) for n in range(number)]
    return rng.sample(places, count)


def _on_raster(rng: random.Random, most: int) -> int:
    """A random multiple of `STEP` from 0 to `most`."""
    return STEP * rng.randint(0, most // STEP)


def _one_of(rng: random.Random, weights: Mapping[T, float]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]
