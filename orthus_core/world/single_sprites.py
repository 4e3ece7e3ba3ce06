"""Random pictures of a single sprite: the sprite, its style, its ground and its names."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.splits import colour_held_out, style_held_out
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprites import Sprite
from orthus_core.world.world import GROUNDS, World

STYLE_WEIGHTS: Mapping[str, float] = {"3d": 0.8, "flat": 0.1, "noto": 0.1}


class Single(NamedTuple):
    """A single sprite, its style, and the name of its ground."""

    sprite: Sprite
    style: str
    ground: str

    def picture(self, world: World) -> SpriteImage:
        """The picture of the sprite."""
        return SpriteImage(world.styles[self.style], self.sprite.key, GROUNDS[self.ground])


def sample_single(rng: random.Random, world: World, coloured: float) -> Single:
    """Samples a sprite that this world may show.

    In a testing world, its ground or its style is held out.

    Args:
        rng: Random numbers.
        world: World of the sprite.
        coloured: Probability of a coloured ground, which only the 3d style has.
    """
    weights = {style: w for style, w in STYLE_WEIGHTS.items() if style in world.styles}
    style = rng.choices(list(weights), list(weights.values()))[0]
    while True:
        if style == "3d":
            sprite, ground = world.sample_sprite_and_ground(rng, coloured)
        else:
            sprite, ground = world.sample_sprite(rng), "white"
            if style_held_out(sprite.key, style) != world.testing:
                continue
        drawn = sprite.key in world.styles[style]
        if drawn and not _is_held_out_cell(world.names(sprite).name):
            return Single(sprite, style, ground)


def caption_names(world: World, sprite: Sprite) -> list[str]:
    """The names of a sprite that captions may use, the plain name first.

    A name such as "blue car" is left to a recoloured car, unless the sprite has no other name.
    """
    names = world.names(sprite).all
    return [name for name in names if not _cell(name)] or [names[0]]


def _cell(name: str) -> tuple[str, str] | None:
    """Noun and colour of a name such as "blue heart", which in scenes means a recoloured heart."""
    colour, _, noun = name.partition(" ")
    return (noun, colour) if colour in HUES and noun in COLOURED else None


def _is_held_out_cell(name: str) -> bool:
    # The sprite "yellow heart" would show what a test asks of a recoloured heart.
    cell = _cell(name)
    return cell is not None and colour_held_out(*cell)
