"""The benchmark `mini`: the tasks on the small world, run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from orthus_core.errors import RecipeError
from orthus_core.events import Event
from orthus_core.world.benchmark import (
    caption_task,
    edit_task,
    mini_geneval,
    mini_recon,
    question_task,
    sprite_recall,
    story_task,
)
from orthus_core.world.benchmark.context import EvalContext, TaskResult
from orthus_core.world.benchmark.model_under_test import Work

TASKS: Mapping[str, Callable[[EvalContext], Work[TaskResult]]] = {
    "geneval": mini_geneval.run,
    "recall": sprite_recall.run,
    "caption": caption_task.run,
    "vqa": question_task.vqa,
    "pope": question_task.pope,
    "edit": edit_task.run,
    "story": story_task.run,
    "recon": mini_recon.run,
}


def select_tasks(names: Sequence[str]) -> list[str]:
    """The named tasks in the benchmark's order; all tasks if no name is given.

    Raises:
        RecipeError: if there is no task with one of the names.
    """
    for name in names:
        if name not in TASKS:
            raise RecipeError(
                f"there is no task {name!r}",
                where="--only",
                hint=f"the tasks are {', '.join(TASKS)}",
            )
    return [task for task in TASKS if not names or task in names]


def evaluate(context: EvalContext, tasks: Sequence[str]) -> Iterator[Event | TaskResult]:
    """Runs tasks of `TASKS`: yields the events of each task, then its result."""
    for task in tasks:
        yield (yield from TASKS[task](context))
