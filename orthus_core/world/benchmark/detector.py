"""Which sprites stand where in a picture: zero-mean normalised cross-correlation with all of them.

A scene is a backdrop with sprites laid over it. What stands out is the picture less its backdrop,
r = x - b; what a sprite of colour c and cover a would add to the backdrop is d = a (c - b). The
score of a sprite at a place is the correlation of the two over its box and all three colours,

    <r - mean r, d - mean d> / (|r - mean r| |d - mean d|)

(Lewis: Fast normalized cross-correlation, 1995), so shape and colour both count while brightness
and contrast, which a small autoencoder gets wrong, do not. Where a box holds next to nothing a
correlation means nothing either: the variance guard scores it 0. Everything is compared at half
the size, where the details that such an autoencoder blurs are gone from the sprites too.

Legend: H W pixels, N templates, L places of a box, s its side in pixels, E = 3 s s its values,
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
from orthus_core.world.scene import (
    LARGE,
    SMALL,
    UNITS,
    WHOLE,
    Scene,
    Thing,
    thing_pixels,
)
from orthus_core.world.world import World

# A detection is a correlation of at least this; see docs/evaluation.md for how it was chosen.
THRESHOLD = 0.75
# Values are in 0..1: a box that departs from its backdrop by less than this on average is empty.
LEAST_DEVIATION = 0.03
# Things of a scene never overlap; two detections that share more of the smaller box are one thing.
MOST_OVERLAP = 0.3
SIDES = (SMALL, LARGE, WHOLE)
# Pictures are compared at this many pixels a side, boxes at each of them.
DETAIL = 32
UNIT = UNITS // DETAIL

# The backdrop is seen at the edge of a picture, whatever stands in its middle: so many pixels wide,
# and none of them counts as further off than this, or things that touch the edge would decide.
FRAME = 2
FARTHEST = 0.25


class Detection(NamedTuple):
    """A sprite found in a picture.

    noun: What scenes call it.
    colour: Which of `HUES` it looks, for nouns that come in several; "" for the others.
    x, y, side: Its box, in 64ths of the picture's side.
    score: The correlation, up to 1.
    """

    noun: str
    colour: str
    x: int
    y: int
    side: int
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle, (x, y)."""
        return self.x + self.side / 2, self.y + self.side / 2


class Template(NamedTuple):
    """What a template is of. `unrecoloured` is whether it is the sprite as it is, unrecoloured."""

    noun: str
    colour: str
    unrecoloured: bool


class TemplateStatistics(NamedTuple):
    """Of what each template adds to one backdrop at each place: sums over the box, [N, L]."""

    mean_NL: Tensor
    deviation_NL: Tensor


class TemplateBank:
    """All templates at one size of box.

    Args:
        world: Its cast, as far as it is drawn in the style.
        style: Of `STYLES`.
        side: Of the box, in 64ths of a picture's side.
    """

    def __init__(self, world: World, style: str, side: int) -> None:
        self.side = side
        self.pixels = side // UNIT
        layers: list[np.ndarray] = []
        self.templates: list[Template] = []
        for noun, sprite in world.cast.items():
            if sprite.key not in world.styles[style]:
                continue
            plain = Thing(sprite.key, style=style)
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
        # Recoloured sprites share a shape, and so all that depends on it alone.
        self._shapes_NE, self._shape_of_N = self._cover_NE.unique(dim=0, return_inverse=True)
        self._statistics: dict[str, TemplateStatistics] = {}

    def scores(self, picture_3HW: Tensor, backdrop: str) -> tuple[Tensor, Tensor]:
        """Correlations [N, L] and each box's energy [L] above its mean, in a picture of 0..1."""
        ground_3HW = backdrop_tensor(backdrop)
        rest_3HW = picture_3HW - ground_3HW
        rest_EL = boxes(rest_3HW, self.pixels)
        lit_EL = boxes((rest_3HW * ground_3HW).sum(0, keepdim=True), self.pixels)
        values = len(rest_EL)

        # <r, d> = <r, a c> - <r b, a>: only these two know the picture.
        dot_NL = self._colour_NE @ rest_EL - (self._shapes_NE @ lit_EL)[self._shape_of_N]
        mean_L = rest_EL.mean(0)
        energy_L = (rest_EL.square().sum(0) - values * mean_L.square()).clamp_min(0)
        statistics = self._statistics_of(backdrop)
        scores_NL = dot_NL - values * mean_L * statistics.mean_NL
        scores_NL /= (energy_L.sqrt() * statistics.deviation_NL).clamp_min(1e-6)
        # The variance guard, for the box and for sprites that vanish before this backdrop.
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
    """Finds the cast of a world in pictures. A picture takes some 30 ms.

    Args:
        world: Whose cast is looked for.
        style: What it is drawn in; each style wants a detector of its own.
        threshold: The least correlation of a detection.
    """

    def __init__(self, world: World, style: str = "3d", *, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        self._banks = [TemplateBank(world, style, side) for side in SIDES]
        self._own_colour = {t.noun: t.colour for t in self._banks[0].templates if t.unrecoloured}

    def apparent_colour(self, noun: str, colour: str) -> str:
        """The colour that a detection has of a noun shown in a colour, or as it is when ""."""
        return self._own_colour[noun] if not colour else colour

    def truth(self, world: World, scene: Scene) -> list[Detection]:
        """What there is to find in a scene."""
        named = zip(world.nouns(scene), scene.things, strict=True)
        return [
            Detection(n, self.apparent_colour(n, t.colour), t.x, t.y, t.side, 1.0) for n, t in named
        ]

    @torch.no_grad()
    def find(self, picture_3HW: Tensor) -> list[Detection]:
        """The sprites of a picture in 0..1, the one that explains most of it first."""
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
                # A sprite inside a sprite correlates well too; the whole one explains more.
                found.append((score**2 * float(energy_L[place]), detection))
        found.sort(key=lambda each: -each[0])
        return suppress_overlaps([detection for _, detection in found])


def suppress_overlaps(detections: list[Detection]) -> list[Detection]:
    """Non-maximum suppression: those that do not overlap with an earlier one that is kept."""
    kept: list[Detection] = []
    for detection in detections:
        if all(overlap(detection, other) <= MOST_OVERLAP for other in kept):
            kept.append(detection)
    return kept


def overlap(a: Detection, b: Detection) -> float:
    """Intersection of two boxes as a share of the smaller one."""
    across = min(a.x + a.side, b.x + b.side) - max(a.x, b.x)
    down = min(a.y + a.side, b.y + b.side) - max(a.y, b.y)
    return max(across, 0) * max(down, 0) / min(a.side, b.side) ** 2


def nearest_backdrop(picture_3HW: Tensor) -> str:
    """The backdrop that most of a picture's frame shows, in a picture of 0..1."""
    off_B3F = (backdrop_frames() - frame_pixels(at_detail(picture_3HW))).abs()
    return BACKDROPS[int(off_B3F.amax(1).clamp_max(FARTHEST).mean(1).argmin())]


def frame_pixels(picture_3HW: Tensor) -> Tensor:
    """The pixels at a picture's edge: [..., 3, F]."""
    frame_HW = torch.ones(DETAIL, DETAIL, dtype=torch.bool)
    frame_HW[FRAME:-FRAME, FRAME:-FRAME] = False
    return picture_3HW[..., frame_HW]


@lru_cache(maxsize=1)
def backdrop_frames() -> Tensor:
    """The edges of all backdrops: [B, 3, F]."""
    return frame_pixels(torch.stack([backdrop_tensor(backdrop) for backdrop in BACKDROPS]))


@lru_cache(maxsize=64)
def backdrop_tensor(backdrop: str) -> Tensor:
    """A backdrop as pictures are compared with it: [3, H, W]."""
    return at_detail(unit_range_of_bytes(paint(backdrop, UNITS)))


def unit_range_of_bytes(pixels_HW3: np.ndarray) -> Tensor:
    """Bytes [H, W, 3] as values in 0..1, [3, H, W]."""
    return torch.from_numpy(pixels_HW3.astype(np.float32) / 255).permute(2, 0, 1)


def at_detail(picture_3HW: Tensor) -> Tensor:
    """The picture at the size it is compared at, each pixel a mean of those it covers."""
    return F.adaptive_avg_pool2d(picture_3HW.float(), DETAIL)


def boxes(picture_cHW: Tensor, side: int) -> Tensor:
    """All boxes of a side, one at every pixel, in reading order: [c s s, L]."""
    return F.unfold(picture_cHW[None], side)[0]
