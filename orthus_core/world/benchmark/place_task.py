"""mini-place: does a picture show one thing, alone, at the place that its prompt names?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

from torch import Tensor

from orthus_core.world.backdrops import SKY_WORDS
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.detector import nearest_backdrop
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import mean, share
from orthus_core.world.scene import Scene
from orthus_core.world.scenes import sample_scene
from orthus_core.world.wording import describe
from orthus_core.world.wordings import ScenePrompt, prompt_of

NAME = "mini-place"
PROMPTS = 40
SAMPLES = 2
"""Pictures of each prompt."""
CATEGORY = "single_object"
TRIES = 20
"""Scenes that are sampled for each prompt, at most; most are new."""


class PlaceItem(NamedTuple):
    """A prompt with a correct scene.

    Attributes:
        prompt: Text, and the words of the backdrop that it names.
        scene: Correct scene for it: one thing at the place.
        noun: Noun of the thing.
    """

    prompt: ScenePrompt
    scene: Scene
    noun: str


def run(context: EvalContext) -> Work[TaskResult]:
    """The share of pictures with the thing, nothing else, and the right backdrop; then the shares
    of both parts.

    The score by chance is that of correct scenes of other prompts.
    """
    detector = context.detector()  # before anything is drawn, as its package may be missing
    items = items_of(context)
    requests = [item for item in items for _ in range(SAMPLES)]
    drawn = yield from context.subject.draw([item.prompt.text for item in requests], NAME)

    # 1. Judge the model's pictures, and correct pictures with and without the autoencoder.
    def verdict(item: PlaceItem, picture_3HW: Tensor) -> tuple[bool, bool]:
        alone = [each.noun for each in detector.find(picture_3HW)] == [item.noun]
        return alone, shows_place(nearest_backdrop(picture_3HW), item.prompt.place)

    scenes = [context.world.scene_image(item.scene) for item in items]
    seen, decoded = context.subject.load_pictures(scenes), context.subject.reconstruct(scenes)
    found = yield from context.judge_all(verdict, requests, drawn, NAME)
    truth = yield from context.judge_all(verdict, items, seen, f"{NAME} on truth")
    ceiling = yield from context.judge_all(verdict, items, decoded, f"{NAME}, ceiling")

    # 2. Both together, and each by itself.
    by_chance = [
        (item.noun == other.noun, shows_place(other.scene.backdrop, item.prompt.place))
        for item, other in permutations(items, 2)
    ]
    right = [all(each) for each in found]
    scores = [
        share(
            name,
            [part(each) for each in found],
            chance=mean([part(each) for each in by_chance]) if by_chance else None,
            truth=mean([part(each) for each in truth]),
            ceiling=mean([part(each) for each in ceiling]),
        )
        for name, part in (
            ("thing and place", all),
            ("the thing alone", lambda each: each[0]),
            ("the place", lambda each: each[1]),
        )
    ]
    samples = [
        {
            "seed": context.subject.seed + number,
            "prompt": item.prompt.text,
            "scene": item.scene.record(),
            "thing": alone,
            "place": there,
        }
        for number, (item, (alone, there)) in enumerate(zip(requests, found, strict=True))
    ]
    tiles = [Tile(picture, is_right) for picture, is_right in zip(drawn, right, strict=True)]
    return TaskResult(NAME, scores, samples, [tiles])


def items_of(context: EvalContext) -> list[PlaceItem]:
    """Different prompts for one thing at a place, where training never shows it; fewer where fewer
    are held out.
    """
    rng, world = context.rng(NAME), context.world
    wanted = context.count(PROMPTS, parts=SAMPLES)
    items: dict[tuple[str, str], PlaceItem] = {}
    for _ in range(TRIES * wanted):
        scene, _ = sample_scene(rng, world, (CATEGORY,))
        (noun,) = nouns = world.nouns(scene)
        if (noun, scene.backdrop) in items:
            continue
        prompt = ScenePrompt(describe(scene, nouns), place=tuple(scene.backdrop.split()))
        if world.wordings != "trained":
            words = context.rng(f"{NAME}/words/{len(items)}")
            prompt = prompt_of(words, scene, nouns, wordings=world.wordings)
        items[noun, scene.backdrop] = PlaceItem(prompt, scene, noun)
        if len(items) == wanted:
            break
    return list(items.values())


def shows_place(backdrop: str, place: Sequence[str]) -> bool:
    """Whether a backdrop is what words of a place ask for.

    A place without a time of day is a place by day, and a time of day alone leaves the place open.
    """
    if len(place) == 1 and place[0] in SKY_WORDS:
        return backdrop.endswith(f" {place[0]}")
    return backdrop in (" ".join(place), f"{' '.join(place)} day")
