"""Detects sprites in a picture by zero-mean normalised cross-correlation with templates.

A scene is a backdrop with sprites composited over it. The foreground is the difference between the
picture and its backdrop, r = x - b; a sprite of colour c and alpha a would add d = a (c - b) to the
backdrop. The score of a sprite at a place is the correlation of r and d over its box and all three
colour channels,

    <r - mean r, d - mean d> / (|r - mean r| |d - mean d|)

(Lewis: Fast normalized cross-correlation, 1995). It depends on shape and colour, but not on
brightness and contrast, which a small autoencoder gets wrong. In a box that contains almost nothing
a correlation is meaningless, so the variance guard sets its score to 0. Pictures and sprites are
compared at half the size, where the details that such an autoencoder blurs are not visible.

Legend: H W pixels, N templates, L positions of a box, s its side in pixels, E = 3 s s its values,
    B backdrops, F pixels of a picture's frame.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.world.backdrops import BACKDROPS, paint
from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import SIDES, UNITS, Scene, Thing, thing_pixels
from orthus_core.world.world import World

# Minimum correlation of a detection; docs/evaluation.md says how it was chosen.
THRESHOLD = 0.75
# Minimum standard deviation of r and d (values in 0..1) in a box that is not empty.
LEAST_DEVIATION = 0.03
# Power of a score that a larger box has to outweigh: many sprites at many sides resemble a part of
# another a little.
SHARPNESS = 8
# Things in a scene never overlap, so two detections that overlap more (as a fraction of the smaller
# box) are the same thing.
MOST_OVERLAP = 0.3
# Side in pixels at which pictures are compared, with a box at every pixel.
DETAIL = 32
UNIT = UNITS // DETAIL

# The backdrop is recognised by the frame of a picture, which is this many pixels wide. The error of
# each pixel is clipped at FARTHEST, so that things at the edge do not dominate.
FRAME = 2
FARTHEST = 0.25


class Detection(NamedTuple):
    """A sprite that was found in a picture.

    Attributes:
        noun: Noun of the sprite in scenes.
        colour: Colour of `HUES` that it appears to have; "" for nouns that are never recoloured.
        x, y: Left and upper edge of its box, in 64ths of the picture's side.
        side: Side of its box, in the same unit.
        score: Correlation, at most 1.
    """

    noun: str
    colour: str
    x: int
    y: int
    side: int
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the box, (x, y)."""
        return self.x + self.side / 2, self.y + self.side / 2


class Template(NamedTuple):
    """A template's identity.

    Attributes:
        noun: Noun of the sprite.
        colour: Colour of `HUES` that it appears to have, or "".
        unrecoloured: Whether it is the sprite in its own colours.
    """

    noun: str
    colour: str
    unrecoloured: bool


class TemplateStatistics(NamedTuple):
    """Mean and deviation of d, what each template adds to one backdrop at each position: [N, L]."""

    mean_NL: Tensor
    deviation_NL: Tensor


class TemplateBank:
    """All templates of one box size.

    Args:
        world: World whose cast is used, as far as the style contains it.
        style: Style of the sprites, one of `STYLES`.
        side: Side of the box, in 64ths of a picture's side.
    """

    def __init__(self, world: World, style: str, side: int) -> None:
        self.side = side
        self.pixels = side // UNIT
        layers: list[np.ndarray] = []
        self.templates: list[Template] = []
        looks_of_cast = [
            (noun, sprite.key, mirror)
            for noun in world.cast
            for sprite in world.variants(noun, style)
            for mirror in ((False, True) if world.mirrors(sprite.key) else (False,))
        ]
        for noun, key, mirror in looks_of_cast:
            plain = Thing(key, style=style, mirror=mirror)
            own_HW4 = thing_pixels(world.styles, plain, side) / 255
            hues = {
                hue: thing_pixels(world.styles, replace(plain, colour=hue), side) / 255
                for hue in (HUES if noun in COLOURED else ())
            }
            looks = min(hues, key=lambda hue: np.square(hues[hue] - own_HW4).sum(), default="")
            layers += [own_HW4, *hues.values()]
            self.templates += [Template(noun, looks, True)]
            self.templates += [Template(noun, hue, False) for hue in hues]
        layers_N4ss = F.avg_pool2d(torch.from_numpy(np.stack(layers)).permute(0, 3, 1, 2), UNIT)
        cover_N1ss = layers_N4ss[:, 3:]
        self._colour_NE = layers_N4ss[:, :3].flatten(1)
        self._cover_NE = cover_N1ss.flatten(1)
        self._both_NE = (layers_N4ss[:, :3] * cover_N1ss).flatten(1)
        # Recoloured sprites share a shape, so products with the shape are computed once.
        self._shapes_NE, self._shape_of_N = self._cover_NE.unique(dim=0, return_inverse=True)
        self._statistics: dict[str, TemplateStatistics] = {}

    def scores(self, picture_3HW: Tensor, backdrop: str) -> tuple[Tensor, Tensor]:
        """Correlations [N, L], and the energy of each box around its mean [L].

        Args:
            picture_3HW: Picture in 0..1.
            backdrop: Name of its backdrop.
        """
        ground_3HW = backdrop_tensor(backdrop)
        rest_3HW = picture_3HW - ground_3HW
        rest_EL = boxes(rest_3HW, self.pixels)
        lit_EL = boxes((rest_3HW * ground_3HW).sum(0, keepdim=True), self.pixels)
        values = len(rest_EL)

        # <r, d> = <r, a c> - <r b, a>: only these two products depend on the picture.
        dot_NL = self._colour_NE @ rest_EL - (self._shapes_NE @ lit_EL)[self._shape_of_N]
        mean_L = rest_EL.mean(0)
        energy_L = (rest_EL.square().sum(0) - values * mean_L.square()).clamp_min(0)
        statistics = self._statistics_of(backdrop)
        scores_NL = dot_NL - values * mean_L * statistics.mean_NL
        scores_NL /= (energy_L.sqrt() * statistics.deviation_NL).clamp_min(1e-6)
        # The variance guard, for the box and for sprites that are invisible on this backdrop.
        least = LEAST_DEVIATION * values**0.5
        guarded_NL = (energy_L.sqrt() < least) | (statistics.deviation_NL < least)
        return scores_NL.masked_fill_(guarded_NL, 0), energy_L

    def _statistics_of(self, backdrop: str) -> TemplateStatistics:
        if backdrop not in self._statistics:
            ground_3HW = backdrop_tensor(backdrop)
            grey_EL = boxes(ground_3HW.sum(0, keepdim=True), self.pixels)
            squared_EL = boxes(ground_3HW.square().sum(0, keepdim=True), self.pixels)
            values = 3 * self.pixels**2
            total_NL = self._colour_NE.sum(1, keepdim=True) - self._cover_NE @ grey_EL
            square_NL = self._colour_NE.square().sum(1, keepdim=True)
            square_NL = square_NL - 2 * self._both_NE @ boxes(ground_3HW, self.pixels)
            square_NL = square_NL + self._cover_NE.square() @ squared_EL
            deviation_NL = (square_NL - total_NL.square() / values).clamp_min(0).sqrt()
            self._statistics[backdrop] = TemplateStatistics(total_NL / values, deviation_NL)
        return self._statistics[backdrop]


class Detector:
    """Finds the cast of a world in pictures. A picture takes about 30 ms.

    Args:
        world: World whose cast is detected.
        style: Style of the sprites; each style needs its own detector.
        threshold: Minimum correlation of a detection.
    """

    def __init__(self, world: World, style: str = "3d", *, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        self._banks = [TemplateBank(world, style, side) for side in SIDES]
        self._own_colour = {t.noun: t.colour for t in self._banks[0].templates if t.unrecoloured}

    def apparent_colour(self, noun: str, colour: str) -> str:
        """The colour of a correct detection of a noun with a colour ("" for its own)."""
        return self._own_colour[noun] if not colour else colour

    def truth(self, world: World, scene: Scene) -> list[Detection]:
        """The correct detections of a scene."""
        named = zip(world.nouns(scene), scene.things, strict=True)
        return [
            Detection(n, self.apparent_colour(n, t.colour), t.x, t.y, t.side, 1.0) for n, t in named
        ]

    @torch.no_grad()
    def find(self, picture_3HW: Tensor) -> list[Detection]:
        """The sprites in a picture of values in 0..1; the one that explains most comes first."""
        picture_3HW = at_detail(picture_3HW)
        backdrop = nearest_backdrop(picture_3HW)
        found: list[tuple[float, Detection]] = []
        for bank in self._banks:
            scores_NL, energy_L = bank.scores(picture_3HW, backdrop)
            best_L, which_L = scores_NL.max(0)
            across = DETAIL - bank.pixels + 1
            for place in (best_L >= self.threshold).nonzero().flatten().tolist():
                template = bank.templates[int(which_L[place])]
                y, x = divmod(place, across)
                score = float(best_L[place])
                box = (x * UNIT, y * UNIT, bank.side)
                detection = Detection(template.noun, template.colour, *box, score)
                # A sprite that resembles part of another correlates too; the larger explains more.
                found.append((score**SHARPNESS * float(energy_L[place]), detection))
        found.sort(key=lambda each: -each[0])
        return suppress_overlaps([detection for _, detection in found])


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
    off_B3F = (backdrop_frames() - frame_pixels(at_detail(picture_3HW))).abs()
    return BACKDROPS[int(off_B3F.amax(1).clamp_max(FARTHEST).mean(1).argmin())]


def frame_pixels(picture_3HW: Tensor) -> Tensor:
    """The pixels in the frame of a picture: [..., 3, F]."""
    frame_HW = torch.ones(DETAIL, DETAIL, dtype=torch.bool)
    frame_HW[FRAME:-FRAME, FRAME:-FRAME] = False
    return picture_3HW[..., frame_HW]


@lru_cache(maxsize=1)
def backdrop_frames() -> Tensor:
    """The frames of all backdrops: [B, 3, F]."""
    return frame_pixels(torch.stack([backdrop_tensor(backdrop) for backdrop in BACKDROPS]))


@lru_cache(maxsize=64)
def backdrop_tensor(backdrop: str) -> Tensor:
    """A backdrop at the size of comparison: [3, H, W] in 0..1."""
    return at_detail(unit_range_of_bytes(paint(backdrop, UNITS)))


def unit_range_of_bytes(pixels_HW3: np.ndarray) -> Tensor:
    """Converts bytes [H, W, 3] to values in 0..1, [3, H, W]."""
    return torch.from_numpy(pixels_HW3.astype(np.float32) / 255).permute(2, 0, 1)


def at_detail(picture_3HW: Tensor) -> Tensor:
    """Scales a picture to the size of comparison by averaging."""
    return F.adaptive_avg_pool2d(picture_3HW.float(), DETAIL)


def boxes(picture_cHW: Tensor, side: int) -> Tensor:
    """All boxes with a given side, one at every pixel, in reading order: [c s s, L]."""
    return F.unfold(picture_cHW[None], side)[0]
