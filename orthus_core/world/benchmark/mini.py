"""The small world's benchmark: every task of it, one after the other, each with exact truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from orthus_core.entry_points import imported
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

BenchmarkTask = Callable[[EvalContext], Work[TaskResult]]

# A task asks the model for something and returns scores; a new one is added here.
TASKS: dict[str, BenchmarkTask] = {
    "geneval": mini_geneval.run,
    "recall": sprite_recall.run,
    "caption": caption_task.run,
    "vqa": question_task.vqa,
    "pope": question_task.pope,
    "edit": edit_task.run,
    "story": story_task.run,
    "recon": mini_recon.run,
}


def chosen(names: Sequence[str]) -> list[str]:
    """The tasks of these names, in the benchmark's order and then those that are not part of it;
    the benchmark's when none is named.

    Args:
        names: Names in `TASKS`, or `package.module.function`.

    Raises:
        RecipeError: for a name that no task has.
    """
    for name in names:
        task_named(name)
    ours = [task for task in TASKS if not names or task in names]
    return [*ours, *(name for name in names if name not in TASKS)]


def task_named(name: str) -> BenchmarkTask:
    """The task of this name. Raises: RecipeError as `chosen`."""
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


def evaluate(bench: EvalContext, tasks: Sequence[str]) -> Iterator[Event | TaskResult]:
    """Runs tasks as `chosen` names them: events while they work, then the result of each as it is
    ready.
    """
    for task in tasks:
        yield (yield from task_named(task)(bench))
