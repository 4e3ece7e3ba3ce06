"""Rows that ask for a copy of a picture, the first skill that edits need.

Every edit keeps most of its picture. A small model that is trained on edits alone does not learn
this: it draws a new picture with the right layout. Trained on copies as well, it learns within a
few hundred steps to attend to the patch that it is about to draw, and edits build on that.
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
# Scenes contain more to keep than single things do.
SCENE_CHANCE = 0.8


def copy(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A picture and words that ask for no change; then the same picture."""
    picture: Picture
    if rng.random() < SCENE_CHANCE:
        picture = world.scene_image(sample_scene(rng, world).scene)
    else:
        picture = sample_single(rng, world, COLOURED_CHANCE).picture(world)
    return turn("user", picture, rng.choice(KEEP)) + turn("model", picture)
