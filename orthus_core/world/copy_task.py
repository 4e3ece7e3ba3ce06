"""A picture to be drawn again as it is: the first thing that an edit has to be able to do.

Every edit keeps most of what it is given. A small model does not come to that by itself: shown
edits alone it draws a new picture of the right layout. Shown copies as well, it learns within a few
hundred steps to look at the patch it is about to draw, and edits have that to start from.
"""

from __future__ import annotations

import random

from orthus_core.data.document import Segment, turn
from orthus_core.data.pictures import Picture
from orthus_core.world.scenes import sample_scene
from orthus_core.world.single_sprites import sample_single
from orthus_core.world.world import World

KEEP = (
    "copy it",
    "copy the picture",
    "draw it again",
    "change nothing",
    "leave it as it is",
)

COLOURED_CHANCE = 0.3
# Scenes have more to be kept than single things.
SCENE_CHANCE = 0.8


def copy(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A picture, words that ask for nothing new, and the picture."""
    picture: Picture
    if rng.random() < SCENE_CHANCE:
        picture = world.scene_image(sample_scene(rng, world).scene)
    else:
        picture = sample_single(rng, world, COLOURED_CHANCE).picture(world)
    return turn("user", picture, rng.choice(KEEP)) + turn("model", picture)
