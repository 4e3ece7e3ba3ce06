"""Sprite recall: is the thing drawn for a name recognised as a sprite with that name?

Training shows all single sprites: they are a vocabulary that a model may memorise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orthus_core.world.arrange import arrange
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.detector import THRESHOLD
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import mean, share
from orthus_core.world.benchmark.sprite_metric import SIZES
from orthus_core.world.english import with_article
from orthus_core.world.scene import Thing
from orthus_core.world.single_sprites import caption_names
from orthus_core.world.sprites import Sprite
from orthus_core.world.world import World

NAME = "sprite-recall"
PART = "3d"
"""Name of the task's score: the style of the sprites."""
SPRITES = 192
"""Number of sprites."""


def caption_for(world: World, sprite: Sprite) -> str:
    """The prompt for a sprite, as in training."""
    return with_article(caption_names(world, sprite)[0])


class Gallery:
    """All sprites that the task can ask for, in the judge's metric."""

    def __init__(self, context: EvalContext) -> None:
        self.sprites = askable(context.world)
        self._metric = context.detector().metric
        things = [Thing(sprite.key) for sprite in self.sprites]
        self._references_KD = self._metric.references(context.world.styles, things)

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
    """The share of correct pictures."""
    world = context.world
    sprites = sample_sprites(context)
    gallery = Gallery(context)
    prompts = [caption_for(world, sprite) for sprite in sprites]
    rng = context.rng(f"{NAME}/true")
    scenes = [arrange(rng, [Thing(sprite.key)], "white") for sprite in sprites]
    pictures = [world.scene_image(scene) for scene in scenes]
    drawn = yield from context.subject.draw(prompts, NAME)
    decoded = context.subject.reconstruct(pictures)

    def carries(sprite: Sprite, picture_3HW: Tensor) -> bool:
        nearest = gallery.nearest(picture_3HW)
        return nearest is not None and world.noun(nearest.key) == world.noun(sprite.key)

    true = context.subject.load_pictures(pictures)
    right = yield from context.judge_all(carries, sprites, drawn, NAME)
    truth = yield from context.judge_all(carries, sprites, true, f"{NAME} on truth")
    ceiling = yield from context.judge_all(carries, sprites, decoded, f"{NAME}, ceiling")
    chance = 1 / len(gallery.sprites)
    score = share(PART, right, chance=chance, truth=mean(truth), ceiling=mean(ceiling))
    samples = [
        {
            "seed": context.subject.seed + number,
            "part": PART,
            "prompt": prompt,
            "sprite": sprite.key,
            "right": is_right,
        }
        for number, (sprite, prompt, is_right) in enumerate(
            zip(sprites, prompts, right, strict=True)
        )
    ]
    tiles = [Tile(picture, is_right) for picture, is_right in zip(drawn, right, strict=True)]
    return TaskResult(NAME, [score], samples, [tiles])


def sample_sprites(context: EvalContext) -> list[Sprite]:
    """Samples sprites, without symbols."""
    sprites = askable(context.world)
    count = min(context.count(SPRITES, parts=1), len(sprites))
    return context.rng(f"{NAME}/{PART}").sample(sprites, count)


def askable(world: World) -> list[Sprite]:
    """The sprites that the task can ask for: symbols, such as "square", need no drawing."""
    return [s for s in world.sprites if s.group != "symbols"]
