"""One sprite alone: which one, in which style, on which ground, and what it may be called."""

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
    """A sprite, the style it is drawn in, and the name of its ground."""

    sprite: Sprite
    style: str
    ground: str

    def picture(self, world: World) -> SpriteImage:
        """It as a picture."""
        return SpriteImage(world.styles[self.style], self.sprite.key, GROUNDS[self.ground])


def any_single(rng: random.Random, world: World, coloured: float) -> Single:
    """A sprite that may be shown here: when testing its ground or its style is held out.

    Args:
        coloured: Chance of a coloured ground, which only the 3d style has.
    """
    weights = {style: w for style, w in STYLE_WEIGHTS.items() if style in world.styles}
    style = rng.choices(list(weights), list(weights.values()))[0]
    while True:
        if style == "3d":
            sprite, ground = world.any_shown(rng, coloured)
        else:
            sprite, ground = world.any_sprite(rng), "white"
            if style_held_out(sprite.key, style) != world.testing:
                continue
        drawn = sprite.key in world.styles[style]
        if drawn and not _is_held_out_cell(world.names(sprite).name):
            return Single(sprite, style, ground)


def spoken_names(world: World, sprite: Sprite) -> list[str]:
    """What a sprite may be called, the plain name first. "blue car" is left to the car that was
    made blue, where the sprite has another name.
    """
    names = world.names(sprite).all
    return [name for name in names if not _cell(name)] or [names[0]]


def _cell(name: str) -> tuple[str, str] | None:
    """Noun and colour of a name such as "blue heart", which scenes make by laying the colour on."""
    colour, _, noun = name.partition(" ")
    return (noun, colour) if colour in HUES and noun in COLOURED else None


def _is_held_out_cell(name: str) -> bool:
    # The sprite "yellow heart" would teach what a test asks of a heart made yellow.
    cell = _cell(name)
    return cell is not None and colour_held_out(*cell)
