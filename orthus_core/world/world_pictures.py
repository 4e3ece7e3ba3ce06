"""Pictures of the small world in bulk, for an autoencoder: thousands per second, while
`orthus_core.world.records` makes some hundreds.

Legend: M pictures or sprites, H W pixels, h w a thing's, B backdrops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.evaluation.reconstruction import HELD_OUT_IMAGES, HELD_OUT_SEED
from orthus_core.world.arrange import MOST_THINGS
from orthus_core.world.augment import (
    composite_over,
    normalise,
    premultiply_sprites,
    random_pictures,
)
from orthus_core.world.backdrops import BACKDROPS, paint
from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import STYLES, UNITS, Thing, thing_pixels
from orthus_core.world.splits import stable_share
from orthus_core.world.world import World

# Weights of the kinds of pictures: single sprites in every style; single things of the cast, some
# of them recoloured; scenes of the cast; and scenes of any sprites, so that the autoencoder does
# not specialise in the cast.
SHARES = {"single": 5, "cast": 1, "scene": 7, "any_scene": 3}
# Frequency of a thing's own look, relative to each other style or colour.
PLAIN_REPEATS = 6
# Sides of things in scenes and the raster they are placed on, in 64ths of the picture's side.
SIDES = (24, 32, 32, 40, 48, 56)
RASTER = 8


class SpritePictures:
    """Random pictures of single sprites over random backgrounds.

    Args:
        sprites_M4HW: Sprites with premultiplied alpha, as uint8.
        held_out_M4HW: Held-out sprites in the same form; `draw` never shows them.

    Attributes:
        sprites_M4HW: Sprites that `draw` shows.
        held_out_M3HW: Random pictures of held-out sprites, made once.
    """

    def __init__(self, sprites_M4HW: Tensor, held_out_M4HW: Tensor) -> None:
        self.sprites_M4HW = sprites_M4HW
        self.held_out_M3HW = held_out_M4HW[:, :3].float()
        if len(held_out_M4HW):
            generator = torch.Generator().manual_seed(HELD_OUT_SEED)
            self.held_out_M3HW = random_pictures(held_out_M4HW, HELD_OUT_IMAGES, generator)

    identity = ""  # as for WorldPictures

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return random_pictures(self.sprites_M4HW, count, generator)


class WorldPictures:
    """Random pictures of the small world, as Chameleon's processor scales them.

    Args:
        world: World whose sprites are shown, in all styles. Its fraction `held_out` of the sprites
            is never shown alone, in any style.
        size: Side of a picture in pixels, a multiple of 4.

    Attributes:
        held_out_M3HW: Pictures of held-out sprites and of scenes, made once; [0, 3, H, W] if
            nothing is held out.
    """

    def __init__(self, world: World, size: int) -> None:
        self.size = size
        kept, apart = [torch.empty(0, 4, size, size, dtype=torch.uint8)] * 2
        for pack in world.styles.values():
            untoned = [sprite for sprite in pack if not sprite.skin]  # tones have the same shape
            held = [_is_held_out(sprite.neutral, world.held_out) for sprite in untoned]
            sprites_M4HW, held_M = premultiply_sprites(pack, untoned, size), torch.tensor(held)
            kept = torch.cat([kept, sprites_M4HW[~held_M]])
            apart = torch.cat([apart, sprites_M4HW[held_M]])
        self.singles = SpritePictures(kept, apart)
        self.any_M4HW = kept
        self.cast_M4HW = cast_variants(world, size)
        self.backdrops_B3HW = _paint_all(BACKDROPS, size)
        self.held_out_M3HW = self.singles.held_out_M3HW
        if len(apart):
            # Half of them are scenes of the cast, which training shows, on any backdrop.
            generator = torch.Generator().manual_seed(HELD_OUT_SEED)
            scenes_M3HW = self._scenes(self.cast_M4HW, HELD_OUT_IMAGES // 2, generator)
            self.held_out_M3HW = torch.cat(
                [self.held_out_M3HW[: HELD_OUT_IMAGES // 2], scenes_M3HW]
            )

    identity = ""  # the recipe alone decides them

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random pictures, float [count, 3, H, W], with kinds weighted by `SHARES`."""
        makers: dict[str, Callable[[int], Tensor]] = {
            "single": lambda n: self.singles.draw(n, generator),
            "cast": lambda n: random_pictures(self.cast_M4HW, n, generator),
            "scene": lambda n: self._scenes(self.cast_M4HW, n, generator),
            "any_scene": lambda n: self._scenes(self.any_M4HW, n, generator),
        }
        shares = torch.tensor(list(SHARES.values()), dtype=torch.float)
        kinds = torch.multinomial(shares, count, replacement=True, generator=generator)
        counts = kinds.bincount(minlength=len(SHARES)).tolist()
        parts = [makers[kind](n) for kind, n in zip(SHARES, counts, strict=True) if n]
        return torch.cat(parts)[torch.randperm(count, generator=generator)]

    def _scenes(self, sprites_M4HW: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Backdrops with one to four things of any size on the raster; later ones are in front."""
        canvas_M3HW = _sample_pictures(self.backdrops_B3HW, count, generator)
        for picture_3HW in canvas_M3HW:
            for _ in range(_pick(MOST_THINGS, generator) + 1):
                side = SIDES[_pick(len(SIDES), generator)] * self.size // UNITS
                over_14hw = _sample_pictures(sprites_M4HW, 1, generator)
                over_14hw = F.interpolate(over_14hw, (side, side), mode="bilinear", antialias=True)
                if _pick(2, generator):
                    over_14hw = over_14hw.flip(-1)
                raster = RASTER * self.size // UNITS
                places = (self.size - side) // raster + 1
                top, left = (_pick(places, generator) * raster for _ in range(2))
                part_3hw = picture_3HW[:, top : top + side, left : left + side]
                part_3hw.copy_(composite_over(over_14hw, part_3hw[None])[0])
        return normalise(canvas_M3HW)


def cast_variants(world: World, side: int) -> Tensor:
    """The cast in all styles and colours, with premultiplied alpha: uint8 [M, 4, h, w]."""
    looks: list[Thing] = []
    for noun, sprite in world.cast.items():
        looks += [Thing(sprite.key)] * PLAIN_REPEATS
        looks += [Thing(sprite.key, style=style) for style in STYLES if style != "3d"]
        looks += [Thing(sprite.key, colour=colour) for colour in HUES if noun in COLOURED]
    drawn = {look: thing_pixels(world.styles, look, side) for look in set(looks)}
    stacked_MHW4 = np.stack([np.rint(drawn[look]).clip(0, 255).astype(np.uint8) for look in looks])
    return torch.from_numpy(stacked_MHW4).permute(0, 3, 1, 2).contiguous()


def _is_held_out(thing: str, share: float) -> bool:
    return stable_share("unseen by the autoencoder", thing) < share


def _paint_all(backdrops: Iterable[str], size: int) -> Tensor:
    stacked_BHW3 = np.stack([paint(backdrop, size) for backdrop in backdrops])
    return torch.from_numpy(stacked_BHW3).permute(0, 3, 1, 2).contiguous()


def _pick(count: int, generator: torch.Generator) -> int:
    """A random whole number below `count`."""
    return int(torch.randint(count, (), generator=generator))


def _sample_pictures(from_M: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random pictures, as float in 0..1."""
    return from_M[torch.randint(len(from_M), (count,), generator=generator)].float() / 255
