"""mini-geneval: do pictures show the things of their prompts, with count, colour and position?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.geneval_rule import Verdict, judge, scene_of
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import mean, overall, share
from orthus_core.world.geneval_prompts import TAGS, geneval_prompts
from orthus_core.world.scene import Scene

NAME = "mini-geneval"
PROMPTS = 40
"""Prompts of each of the six categories."""
SAMPLES = 2
"""Pictures of each prompt."""


class GenevalItem(NamedTuple):
    """A prompt with a correct scene.

    Attributes:
        request: Official record of the prompt.
        scene: Correct scene for it.
    """

    request: dict[str, Any]
    scene: Scene

    @property
    def tag(self) -> str:
        """The category."""
        return self.request["tag"]


def run(context: EvalContext) -> Work[TaskResult]:
    """Scores of the six categories and their mean.

    The score by chance is that of correct scenes of other prompts of the same category.
    """
    detector = context.detector()  # before anything is drawn, as its package may be missing
    all_items = items_of(context, PROMPTS)
    per_tag = context.count(PROMPTS, parts=len(TAGS) * SAMPLES)
    items = [item for tag in TAGS for item in _of_tag(all_items, tag)[:per_tag]]
    requests = [item for item in items for _ in range(SAMPLES)]
    captions = [item.request["prompt"] for item in requests]
    drawn = yield from context.subject.draw(captions, NAME)

    # 1. Judge the model's pictures, and correct pictures with and without the autoencoder.
    def verdict(item: GenevalItem, picture_3HW: Tensor) -> Verdict:
        return judge(item.request, detector.find(picture_3HW))

    scenes = [context.world.scene_image(item.scene) for item in items]
    seen, decoded = context.subject.load_pictures(scenes), context.subject.reconstruct(scenes)
    found = yield from context.judge_all(verdict, requests, drawn, NAME)
    truth = yield from context.judge_all(verdict, items, seen, f"{NAME} on truth")
    ceiling = yield from context.judge_all(verdict, items, decoded, f"{NAME}, ceiling")

    # 2. Compute a score for each category, and their mean.
    parts = [
        share(
            tag,
            [v.right for v, item in zip(found, requests, strict=True) if item.tag == tag],
            chance=_chance(context, _of_tag(all_items, tag)),
            truth=mean([v.right for v, i in zip(truth, items, strict=True) if i.tag == tag]),
            ceiling=mean([v.right for v, i in zip(ceiling, items, strict=True) if i.tag == tag]),
        )
        for tag in TAGS
    ]
    samples = [
        {"seed": context.subject.seed + number, **item.request, "right": v.right, "why": v.reasons}
        for number, (item, v) in enumerate(zip(requests, found, strict=True))
    ]
    rows: dict[str, list[Tile]] = defaultdict(list)
    for picture, item, v in zip(drawn, requests, found, strict=True):
        rows[item.tag].append(Tile(picture, v.right))
    return TaskResult(NAME, [overall(parts), *parts], samples, list(rows.values()))


def items_of(context: EvalContext, per_category: int) -> list[GenevalItem]:
    """Prompts of all six categories, in the order of `TAGS`."""
    rng = context.rng(NAME)
    wordings = context.world.wordings
    words = None if wordings == "trained" else wordings  # canonical captions otherwise
    prompts = geneval_prompts(context.world, per_category, context.seed, words)
    records = [prompt.record() for prompt in prompts]
    return [GenevalItem(record, scene_of(rng, context.world, record)) for record in records]


def _of_tag(items: Sequence[GenevalItem], tag: str) -> list[GenevalItem]:
    return [item for item in items if item.tag == tag]


def _chance(context: EvalContext, items: Sequence[GenevalItem]) -> float:
    """The share of pairs of two items in which the scene of one is correct for the other."""
    truths = [context.detector().truth(context.world, item.scene) for item in items]
    return mean(
        [
            judge(item.request, truth).right
            for index, item in enumerate(items)
            for other, truth in enumerate(truths)
            if other != index
        ]
    )
