"""Random pictures of a single thing: its sprite, its place and its ground."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from orthus_core.world.arrange import arrange
from orthus_core.world.backdrops import COLOURS, GRADIENTS, OUTDOORS, SKYLESS
from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import Scene, SceneImage, Thing
from orthus_core.world.splits import colour_held_out
from orthus_core.world.sprites import Sprite
from orthus_core.world.world import World

# Grounds that the words leave open, by kind.
OPEN_GROUNDS: Mapping[str, float] = {"white": 0.5, "gradient": 0.2, "place": 0.2, "colour": 0.1}
# Share of places without a sky, of those that the words leave open.
SKYLESS_CHANCE = 0.15


class Single(NamedTuple):
    """A picture of one thing.

    Attributes:
        sprite: Sprite that is shown.
        scene: Scene with this one thing.
        named: Whether words about the picture have to name its ground, because they ask for it.
    """

    sprite: Sprite
    scene: Scene
    named: bool = False

    @property
    def ground(self) -> str:
        """The name of the backdrop."""
        return self.scene.backdrop

    def on(self, ground: str) -> Single:
        """The same thing at the same place on another ground."""
        return self._replace(scene=replace(self.scene, backdrop=ground))

    def picture(self, world: World) -> SceneImage:
        """The picture of the scene."""
        return world.scene_image(self.scene)


def sample_single(rng: random.Random, world: World, coloured: float) -> Single:
    """Samples a single thing that this world may show.

    In a testing world, its ground is held out.

    Args:
        rng: Random numbers.
        world: World of the sprite.
        coloured: Probability of a coloured ground that the words name. They leave the others open.
    """
    while True:
        named = world.testing or rng.random() < coloured
        if named:
            sprite, ground = world.sample_sprite_and_ground(rng)
        else:
            sprite, ground = world.sample_sprite(rng), open_ground(rng)
        if _is_held_out_cell(world.names(sprite).name):
            continue
        scene = arrange(rng, [Thing(sprite.key)], ground)
        if world.allows(scene) and world.stands_out(scene):
            return Single(sprite, scene, named)


def open_ground(rng: random.Random) -> str:
    """A backdrop for words that name none."""
    kind = rng.choices(list(OPEN_GROUNDS), list(OPEN_GROUNDS.values()))[0]
    if kind == "place":
        return rng.choice(SKYLESS if rng.random() < SKYLESS_CHANCE else OUTDOORS)
    if kind == "gradient":
        return rng.choice(list(GRADIENTS))
    return rng.choice(list(COLOURS)) if kind == "colour" else "white"


def caption_names(world: World, sprite: Sprite) -> list[str]:
    """The names of a sprite that captions may use, the plain name first.

    A name such as "red heart" is left to a recoloured thing, unless the sprite has no other name.
    """
    names = world.names(sprite).all
    return [name for name in names if not _cell(name)] or [names[0]]


def _cell(name: str) -> tuple[str, str] | None:
    """Noun and colour of a name such as "red heart", which in scenes means a recoloured heart."""
    colour, _, noun = name.partition(" ")
    return (noun, colour) if colour in HUES and noun in COLOURED else None


def _is_held_out_cell(name: str) -> bool:
    # The sprite "yellow heart" would show what a test asks of a recoloured heart.
    cell = _cell(name)
    return cell is not None and colour_held_out(*cell)
