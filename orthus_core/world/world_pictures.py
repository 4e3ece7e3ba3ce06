"""Pictures of the small world in bulk, for an autoencoder: a few hundred a second.

They are scenes, laid out and drawn as in `orthus_core.world.scenes`, but of all sprites of all
styles, so that the autoencoder does not specialise in the vocabulary.

Legend: M pictures or sprites, H W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from orthus_core.data.pixels import pack_pixels
from orthus_core.evaluation.reconstruction import HELD_OUT_IMAGES, HELD_OUT_SEED
from orthus_core.world.arrange import MOST_THINGS, arrange
from orthus_core.world.backdrops import BACKDROPS
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import SceneImage, Thing
from orthus_core.world.single_sprites import open_ground
from orthus_core.world.splits import stable_share
from orthus_core.world.world import World

# Weights of the number of things in a picture.
COUNTS = {1: 0.45, 2: 0.3, 3: 0.1, 4: 0.15}
# Share of pictures of the cast; the others show any sprites.
CAST_CHANCE = 0.5
# Shares of things of the cast that are recoloured, and of backdrops with equal chances of all.
COLOUR_CHANCE, ANY_BACKDROP_CHANCE = 0.2, 0.5
# Share of pictures in any style; the others are in style 3d.
ANY_STYLE_CHANCE = 0.4
# Share of grey things.
GREY_CHANCE = 0.02


class WorldPictures:
    """Random pictures of the small world, as Chameleon's processor scales them.

    Args:
        world: World whose sprites are shown, in all styles. Its fraction `held_out` of the sprites
            outside of the cast is never drawn, in any style.
        size: Side of a picture in pixels, a multiple of 4.

    Attributes:
        held_out_M3HW: Pictures of held-out sprites and of scenes of the cast, made once;
            [0, 3, H, W] if nothing is held out.
    """

    def __init__(self, world: World, size: int) -> None:
        self.size = size
        self._styles = world.styles
        cast = {sprite.key for noun in world.cast for sprite in world.things[noun].sprites}
        # Tones have the shape of their sprite, so they are as good as any other.
        kept: dict[str, list[str]] = {}
        apart: dict[str, list[str]] = {}
        for style, pack in world.styles.items():
            for sprite in pack:
                shape = sprite.base if sprite.skin else sprite.neutral
                held = sprite.key not in cast and _is_held_out(shape, world.held_out)
                (apart if held else kept).setdefault(style, []).append(sprite.key)
        self._kept = kept
        self._cast = {s: [k for k in keys if k in cast] for s, keys in kept.items()}
        self.held_out_M3HW = torch.empty(0, 3, size, size)
        if any(apart.values()):
            rng = random.Random(HELD_OUT_SEED)
            singles = [self._picture(rng, apart, 1) for _ in range(HELD_OUT_IMAGES // 2)]
            scenes = [
                self._picture(rng, self._cast, rng.randint(2, MOST_THINGS))
                for _ in range(HELD_OUT_IMAGES - len(singles))
            ]
            self.held_out_M3HW = pack_pixels(singles + scenes)

    identity = ""  # the recipe alone decides them
    faults = None

    def draw(
        self, count: int, generator: torch.Generator, own: Sequence[int] | None = None
    ) -> Tensor:
        """Random pictures, float [M, 3, H, W]; of `count` those with the numbers `own`."""
        rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        scenes = [self._any_scene(rng) for _ in range(count)]
        drawn = scenes if own is None else [scenes[number] for number in own]
        if not drawn:
            return torch.empty(0, 3, self.size, self.size)
        return pack_pixels([scene.load(self.size) for scene in drawn])

    def _any_scene(self, rng: random.Random) -> SceneImage:
        keys = self._cast if rng.random() < CAST_CHANCE and any(self._cast.values()) else self._kept
        return self._scene(rng, keys, rng.choices(list(COUNTS), list(COUNTS.values()))[0])

    def _picture(self, rng: random.Random, keys_of: dict[str, list[str]], count: int) -> np.ndarray:
        """A scene of things of one style: uint8 [H, W, 3]."""
        return self._scene(rng, keys_of, count).load(self.size)

    def _scene(self, rng: random.Random, keys_of: dict[str, list[str]], count: int) -> SceneImage:
        styles = [style for style, keys in keys_of.items() if keys]
        style = "3d" if "3d" in styles and rng.random() >= ANY_STYLE_CHANCE else rng.choice(styles)
        keys = keys_of[style]
        things = [
            Thing(
                rng.choice(keys),
                style=style,
                mirror=rng.random() < 0.5,
                grey=rng.random() < GREY_CHANCE,
                colour=rng.choice(list(HUES))
                if keys is self._cast.get(style) and rng.random() < COLOUR_CHANCE
                else "",
            )
            for _ in range(count)
        ]
        backdrop = rng.choice(BACKDROPS) if rng.random() < ANY_BACKDROP_CHANCE else open_ground(rng)
        return SceneImage(self._styles, arrange(rng, things, backdrop))


def _is_held_out(thing: str, share: float) -> bool:
    return stable_share("unseen by the autoencoder", thing) < share
