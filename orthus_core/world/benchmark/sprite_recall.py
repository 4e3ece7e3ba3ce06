"""Sprite recall: is the thing drawn for a name recognised as a sprite with that name?

Training shows all single sprites. Only some pictures in the second style are held out; they
form a part of the task of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.detector import THRESHOLD
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import mean, share
from orthus_core.world.benchmark.sprite_metric import SIZES
from orthus_core.world.english import with_article
from orthus_core.world.scene import Thing
from orthus_core.world.single_sprites import caption_names
from orthus_core.world.splits import style_held_out
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprites import Sprite
from orthus_core.world.world import World

NAME = "sprite-recall"
# Number of sprites for each style, and of pictures that are held out.
SPRITES_PER_PART = {"3d": 96, "flat": 64, "held out": 32}


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
    """All sprites of a style that the task can ask for, in the judge's metric."""

    def __init__(self, context: EvalContext, style: str) -> None:
        packs = context.world.styles
        self.sprites = [s for s in askable(context.world) if s.key in packs[style]]
        self._metric = context.detector().metric
        things = [Thing(sprite.key, style=style) for sprite in self.sprites]
        self._references_KD = self._metric.references(packs, things)

    @torch.no_grad()
    def nearest(self, picture_3HW: Tensor) -> Sprite | None:
        """The sprite that any window shows most certainly; None where nothing is recognised."""
        scores = [
            self._metric.scores(picture_3HW, self._references_KD, size).amax((0, 1))
            for size in SIZES
        ]
        score, which = torch.stack(scores).amax(0).max(0)
        return self.sprites[int(which)] if score >= THRESHOLD else None


def run(context: EvalContext) -> Work[TaskResult]:
    """The share of correct pictures for each style (3d first) and for held-out pictures."""
    world = context.world
    items = sample_items(context)
    galleries = {style: Gallery(context, style) for style in {item.style for item in items}}
    drawn = yield from context.subject.draw([item.caption(world) for item in items], NAME)
    decoded = context.subject.reconstruct([item.picture(world) for item in items])

    def carries(item: RecallItem, picture_3HW: Tensor) -> bool:
        nearest = galleries[item.style].nearest(picture_3HW)
        name = caption_names(world, item.sprite)[0]
        return nearest is not None and name in world.names(nearest).all

    true = context.subject.load_pictures([item.picture(world) for item in items])
    right = yield from context.judge_all(carries, items, drawn, NAME)
    truth = yield from context.judge_all(carries, items, true, f"{NAME} on truth")
    ceiling = yield from context.judge_all(carries, items, decoded, f"{NAME}, ceiling")
    scores = []
    for part in dict.fromkeys(item.part for item in items):
        of_part = [index for index, item in enumerate(items) if item.part == part]
        chances = [1 / len(galleries[items[index].style].sprites) for index in of_part]
        scores.append(
            share(
                part,
                [right[index] for index in of_part],
                chance=sum(chances) / len(chances),
                truth=mean([truth[index] for index in of_part]),
                ceiling=mean([ceiling[index] for index in of_part]),
            )
        )
    samples = [
        {
            "seed": context.subject.seed + number,
            "part": item.part,
            "prompt": item.caption(world),
            "sprite": item.sprite.key,
            "right": is_right,
        }
        for number, (item, is_right) in enumerate(zip(items, right, strict=True))
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
    plain = askable(world)
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


def askable(world: World) -> list[Sprite]:
    """The sprites without symbols."""
    return [s for s in world.sprites if s.group != "symbols"]
