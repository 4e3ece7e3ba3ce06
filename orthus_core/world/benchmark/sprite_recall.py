"""Sprite recall: of sprites asked for by name, whose drawing is nearest to one of that name?

Single sprites are a vocabulary that training shows whole; what it held back are some of their
drawings in a second and third style, which are asked for apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import share
from orthus_core.world.english import with_article
from orthus_core.world.single_sprites import spoken_names
from orthus_core.world.splits import style_held_out
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprites import Sprite
from orthus_core.world.world import World

NAME = "sprite-recall"
# How many are asked for in each style, and of those drawings that were held out.
ASKED = {"3d": 96, "flat": 32, "noto": 32, "held out": 32}
# Sprites are told apart at this many pixels a side.
DETAIL = 32


class Wanted(NamedTuple):
    """A sprite in a style, and which part of the task asks for it."""

    sprite: Sprite
    style: str
    part: str

    def picture(self, world: World) -> SpriteImage:
        return SpriteImage(world.styles[self.style], self.sprite.key)

    def caption(self, world: World) -> str:
        """As training asked: no style is 3d."""
        name = spoken_names(world, self.sprite)[0]
        return with_article(name if self.style == "3d" else f"{self.style} {name}")


class Gallery:
    """All sprites of a style that may be asked for, to find the nearest of."""

    def __init__(self, bench: EvalContext, style: str) -> None:
        world = bench.world
        self.sprites = [sprite for sprite in world.sprites if sprite.key in world.styles[style]]
        pictures = [SpriteImage(world.styles[style], sprite.key) for sprite in self.sprites]
        seen = [_small(picture_3HW) for picture_3HW in bench.subject.seen(pictures)]
        self._seen_NE = torch.stack(seen)
        self._square_N = self._seen_NE.square().sum(1)

    def nearest(self, picture_3HW: Tensor) -> Sprite:
        """The sprite with the least mean squared error."""
        # |s - p|^2 = |s|^2 - 2 s.p + |p|^2, of which the last is the same for all.
        distance_N = self._square_N - 2 * self._seen_NE @ _small(picture_3HW)
        return self.sprites[int(distance_N.argmin())]


def run(bench: EvalContext) -> Work[TaskResult]:
    """A share for each style and for held-out drawings; the one of style 3d comes first."""
    world = bench.world
    wanted = choose(bench)
    drawn = yield from bench.subject.draw([w.caption(world) for w in wanted], NAME)
    decoded = bench.subject.decoded([w.picture(world) for w in wanted])
    galleries = {style: Gallery(bench, style) for style in {w.style for w in wanted}}

    def carries(w: Wanted, picture_3HW: Tensor) -> bool:
        nearest = galleries[w.style].nearest(picture_3HW)
        return spoken_names(world, w.sprite)[0] in world.names(nearest).all

    right = [carries(w, picture) for w, picture in zip(wanted, drawn, strict=True)]
    ceiling = [carries(w, picture) for w, picture in zip(wanted, decoded, strict=True)]
    scores = []
    for part in dict.fromkeys(w.part for w in wanted):
        of_part = [index for index, w in enumerate(wanted) if w.part == part]
        chances = [1 / len(galleries[wanted[index].style].sprites) for index in of_part]
        scores.append(
            share(
                part,
                [right[index] for index in of_part],
                chance=sum(chances) / len(chances),
                truth=1.0,
                ceiling=sum(ceiling[index] for index in of_part) / len(of_part),
            )
        )
    samples = [
        {
            "seed": bench.subject.seed + number,
            "part": w.part,
            "prompt": w.caption(world),
            "sprite": w.sprite.key,
            "nearest": galleries[w.style].nearest(picture).key,
            "right": is_right,
        }
        for number, (w, picture, is_right) in enumerate(zip(wanted, drawn, right, strict=True))
    ]
    tiles = [Tile(picture, is_right) for picture, is_right in zip(drawn, right, strict=True)]
    rows = [
        [tile for tile, w in zip(tiles, wanted, strict=True) if w.part == part]
        for part in dict.fromkeys(w.part for w in wanted)
    ]
    return TaskResult(NAME, scores, samples, rows)


def choose(bench: EvalContext) -> list[Wanted]:
    """Plain sprites at random: without tones and twins, which differ by a few pixels."""
    world = bench.world
    plain = [s for s in world.sprites if not s.skin and not s.gender and s.group != "symbols"]
    wanted: list[Wanted] = []
    for part, usual in ASKED.items():
        cells = [
            Wanted(sprite, style, part)
            for style in ((part,) if part in world.styles else ("flat", "noto"))
            for sprite in plain
            if sprite.key in world.styles[style]
            and style_held_out(sprite.key, style) == (part == "held out")
        ]
        count = min(bench.count(usual, parts=len(ASKED)), len(cells))
        wanted += bench.rng(f"{NAME}/{part}").sample(cells, count)
    return wanted


def _small(picture_3HW: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(picture_3HW, DETAIL).flatten()
