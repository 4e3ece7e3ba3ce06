"""Endless rows of the small world, each a function of a seed and its number alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from orthus_core.data.document import Document, Segment
from orthus_core.errors import DataError
from orthus_core.world.copy_task import copy
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


def record(world: World, tasks: Mapping[str, float], seed: int, number: int) -> Document:
    """Row `number` of a seed.

    Args:
        world: What is shown and what is held out.
        tasks: How often each task of `MAKERS` is drawn; only the proportions count.
        seed: Another seed gives other rows.
        number: From 0, without end.

    Raises:
        DataError: if a task is unknown or none has a weight above 0.
    """
    unknown = tasks.keys() - MAKERS.keys()
    if unknown or not sum(tasks.values()) > 0:
        raise DataError(
            f"no such task: {', '.join(sorted(unknown))}" if unknown else "no task has a weight",
            hint=f"the tasks are {', '.join(MAKERS)}",
        )
    # A string seed is hashed by Python itself: equal on every machine, unrelated for neighbours.
    rng = random.Random(f"{seed}/{number}")
    task = rng.choices(list(tasks), list(tasks.values()))[0]
    return Document(MAKERS[task](rng, world), id=f"{task}/{seed}/{number}", source="sprites")


def records(
    world: World, tasks: Mapping[str, float], seed: int, start: int = 0
) -> Iterator[Document]:
    """All rows of a seed from number `start` on."""
    number = start
    while True:
        yield record(world, tasks, seed, number)
        number += 1
