"""mini-diversity: do the pictures of one prompt at several seeds differ as true pictures do?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orthus_core.evaluation.efficientnet import efficientnet
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.geneval_rule import scene_of
from orthus_core.world.benchmark.mini_geneval import items_of
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import Score, bootstrap, mean
from orthus_core.world.benchmark.sprite_metric import whole_vector
from orthus_core.world.geneval_prompts import TAGS
from orthus_core.world.scene import Scene
from orthus_core.world.single_sprites import open_ground
from orthus_core.world.world import World

NAME = "mini-diversity"
PROMPTS = 4
"""Prompts of each of the six categories."""
SEEDS = 8
"""Pictures of each prompt."""


def run(context: EvalContext) -> Work[TaskResult]:
    """Mean distance of two pictures of the same prompt, divided by that of two true scenes of it.

    Both are means over all prompts, so one whose true scenes are all the same does no harm.
    """
    efficientnet()  # before anything is drawn, as its package may be missing
    items = items_of(context, max(1, context.count(PROMPTS, parts=len(TAGS) * SEEDS)))
    requests = [item.request for item in items for _ in range(SEEDS)]
    drawn = yield from context.subject.draw([request["prompt"] for request in requests], NAME)
    rng = context.rng(f"{NAME}/true")
    scenes = [true_scene(rng, context.world, request) for request in requests]
    true = context.subject.load_pictures([context.world.scene_image(scene) for scene in scenes])
    decoded = context.subject.reconstruct([context.world.scene_image(scene) for scene in scenes])

    def distances(pictures: Sequence[Tensor]) -> list[float]:
        groups = [pictures[first : first + SEEDS] for first in range(0, len(pictures), SEEDS)]
        return [mean_distance(group) for group in groups]

    pairs = list(zip(distances(drawn), distances(true), strict=True))
    value, interval = ratio(pairs), bootstrap(pairs, ratio)
    ceiling = ratio(list(zip(distances(decoded), (true for _, true in pairs), strict=True)))
    score = Score("diversity", value, len(pairs), interval, 0.0, 1.0, ceiling)
    samples = [
        {"prompt": item.request["prompt"], "distance": distance, "true_distance": of_true}
        for item, (distance, of_true) in zip(items, pairs, strict=True)
    ]
    rows = [
        [Tile(picture) for picture in drawn[first : first + SEEDS]]
        for first in range(0, len(drawn), SEEDS)
    ]
    return TaskResult(NAME, [score], samples, rows)


def true_scene(rng: random.Random, world: World, request: Mapping[str, Any]) -> Scene:
    """A correct scene for a request, on a backdrop as training has them where words name none."""
    while True:
        scene = scene_of(rng, world, request, open_ground(rng))
        if world.stands_out(scene):
            return scene


@torch.no_grad()
def mean_distance(pictures: Sequence[Tensor]) -> float:
    """Mean distance of two of these pictures in features of EfficientNet.

    Args:
        pictures: Pictures [3, H, W] in 0..1, at least two.
    """
    vectors_MD = torch.stack([whole_vector(picture_3HW) for picture_3HW in pictures])
    return float(torch.pdist(vectors_MD).mean())


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The sum of the first numbers divided by the sum of the second; NaN for 0."""
    total = mean([true for _, true in pairs])
    return mean([mine for mine, _ in pairs]) / total if total else float("nan")
