"""Places of things in a scene, and the spatial relation between two of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from orthus_core.world.backdrops import is_outdoors
from orthus_core.world.scene import LARGE, SMALL, STEP, WHOLE, Scene, Thing

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MOST_THINGS = 4

# Two things are side by side more often than one above the other.
_PAIR_WEIGHTS = {"left of": 3, "right of": 3, "above": 1, "below": 1}
_CORNERS = ((0, 0), (SMALL, 0), (0, SMALL), (SMALL, SMALL))


def arrange(
    rng: random.Random, things: Sequence[Thing], backdrop: str, relation: str = ""
) -> Scene:
    """A scene of one to four things that do not overlap.

    A single thing fills the picture; outdoors it fills most of it and stands on the ground. Two
    things are placed in one of `RELATIONS`, three or four in the corners.

    Args:
        rng: Random numbers for what is not given.
        things: Things to place. Their positions and sizes are set here, the rest is kept.
        backdrop: Name of the backdrop.
        relation: Relation of the first of two things to the second; sampled when empty.
    """
    outdoors = is_outdoors(backdrop)
    if len(things) == 1:
        if not outdoors:
            return Scene(backdrop, (replace(things[0], x=0, y=0, side=WHOLE),))
        x = rng.choice((0, STEP))
        return Scene(backdrop, (replace(things[0], x=x, y=STEP, side=LARGE),))
    if len(things) == 2:
        relation = relation or rng.choices(list(_PAIR_WEIGHTS), list(_PAIR_WEIGHTS.values()))[0]
        places = _pair_places(rng, relation, outdoors)
    else:
        places = rng.sample(_CORNERS, len(things))
    placed = [replace(t, x=x, y=y, side=SMALL) for t, (x, y) in zip(things, places, strict=True)]
    return Scene(backdrop, tuple(placed))


def relation_between(thing: Thing, other: Thing) -> str:
    """The relation of `thing` to `other`, one of `RELATIONS`; "" when none of them holds."""
    (x, y), (other_x, other_y) = thing.centre, other.centre
    across, down = other_x - x, other_y - y
    if abs(across) >= SMALL and abs(down) <= STEP:
        return "left of" if across > 0 else "right of"
    if abs(down) >= SMALL and abs(across) <= STEP:
        return "above" if down > 0 else "below"
    return ""


def free_places(scene: Scene) -> list[tuple[int, int]]:
    """Positions on the raster where another small thing would overlap nothing in the scene."""
    places = [(x, y) for y in range(0, SMALL + 1, STEP) for x in range(0, SMALL + 1, STEP)]
    return [
        place
        for place in places
        if not any(Thing("", *place, side=SMALL).overlaps(thing) for thing in scene.things)
    ]


def _pair_places(rng: random.Random, relation: str, outdoors: bool) -> list[tuple[int, int]]:
    if relation in ("left of", "right of"):
        # Outdoors, things stand on the ground and not in the sky.
        y = rng.choice((STEP, SMALL) if outdoors else (0, STEP, SMALL))
        places = [(0, y), (SMALL, y)]
    else:
        x = rng.choice((0, STEP, SMALL))
        places = [(x, 0), (x, SMALL)]
    return places if relation in ("left of", "above") else places[::-1]
