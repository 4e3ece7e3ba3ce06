"""Pictures of the small world in bulk, for an autoencoder: thousands per second, while
`orthus_core.world.records` makes some hundreds.

Legend: M pictures or sprites, H W pixels, h w a sprite's, B backdrops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from orthus_core.evaluation.reconstruction import HELD_OUT_IMAGES, HELD_OUT_SEED
from orthus_core.world.augment import (
    composite_over,
    normalise,
    premultiply_sprites,
    random_pictures,
)
from orthus_core.world.backdrops import BACKDROPS, OUTDOORS, paint
from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import (
    LARGE,
    SMALL,
    STEP,
    STYLES,
    UNITS,
    WHOLE,
    Thing,
    thing_pixels,
)
from orthus_core.world.splits import stable_share
from orthus_core.world.world import World

# Weights of the kinds of pictures: single sprites in every style; single things of the cast, some
# of them recoloured; scenes of the cast; one large thing outdoors; and scenes of any sprites, so
# that the autoencoder does not specialise in the cast.
SHARES = {"single": 5, "cast": 1, "scene": 7, "outdoors": 2, "any_scene": 1}
# Frequency of a thing's own look, relative to each other style or colour.
PLAIN_REPEATS = 6
CORNER_CHANCE = 0.6
# Share of scenes that are shifted by a quarter of the picture.
SHIFT_CHANCE = 0.3


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
        self.any_M4hw = _halve(kept)
        self.cast = {
            side: cast_variants(world, side * size // UNITS) for side in (SMALL, LARGE, WHOLE)
        }
        self.backdrops_B3HW = _paint_all(BACKDROPS, size)
        self.outdoors_B3HW = _paint_all(OUTDOORS, size)
        self.held_out_M3HW = self.singles.held_out_M3HW
        if len(apart):
            # Half of them are scenes of the cast, which training shows, on any backdrop.
            generator = torch.Generator().manual_seed(HELD_OUT_SEED)
            scenes_M3HW = self._scenes(self.cast[SMALL], HELD_OUT_IMAGES // 2, generator)
            self.held_out_M3HW = torch.cat(
                [self.held_out_M3HW[: HELD_OUT_IMAGES // 2], scenes_M3HW]
            )

    identity = ""  # the recipe alone decides them

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random pictures, float [count, 3, H, W], with kinds weighted by `SHARES`."""
        makers: dict[str, Callable[[int], Tensor]] = {
            "single": lambda n: self.singles.draw(n, generator),
            "cast": lambda n: random_pictures(self.cast[WHOLE], n, generator),
            "scene": lambda n: self._scenes(self.cast[SMALL], n, generator),
            "outdoors": lambda n: self._outdoors(n, generator),
            "any_scene": lambda n: self._scenes(self.any_M4hw, n, generator),
        }
        shares = torch.tensor(list(SHARES.values()), dtype=torch.float)
        kinds = torch.multinomial(shares, count, replacement=True, generator=generator)
        counts = kinds.bincount(minlength=len(SHARES)).tolist()
        parts = [makers[kind](n) for kind, n in zip(SHARES, counts, strict=True) if n]
        return torch.cat(parts)[torch.randperm(count, generator=generator)]

    def _scenes(self, sprites_M4hw: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Backdrops with things in some of the corners."""
        half = self.size // 2
        canvas_M3HW = _sample_pictures(self.backdrops_B3HW, count, generator)
        for top, left in ((0, 0), (0, half), (half, 0), (half, half)):
            over_M4hw = _sample_pictures(sprites_M4hw, count, generator)
            filled_M = torch.rand(count, generator=generator) < CORNER_CHANCE
            over_M4hw *= filled_M[:, None, None, None]
            part_M3hw = canvas_M3HW[:, :, top : top + half, left : left + half]
            part_M3hw.copy_(composite_over(over_M4hw, part_M3hw))
        moved_M = torch.rand(count, generator=generator) < SHIFT_CHANCE
        canvas_M3HW[moved_M] = canvas_M3HW[moved_M].roll(half // 2, -1)
        return normalise(canvas_M3HW)

    def _outdoors(self, count: int, generator: torch.Generator) -> Tensor:
        """One large thing on the ground, to the left or to the right."""
        step, side = STEP * self.size // UNITS, LARGE * self.size // UNITS
        canvas_M3HW = _sample_pictures(self.outdoors_B3HW, count, generator)
        over_M4hw = _sample_pictures(self.cast[LARGE], count, generator)
        right_M = torch.rand(count, generator=generator) < 0.5
        for there_M, left in ((right_M, step), (~right_M, 0)):
            part_M3hw = canvas_M3HW[there_M][:, :, step:, left : left + side]
            laid_M3hw = composite_over(over_M4hw[there_M], part_M3hw)
            canvas_M3HW[there_M, :, step:, left : left + side] = laid_M3hw
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


def _halve(sprites_M4HW: Tensor) -> Tensor:
    """Sprites at half their size. With premultiplied alpha, a plain mean is correct."""
    halved = torch.nn.functional.avg_pool2d(sprites_M4HW.float(), 2)
    return halved.round().to(torch.uint8)


def _sample_pictures(from_M: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random pictures, as float in 0..1."""
    return from_M[torch.randint(len(from_M), (count,), generator=generator)].float() / 255
