"""Pictures of the small world in bulk, for an autoencoder: thousands a second, where the records of
`orthus_core.data.world` give some hundred.

Legend: M pictures or sprites, H W pixels, h w a sprite's, B backdrops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from orthus_core.evaluation.reconstruction import MEASURED, MEASURED_SEED
from orthus_core.world.augment import laid_over, premultiplied, random_pictures, scaled
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

# Of all pictures: single sprites in every style, recoloured ones, scenes of two to four, one
# outdoors, and scenes of any sprites, which keep the autoencoder from knowing the cast alone.
SHARES = {"single": 5, "cast": 1, "scene": 7, "outdoors": 2, "any_scene": 1}
# How often a thing of the cast is shown as it is, for each time in another style or colour.
OWN_LOOKS = 6
CORNER_FILLED = 0.6
# Of scenes, those that are moved along by a quarter of the picture.
MOVED = 0.3


class SpritePictures:
    """Sprites over backgrounds at random; those held out are laid out once, in the same way.

    Args:
        sprites_M4HW: Colour times alpha, as uint8.
        held_out_M4HW: The same of sprites that are never drawn.
    """

    def __init__(self, sprites_M4HW: Tensor, held_out_M4HW: Tensor) -> None:
        self.sprites_M4HW = sprites_M4HW
        self.held_out_M3HW = held_out_M4HW[:, :3].float()
        if len(held_out_M4HW):
            generator = torch.Generator().manual_seed(MEASURED_SEED)
            self.held_out_M3HW = random_pictures(held_out_M4HW, MEASURED, generator)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return random_pictures(self.sprites_M4HW, count, generator)


class WorldPictures:
    """Random pictures of the small world, as Chameleon's processor scales them.

    Attributes:
        held_out_M3HW: Laid out once, of sprites that are never drawn alone; [0, 3, H, W] when
            nothing is held out.

    Args:
        world: All its styles are shown; of its single sprites its share `held_out` is held out
            whole, in every style.
        size: Side of a picture in pixels, a multiple of 4.
    """

    def __init__(self, world: World, size: int) -> None:
        self.size = size
        kept, apart = [torch.empty(0, 4, size, size, dtype=torch.uint8)] * 2
        for pack in world.styles.values():
            untoned = [sprite for sprite in pack if not sprite.skin]  # a tone is the same shape
            held = [_is_apart(sprite.neutral, world.held_out) for sprite in untoned]
            sprites_M4HW, held_M = premultiplied(pack, untoned, size), torch.tensor(held)
            kept = torch.cat([kept, sprites_M4HW[~held_M]])
            apart = torch.cat([apart, sprites_M4HW[held_M]])
        self.singles = SpritePictures(kept, apart)
        self.any_M4hw = _shrunk(kept)
        self.cast = {
            side: cast_looks(world, side * size // UNITS) for side in (SMALL, LARGE, WHOLE)
        }
        self.backdrops_B3HW = _painted(BACKDROPS, size)
        self.outdoors_B3HW = _painted(OUTDOORS, size)
        self.held_out_M3HW = self.singles.held_out_M3HW
        if len(apart):
            # Half of them scenes: of the cast, which is known, on any backdrop.
            generator = torch.Generator().manual_seed(MEASURED_SEED)
            scenes_M3HW = self._scenes(self.cast[SMALL], MEASURED // 2, generator)
            self.held_out_M3HW = torch.cat([self.held_out_M3HW[: MEASURED // 2], scenes_M3HW])

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Float [count, 3, H, W], each kind by its share of `SHARES`."""
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
        """Backdrops with a thing in some of their corners."""
        half = self.size // 2
        canvas_M3HW = _picked(self.backdrops_B3HW, count, generator)
        for top, left in ((0, 0), (0, half), (half, 0), (half, half)):
            over_M4hw = _picked(sprites_M4hw, count, generator)
            filled_M = torch.rand(count, generator=generator) < CORNER_FILLED
            over_M4hw *= filled_M[:, None, None, None]
            part_M3hw = canvas_M3HW[:, :, top : top + half, left : left + half]
            part_M3hw.copy_(laid_over(over_M4hw, part_M3hw))
        moved_M = torch.rand(count, generator=generator) < MOVED
        canvas_M3HW[moved_M] = canvas_M3HW[moved_M].roll(half // 2, -1)
        return scaled(canvas_M3HW)

    def _outdoors(self, count: int, generator: torch.Generator) -> Tensor:
        """One large thing on the ground, on the left or on the right."""
        step, side = STEP * self.size // UNITS, LARGE * self.size // UNITS
        canvas_M3HW = _picked(self.outdoors_B3HW, count, generator)
        over_M4hw = _picked(self.cast[LARGE], count, generator)
        right_M = torch.rand(count, generator=generator) < 0.5
        for there_M, left in ((right_M, step), (~right_M, 0)):
            part_M3hw = canvas_M3HW[there_M][:, :, step:, left : left + side]
            laid_M3hw = laid_over(over_M4hw[there_M], part_M3hw)
            canvas_M3HW[there_M, :, step:, left : left + side] = laid_M3hw
        return scaled(canvas_M3HW)


def cast_looks(world: World, side: int) -> Tensor:
    """Everyone of the cast in all styles and colours, colour times alpha: uint8 [M, 4, h, w]."""
    looks: list[Thing] = []
    for noun, sprite in world.cast.items():
        looks += [Thing(sprite.key)] * OWN_LOOKS
        looks += [Thing(sprite.key, style=style) for style in STYLES if style != "3d"]
        looks += [Thing(sprite.key, colour=colour) for colour in HUES if noun in COLOURED]
    drawn = {look: thing_pixels(world.styles, look, side) for look in set(looks)}
    stacked_MHW4 = np.stack([np.rint(drawn[look]).clip(0, 255).astype(np.uint8) for look in looks])
    return torch.from_numpy(stacked_MHW4).permute(0, 3, 1, 2).contiguous()


def _is_apart(thing: str, share: float) -> bool:
    return stable_share("unseen by the autoencoder", thing) < share


def _painted(backdrops: Iterable[str], size: int) -> Tensor:
    stacked_BHW3 = np.stack([paint(backdrop, size) for backdrop in backdrops])
    return torch.from_numpy(stacked_BHW3).permute(0, 3, 1, 2).contiguous()


def _shrunk(sprites_M4HW: Tensor) -> Tensor:
    """Half as high and wide; with alpha multiplied in, a plain mean is right."""
    halved = torch.nn.functional.avg_pool2d(sprites_M4HW.float(), 2)
    return halved.round().to(torch.uint8)


def _picked(from_M: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of them at random as float in 0..1."""
    return from_M[torch.randint(len(from_M), (count,), generator=generator)].float() / 255
