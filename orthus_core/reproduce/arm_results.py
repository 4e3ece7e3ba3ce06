"""The results of arms on disk: which measures are there, and what came of each unit.

A task of an arm and a seed has its own folder, `results/ARM/seed-N/TASK`, with the benchmark's
result.json and samples.jsonl; it is written whole or not at all, and kept when the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orthus_core.atomic_folder import TRAINING_SUFFIX
from orthus_core.errors import OutputError
from orthus_core.evaluation.official.read_files import read_json, read_json_lines
from orthus_core.evaluation.official.score_report import RESULT, SAMPLES
from orthus_core.recipe import as_table
from orthus_core.reproduce.measures import MEASURES, TRAINING
from orthus_core.reproduce.paired_seeds import Outcomes
from orthus_core.reproduce.paper_arms import Arm

RESULTS = "results"
LAYOUT = "a result of `orthus reproduce`"


def tasks_of(measures: Iterable[str]) -> list[str]:
    """The tasks that give these measures, without `TRAINING`."""
    tasks = dict.fromkeys(MEASURES[name].task for name in measures)
    return [task for task in tasks if task != TRAINING]


def result_folder(folder: Path, arm: Arm, seed: int, task: str) -> Path:
    """Where the result of a task lies, or the figures of the training."""
    return folder / RESULTS / arm.place(seed) / task.rpartition(".scene_")[2].removesuffix(".run")


def recipes_of(arm: Arm, seed: int) -> dict[str, Any]:
    """What tells an arm's training from another: the recipes of all its stages, as JSON."""
    tables = {stage.name: as_table(stage.recipe) for stage in arm.stages[seed]}
    return {"stages": tables, "drawn with": arm.recipe.steps}


def made_by(then: Mapping[str, Any], arm: Arm, seed: int) -> bool:
    """Whether a result's recipes are those of an arm. A key that is newer than the result is at its
    default in both: what it changes did not exist.
    """
    defaults = {stage.name: as_table(type(stage.recipe)()) for stage in arm.stages[seed]}
    return _equal(then, recipes_of(arm, seed), {"stages": defaults})


def _equal(then: Any, now: Any, default: Any) -> bool:
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        return then == now
    of_key = default if isinstance(default, Mapping) else {}
    return then.keys() <= now.keys() and all(
        _equal(then.get(name, of_key.get(name)), value, of_key.get(name))
        for name, value in now.items()
    )


def is_there(folder: Path, arm: Arm, seed: int, task: str) -> bool:
    """Whether a result is there.

    Raises:
        OutputError: When it is there and of other recipes.
    """
    place = result_folder(folder, arm, seed, task)
    if not (place / RESULT).is_file():
        return False
    recipes = read_json(place / RESULT, dict, LAYOUT).get("run", {}).get("recipes")
    if not isinstance(recipes, Mapping) or not made_by(recipes, arm, seed):
        raise OutputError(
            f"the result of {arm.name} is of other recipes than those of now",
            where=str(place),
            hint="choose another folder with -o, or begin anew with --overwrite",
        )
    return True


def outcomes(folder: Path, arm: Arm, measure: str) -> dict[int, Outcomes]:
    """The outcomes of each seed whose result is there; {} for none.

    Raises:
        OutputError: As `is_there`.
        DataError: When a file is damaged.
    """
    how = MEASURES[measure]
    found: dict[int, Outcomes] = {}
    for seed in arm.seeds:
        if is_there(folder, arm, seed, how.task):
            place = result_folder(folder, arm, seed, how.task)
            values = how.read(read_json_lines(place / SAMPLES, SAMPLES))
            if values:
                found[seed] = values
    return found


def tasks_and_figures(measures: Iterable[str]) -> list[str]:
    """What has to be there for these measures: `TRAINING` where it is asked for, and the tasks."""
    names = list(measures)
    of_training = any(MEASURES[name].task == TRAINING for name in names)
    return [*([TRAINING] if of_training else []), *tasks_of(names)]


def state_of(folder: Path, arm: Arm, measures: Iterable[str]) -> str:
    """How far an arm has come, as far as its folders tell: "", "begun" or "there"."""
    tasks = tasks_and_figures(measures)
    if all(is_there(folder, arm, seed, task) for seed in arm.seeds for task in tasks):
        return "there"
    models = [folder / arm.model(seed) for seed in arm.seeds]
    work = [model.with_name(model.name + TRAINING_SUFFIX) for model in models]
    return "begun" if any(path.is_dir() for path in (*models, *work)) else ""
