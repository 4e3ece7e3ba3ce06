"""The small world's benchmark: every task of it, one after the other, each with exact truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from orthus_core.errors import RecipeError
from orthus_core.evaluation import (
    captions,
    edits,
    mini_geneval,
    mini_recon,
    questions,
    recall,
    stories,
)
from orthus_core.evaluation.bench import Bench, TaskResult
from orthus_core.evaluation.subject import Work
from orthus_core.events import Event

TASKS: Mapping[str, Callable[[Bench], Work[TaskResult]]] = {
    "geneval": mini_geneval.run,
    "recall": recall.run,
    "caption": captions.run,
    "vqa": questions.vqa,
    "pope": questions.pope,
    "edit": edits.run,
    "story": stories.run,
    "recon": mini_recon.run,
}


def chosen(names: Sequence[str]) -> list[str]:
    """The tasks of these names, in the benchmark's order; all when none is named.

    Raises:
        RecipeError: for a name that no task has.
    """
    for name in names:
        if name not in TASKS:
            raise RecipeError(
                f"there is no task {name!r}",
                where="--only",
                hint=f"the tasks are {', '.join(TASKS)}",
            )
    return [task for task in TASKS if not names or task in names]


def evaluate(bench: Bench, tasks: Sequence[str]) -> Iterator[Event | TaskResult]:
    """Runs tasks of `TASKS`: events while they work, then the result of each as it is ready."""
    for task in tasks:
        yield (yield from TASKS[task](bench))
