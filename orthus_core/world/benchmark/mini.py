"""The benchmark `mini`: the tasks on the small world, run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from orthus_core.entry_points import imported
from orthus_core.errors import RecipeError
from orthus_core.events import Event
from orthus_core.world.benchmark import (
    caption_task,
    diversity_task,
    edit_task,
    mini_geneval,
    mini_recon,
    place_task,
    question_task,
    sprite_recall,
    story_task,
)
from orthus_core.world.benchmark.context import EvalContext, TaskResult
from orthus_core.world.benchmark.model_under_test import Work

BenchmarkTask = Callable[[EvalContext], Work[TaskResult]]

# A task asks the model for something and returns scores; a new one is added here.
TASKS: dict[str, BenchmarkTask] = {
    "geneval": mini_geneval.run,
    "place": place_task.run,
    "recall": sprite_recall.run,
    "caption": caption_task.run,
    "vqa": question_task.vqa,
    "pope": question_task.pope,
    "edit": edit_task.run,
    "story": story_task.run,
    "diversity": diversity_task.run,
    "recon": mini_recon.run,
}


def select_tasks(names: Sequence[str]) -> list[str]:
    """The tasks of these names, in the benchmark's order and then those that are not part of it;
    the benchmark's when none is named.

    Args:
        names: Names in `TASKS`, or `package.module.function`.

    Raises:
        RecipeError: if there is no task with one of the names.
    """
    for name in names:
        task_named(name)
    ours = [task for task in TASKS if not names or task in names]
    return [*ours, *(name for name in names if name not in TASKS)]


def task_named(name: str) -> BenchmarkTask:
    """The task of this name. Raises: RecipeError as `select_tasks`."""
    if name in TASKS:
        return TASKS[name]
    try:
        return imported(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"there is no task {name!r}",
            where="--only",
            hint=f"the tasks are {', '.join(TASKS)}",
        ) from error


def evaluate(context: EvalContext, tasks: Sequence[str]) -> Iterator[Event | TaskResult]:
    """Runs tasks as `select_tasks` names them: the events of each, then its result."""
    for task in tasks:
        yield (yield from task_named(task)(context))
