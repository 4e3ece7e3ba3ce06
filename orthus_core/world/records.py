"""An infinite sequence of rows; each row is a function of the seed and its number alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from orthus_core.data.document import Document, Segment
from orthus_core.errors import DataError
from orthus_core.world.copy_task import copy
from orthus_core.world.fillers import FILLED_CHANCE, with_fillers
from orthus_core.world.scene_edits import scene_edit
from orthus_core.world.scene_questions import scene_question
from orthus_core.world.scenes import scene_picture
from orthus_core.world.sprite_edits import edit
from orthus_core.world.sprite_questions import question
from orthus_core.world.story_rows import story
from orthus_core.world.text_to_image import text_to_image
from orthus_core.world.world import World

Maker = Callable[[random.Random, World], tuple[Segment, ...]]

MAKERS: dict[str, Maker] = {
    "text_to_image": text_to_image,
    "scene": scene_picture,
    "caption": question,
    "scene_question": scene_question,
    "edit": edit,
    "scene_edit": scene_edit,
    "story": story,
    "copy": copy,
}


def record(
    world: World,
    tasks: Mapping[str, float],
    seed: int,
    number: int,
    fillers: float = FILLED_CHANCE,
) -> Document:
    """Row `number` of a seed.

    Args:
        world: World that the rows show.
        tasks: Weight of each task of `MAKERS`; only their proportions matter.
        seed: Seed of the rows.
        number: Number of the row, from 0; there is no upper limit.
        fillers: Share of rows whose prompts, questions and instructions have words that change
            nothing.

    Raises:
        DataError: if a task is unknown, or no task has a weight above 0.
    """
    unknown = tasks.keys() - MAKERS.keys()
    if unknown or not sum(tasks.values()) > 0:
        raise DataError(
            f"no such task: {', '.join(sorted(unknown))}" if unknown else "no task has a weight",
            hint=f"the tasks are {', '.join(MAKERS)}",
        )
    # Python hashes a string seed: the numbers are the same on every machine, and those of
    # neighbouring rows are unrelated.
    rng = random.Random(f"{seed}/{number}")
    task = rng.choices(list(tasks), list(tasks.values()))[0]
    segments = MAKERS[task](rng, world)
    if world.wordings == "trained" and rng.random() < fillers:
        segments = tuple(_filled(rng, segment) for segment in segments)
    return Document(segments, id=f"{task}/{seed}/{number}", source="sprites")


def _filled(rng: random.Random, segment: Segment) -> Segment:
    """A text of the user with fillers; anything else as it is."""
    if segment.role != "user" or not isinstance(segment.value, str):
        return segment
    return replace(segment, value=with_fillers(rng, segment.value))


def records(
    world: World, tasks: Mapping[str, float], seed: int, start: int = 0
) -> Iterator[Document]:
    """All rows of a seed, from number `start`."""
    number = start
    while True:
        yield record(world, tasks, seed, number)
        number += 1
