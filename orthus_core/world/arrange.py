"""Places of things in a scene, and the spatial relation between two of them.

Several things stand in the four cells of a picture, each a quarter of it; one thing alone is
larger, at the left, in the middle or at the right. Things never overlap. On a floor they stand, or
are above what stands. There are few places on purpose: at each of them a thing is another picture,
which a small model has to learn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from orthus_core.world.backdrops import has_floor
from orthus_core.world.scene import LARGE, SMALL, STEP, UNITS, Scene, Thing

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MOST_THINGS = 4

# Two things are side by side more often than one above the other.
_PAIR_WEIGHTS = {"left of": 3, "right of": 3, "above": 1, "below": 1}
# A thing is at the left, in the middle or at the right by its centre.
_LEFT, _RIGHT = 26, 38


class Square(NamedTuple):
    """A free square of a scene: left and upper edge, and side."""

    x: int
    y: int
    side: int


CELLS = tuple(Square(x, y, SMALL) for y in (0, UNITS - SMALL) for x in (0, UNITS - SMALL))
"""The quarters of a picture, in reading order."""


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
        places = _cells_of(rng, len(things))
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
    """Cells in which another thing overlaps nothing, in reading order."""
    return [
        cell
        for cell in CELLS
        if not any(Thing("", *cell).overlaps(thing) for thing in scene.things)
    ]


def _cells_of(rng: random.Random, count: int) -> list[Square]:
    """Cells of three or four things in random order; three leave the upper left one free.

    Pictures are drawn from the top. Were any cell free, a model would have to count what it has
    drawn to leave the last one free, and the small one drew four.
    """
    cells = list(CELLS[-count:])
    rng.shuffle(cells)
    return cells


def _single_place(rng: random.Random, floor: bool) -> Square:
    free = UNITS - LARGE
    return Square(STEP * rng.randint(0, free // STEP), free if floor else free // 2, LARGE)


def _pair_places(rng: random.Random, relation: str, floor: bool) -> list[Square]:
    near = UNITS - SMALL
    if relation in ("left of", "right of"):
        top = near if floor else rng.choice((0, near))
        places = [Square(0, top, SMALL), Square(near, top, SMALL)]
    else:
        left = rng.choice((0, near))
        places = [Square(left, 0, SMALL), Square(left, near, SMALL)]
    return places if relation in ("left of", "above") else places[::-1]
