"""Sprite recall: is the picture drawn for a name most similar to a sprite with that name?

Training shows all single sprites. Only some pictures in the second style are held out; they
form a part of the task of their own.
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
from orthus_core.world.single_sprites import caption_names
from orthus_core.world.splits import style_held_out
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprites import Sprite
from orthus_core.world.world import World

NAME = "sprite-recall"
# Number of sprites for each style, and of pictures that are held out.
SPRITES_PER_PART = {"3d": 96, "flat": 64, "held out": 32}
# Side in pixels at which sprites are compared.
DETAIL = 32


class RecallItem(NamedTuple):
    """One item of the task.

    Attributes:
        sprite: Sprite to draw.
        style: Style to draw it in.
        part: Part of the task that the item belongs to.
    """

    sprite: Sprite
    style: str
    part: str

    def picture(self, world: World) -> SpriteImage:
        return SpriteImage(world.styles[self.style], self.sprite.key)

    def caption(self, world: World) -> str:
        """The caption, as in training: it names every style but 3d."""
        name = caption_names(world, self.sprite)[0]
        return with_article(name if self.style == "3d" else f"{self.style} {name}")


class Gallery:
    """All sprites of a style, for nearest-neighbour search."""

    def __init__(self, context: EvalContext, style: str) -> None:
        world = context.world
        self.sprites = [sprite for sprite in world.sprites if sprite.key in world.styles[style]]
        pictures = [SpriteImage(world.styles[style], sprite.key) for sprite in self.sprites]
        vectors = [_shrink(picture_3HW) for picture_3HW in context.subject.load_pictures(pictures)]
        self._gallery_NE = torch.stack(vectors)
        self._square_N = self._gallery_NE.square().sum(1)

    def nearest(self, picture_3HW: Tensor) -> Sprite:
        """The sprite with the smallest mean squared error."""
        # |s - p|^2 = |s|^2 - 2 s.p + |p|^2, of which the last is the same for all.
        distance_N = self._square_N - 2 * self._gallery_NE @ _shrink(picture_3HW)
        return self.sprites[int(distance_N.argmin())]


def run(context: EvalContext) -> Work[TaskResult]:
    """The share of correct pictures for each style (3d first) and for held-out pictures."""
    world = context.world
    items = sample_items(context)
    drawn = yield from context.subject.draw([item.caption(world) for item in items], NAME)
    decoded = context.subject.reconstruct([item.picture(world) for item in items])
    galleries = {style: Gallery(context, style) for style in {item.style for item in items}}

    def carries(item: RecallItem, picture_3HW: Tensor) -> bool:
        nearest = galleries[item.style].nearest(picture_3HW)
        return caption_names(world, item.sprite)[0] in world.names(nearest).all

    right = [carries(item, picture) for item, picture in zip(items, drawn, strict=True)]
    ceiling = [carries(item, picture) for item, picture in zip(items, decoded, strict=True)]
    scores = []
    for part in dict.fromkeys(item.part for item in items):
        of_part = [index for index, item in enumerate(items) if item.part == part]
        chances = [1 / len(galleries[items[index].style].sprites) for index in of_part]
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
            "seed": context.subject.seed + number,
            "part": item.part,
            "prompt": item.caption(world),
            "sprite": item.sprite.key,
            "nearest": galleries[item.style].nearest(picture).key,
            "right": is_right,
        }
        for number, (item, picture, is_right) in enumerate(zip(items, drawn, right, strict=True))
    ]
    tiles = [Tile(picture, is_right) for picture, is_right in zip(drawn, right, strict=True)]
    rows = [
        [tile for tile, item in zip(tiles, items, strict=True) if item.part == part]
        for part in dict.fromkeys(item.part for item in items)
    ]
    return TaskResult(NAME, scores, samples, rows)


def sample_items(context: EvalContext) -> list[RecallItem]:
    """Samples sprites, without symbols."""
    world = context.world
    plain = [s for s in world.sprites if s.group != "symbols"]
    items: list[RecallItem] = []
    for part, default in SPRITES_PER_PART.items():
        cells = [
            RecallItem(sprite, style, part)
            for style in ((part,) if part in world.styles else ("flat",))
            for sprite in plain
            if sprite.key in world.styles[style]
            and style_held_out(sprite.key, style) == (part == "held out")
        ]
        count = min(context.count(default, parts=len(SPRITES_PER_PART)), len(cells))
        items += context.rng(f"{NAME}/{part}").sample(cells, count)
    return items


def _shrink(picture_3HW: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(picture_3HW, DETAIL).flatten()
