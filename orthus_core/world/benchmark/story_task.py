"""mini-story: does a story from an opening picture have all panels, with the right entities?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.detector import Detection
from orthus_core.world.benchmark.model_under_test import GeneratedStory, Work
from orthus_core.world.benchmark.scores import share
from orthus_core.world.story_rows import CONTINUE, WorldStory, make_story
from orthus_core.world.wording import plural

NAME = "mini-story"
STORIES = 40
PANELS = 3


def run(context: EvalContext) -> Work[TaskResult]:
    """The shares of panels with the right entities, of panels drawn, and of fully correct stories.

    The score by chance is that of the panels of another story.
    """
    world, detector = context.world, context.detector()
    rng = context.rng(NAME)
    *stories, one_more = [
        make_story(rng, world, PANELS + 1) for _ in range(context.count(STORIES) + 1)
    ]
    openings = [
        (world.scene_image(story.panels[0].scene), f"{story.panels[0].text} {CONTINUE}")
        for story in stories
    ]
    outputs = yield from context.subject.continue_stories(openings, PANELS, NAME)

    # 1. Judge the model's panels by the model's text.
    nouns = list(world.cast)

    def verdicts(story: WorldStory, texts: Sequence[str], pictures: Sequence[Tensor]) -> list[bool]:
        opening = story.panels[0]
        hero, named = opening.state.hero, nouns_in(opening.text, nouns)
        outcomes = []
        for text, picture in zip(texts, pictures, strict=False):
            hero, named = hero_after(text, hero, nouns), named | nouns_in(text, nouns)
            outcomes.append(shows_cast(detector.find(picture), hero, named))
        return outcomes

    found = [
        verdicts(s, output.texts, output.pictures)
        for s, output in zip(stories, outputs, strict=True)
    ]
    drawn = [number < len(output.pictures) for output in outputs for number in range(PANELS)]
    right = [r[number] if number < len(r) else False for r in found for number in range(PANELS)]

    # 2. Judge true panels: unchanged, decoded, and of another story.
    def of_truth(panels: Sequence[Sequence[Tensor]]) -> float:
        outcomes = [
            outcome
            for story, pictures in zip(stories, panels, strict=True)
            for outcome in verdicts(story, [p.text for p in story.panels[1:]], pictures)
        ]
        return sum(outcomes) / len(outcomes)

    true = [
        [world.scene_image(panel.scene) for panel in story.panels[1:]]
        for story in (*stories, one_more)
    ]
    loaded = [context.subject.load_pictures(pictures) for pictures in true]
    scores = [
        share(
            "right entities",
            right,
            chance=of_truth(loaded[1:]),
            truth=of_truth(loaded[:-1]),
            ceiling=of_truth([context.subject.reconstruct(pictures) for pictures in true[:-1]]),
        ),
        share("panels drawn", drawn, truth=1.0),
        share("whole stories", [_whole(outcomes) for outcomes in found], truth=1.0),
    ]
    samples = [
        {
            "seed": context.subject.seed + number,
            "opening": story.panels[0].text,
            "told": output.texts,
            "true": [panel.text for panel in story.panels[1:]],
            "panels": len(output.pictures),
            "right": outcomes,
        }
        for number, (story, output, outcomes) in enumerate(
            zip(stories, outputs, found, strict=True)
        )
    ]
    opening_pictures = context.subject.load_pictures([opening for opening, _ in openings])
    rows = [
        [Tile(first), *_tiles(output, outcomes)]
        for first, output, outcomes in zip(opening_pictures, outputs, found, strict=True)
    ]
    return TaskResult(NAME, scores, samples, rows)


def nouns_in(text: str, nouns: Collection[str]) -> frozenset[str]:
    """The nouns that a text contains, in the singular or the plural."""
    words = f" {' '.join(text.lower().replace('.', ' ').replace(',', ' ').split())} "
    return frozenset(n for n in nouns if f" {n} " in words or f" {plural(n)} " in words)


def hero_after(text: str, hero: str, nouns: Collection[str]) -> str:
    """The hero after a sentence: "the fox turns into an owl" makes it the owl."""
    _, turns, into = text.lower().partition(" turns into ")
    return min(nouns_in(into, nouns), key=into.find, default=hero) if turns else hero


def shows_cast(found: Sequence[Detection], hero: str, named: Collection[str]) -> bool:
    """Whether the detections contain the hero, and no entity that the story has not named."""
    nouns = {detection.noun for detection in found}
    return hero in nouns and nouns <= set(named)


def _whole(outcomes: Sequence[bool]) -> bool:
    return len(outcomes) == PANELS and all(outcomes)


def _tiles(outputs: GeneratedStory, outcomes: Sequence[bool]) -> list[Tile]:
    return [Tile(picture, o) for picture, o in zip(outputs.pictures, outcomes, strict=True)]
