"""Detects sprites in a picture: each window is named by the nearest sprite, or by nothing.

`sprite_metric` measures how near a window is to each thing. Of overlapping windows, the one with
the highest score is kept. The colour of what was found is that of the sprite in the hue that is
most similar to its pixels.

Legend: H W pixels, i j row and column of a window, K sprites or colours, n crops, w ways to show a
    sprite, s side in pixels, B backdrops, F pixels of a picture's frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.world.backdrops import BACKDROPS, paint
from orthus_core.world.benchmark.sprite_metric import (
    SIZES,
    SpriteMetric,
    sprites_of_cast,
    unit_range_of_bytes,
    window_box,
)
from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import UNITS, Scene, Thing, thing_pixels
from orthus_core.world.world import World

JUDGE = "EfficientNet-Lite0, nearest sprite"
# Minimum score of a detection; docs/evaluation.md says how it was chosen.
THRESHOLD = 0.3
# Score from which a window of an empty backdrop resembles a sprite, which is then not looked for
# in this window: a room has a window that could be a square.
RESEMBLANCE = 0.2
# Two detections that overlap more (as a fraction of the smaller box) are the same thing.
MOST_OVERLAP = 0.25

# Side in pixels at which colours are compared, how far the sprite may be off, and in what sizes.
DETAIL, MARGIN = 24, 3
ZOOMS = (0.8, 0.9, 1.0, 1.12)

# The backdrop is recognised by the frame of a picture, which is this many pixels wide. The error of
# each pixel is clipped at FARTHEST, so that things at the edge do not dominate.
FRAME_SIDE, FRAME = 32, 2
FARTHEST = 0.25


class Detection(NamedTuple):
    """A sprite that was found in a picture.

    Attributes:
        noun: Noun of the sprite.
        colour: Colour of `HUES` that it appears to have; "" for nouns that are never recoloured.
        x, y: Left and upper edge of its box, in 64ths of the picture's side.
        side: Side of its box, in the same unit.
        score: Cosine to the sprite minus cosine to nothing (at least 0), at most 1.
    """

    noun: str
    colour: str
    x: float
    y: float
    side: float
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the box, (x, y)."""
        return self.x + self.side / 2, self.y + self.side / 2


class Detector:
    """Finds the things of a world's scenes in pictures of any size, in 0.1 to 0.2 seconds on one
    core.

    Args:
        world: World whose cast is detected.

    Raises:
        OrthusError: When the optional package with the network's weights is not installed.
    """

    def __init__(self, world: World) -> None:
        self._packs = world.styles
        self.metric = SpriteMetric.of(world)
        self._sprites = sprites_of_cast(world)
        self._resembled: dict[tuple[str, int], Tensor] = {}

    def truth(self, world: World, scene: Scene) -> list[Detection]:
        """The correct detections of a scene."""
        return [
            Detection(noun, self._colour(noun, t.sprite, t.colour), t.x, t.y, t.side, 1.0)
            for noun, t in zip(world.nouns(scene), scene.things, strict=True)
        ]

    @torch.no_grad()
    def find(self, picture_3HW: Tensor) -> list[Detection]:
        """The sprites in a picture of values in 0..1; the most certain comes first."""
        found: list[tuple[Detection, str]] = []
        backdrop = nearest_backdrop(picture_3HW)
        for size in SIZES:
            scores_ijK = self.metric.scores(picture_3HW, self.metric.sprites_KD, size)
            scores_ijK[self._seen_without_things(backdrop, size)] = 0
            best_ij, which_ij = scores_ijK.max(-1)
            for i, j in (best_ij >= THRESHOLD).nonzero().tolist():
                noun, key = self._sprites[int(which_ij[i, j])]
                box = window_box(i, j, size)
                found.append((Detection(noun, "", *box, float(best_ij[i, j])), key))
        found.sort(key=lambda each: -each[0].score)
        key_of = dict(found)
        kept = suppress_overlaps(list(key_of))
        return [self._with_colour(each, key_of[each], picture_3HW) for each in kept]

    def _seen_without_things(self, backdrop: str, size: int) -> Tensor:
        """Which sprites the windows of an empty backdrop resemble: bool [i, j, K]."""
        if (backdrop, size) not in self._resembled:
            empty_3HW = unit_range_of_bytes(paint(backdrop, 2 * UNITS))
            scores_ijK = self.metric.scores(empty_3HW, self.metric.sprites_KD, size)
            self._resembled[backdrop, size] = scores_ijK >= RESEMBLANCE
        return self._resembled[backdrop, size]

    def _with_colour(self, found: Detection, key: str, picture_3HW: Tensor) -> Detection:
        if found.noun not in COLOURED:
            return found
        crops_n3ss = torch.stack([box_pixels(picture_3HW, found, zoom) for zoom in ZOOMS])
        colour = self._nearest_colour(key, crops_n3ss, ["", *HUES])
        return found._replace(colour=self._colour(found.noun, key, colour))

    def _colour(self, noun: str, key: str, colour: str) -> str:
        """The hue that a sprite in a colour ("" for its own) appears to have."""
        if colour or noun not in COLOURED:
            return colour
        return self._nearest_colour(key, self._tinted(key, "")[None, :3], list(HUES))

    def _nearest_colour(self, key: str, crops_n3ss: Tensor, colours: Sequence[str]) -> str:
        """The colour with the smallest squared error at any place, in any crop, mirrored or not."""
        tinted_K4ss = torch.stack([self._tinted(key, colour) for colour in colours])
        ways_w4ss = torch.cat([tinted_K4ss, tinted_K4ss.flip(-1)])
        colour_w3ss, cover_w1ss = ways_w4ss[:, :3], ways_w4ss[:, 3:]
        # |a x - c|^2 = a^2 x^2 - 2 a c x + c^2, for every place of the sprite in each crop.
        error_nwij = F.conv2d(crops_n3ss.square(), cover_w1ss.square().expand(-1, 3, -1, -1))
        error_nwij -= 2 * F.conv2d(crops_n3ss, cover_w1ss * colour_w3ss)
        error_nwij += colour_w3ss.square().sum((1, 2, 3))[:, None, None]
        return colours[int(error_nwij.amin((0, 2, 3)).view(2, -1).amin(0).argmin())]

    def _tinted(self, key: str, hue: str) -> Tensor:
        """The sprite in a hue ("" for its own) with premultiplied alpha: [4, s, s] in 0..1."""
        return unit_range_of_bytes(thing_pixels(self._packs, Thing(key, colour=hue), DETAIL))


def box_pixels(picture_3HW: Tensor, box: Detection, zoom: float) -> Tensor:
    """The pixels in a box and its margin, scaled to the size at which colours are compared.

    Args:
        picture_3HW: Picture; outside of it, its edge goes on.
        box: Box in the middle of the result.
        zoom: Factor of the box's side.
    """
    unit = picture_3HW.shape[-1] / UNITS
    across = DETAIL + 2 * MARGIN
    side = max(1, round(box.side * zoom * across / DETAIL * unit))
    around_13HW = F.pad(picture_3HW.float()[None], (side,) * 4, mode="replicate")
    left, top = (round(centre * unit + side / 2) for centre in box.centre)
    crop_13ss = around_13HW[..., top : top + side, left : left + side]
    return F.interpolate(crop_13ss, (across, across), mode="bilinear", antialias=True)[0]


def suppress_overlaps(detections: list[Detection]) -> list[Detection]:
    """Non-maximum suppression: keeps detections that do not overlap with an earlier kept one."""
    kept: list[Detection] = []
    for detection in detections:
        if all(overlap(detection, other) <= MOST_OVERLAP for other in kept):
            kept.append(detection)
    return kept


def overlap(a: Detection, b: Detection) -> float:
    """Intersection of two boxes as a fraction of the smaller one."""
    across = min(a.x + a.side, b.x + b.side) - max(a.x, b.x)
    down = min(a.y + a.side, b.y + b.side) - max(a.y, b.y)
    return max(across, 0) * max(down, 0) / min(a.side, b.side) ** 2


def nearest_backdrop(picture_3HW: Tensor) -> str:
    """The backdrop that is most similar to the frame of a picture of values in 0..1."""
    off_B3F = (backdrop_frames() - frame_pixels(picture_3HW)).abs()
    return BACKDROPS[int(off_B3F.amax(1).clamp_max(FARTHEST).mean(1).argmin())]


def frame_pixels(picture_3HW: Tensor) -> Tensor:
    """The pixels in the frame of a picture that is shrunk: [3, F]."""
    frame_HW = torch.ones(FRAME_SIDE, FRAME_SIDE, dtype=torch.bool)
    frame_HW[FRAME:-FRAME, FRAME:-FRAME] = False
    return F.adaptive_avg_pool2d(picture_3HW.float(), FRAME_SIDE)[:, frame_HW]


@lru_cache(maxsize=1)
def backdrop_frames() -> Tensor:
    """The frames of all backdrops: [B, 3, F]."""
    painted = [unit_range_of_bytes(paint(backdrop, UNITS)) for backdrop in BACKDROPS]
    return torch.stack([frame_pixels(each) for each in painted])
