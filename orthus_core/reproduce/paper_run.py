"""Train and evaluate arms in one folder, in an order that leaves whole comparisons when it stops.

Every training has its saved states and every task its result, so a run that was stopped goes on
where it was: what is finished is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orthus_core.atomic_folder import TRAINING_SUFFIX
from orthus_core.errors import OutputError
from orthus_core.events import Event, Note, StepDone
from orthus_core.recipe.starter import StarterModel, StarterStage
from orthus_core.reproduce.arm_evaluation import check_judge, evaluate_arm, keep_figures
from orthus_core.reproduce.arm_results import RESULTS, is_there, tasks_and_figures, tasks_of
from orthus_core.reproduce.arm_times import AUTOENCODER, note_time, stage_kind
from orthus_core.reproduce.measures import TRAINING
from orthus_core.reproduce.paper_arms import Arm, ArmStage
from orthus_core.train.loop import Stop
from orthus_core.train.starter_run import run_stage


def run_arms(
    folder: Path,
    arms: Sequence[Arm],
    measures: Mapping[str, Sequence[str]],
    *,
    quick: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    should_stop: Stop = lambda: False,
) -> Iterator[Event]:
    """Train what is not trained, and evaluate what is not evaluated; one seed of all arms first.

    Args:
        folder: Folder of the whole.
        arms: The arms, those that others begin from before them.
        measures: What is measured of each.
        quick: Whether tasks have few samples.
        resume: Whether what is there is kept, and a training that was begun goes on.
        overwrite: Whether what is there is replaced, where nothing is resumed.
        should_stop: Asked after each step and each task; a stopped training has saved its state.

    Raises:
        OutputError: When something is there that is neither continued nor replaced.
        OrthusError: When the judge of a task is not installed, and as the trainings.
    """
    check_judge([task for arm in arms for task in tasks_of(measures[arm.name])])
    if not (resume or overwrite):
        check_new(folder, arms)
    replaced = overwrite and not resume
    trained: set[str] = set()
    for seed in sorted({seed for arm in arms for seed in arm.seeds}):
        for arm in (arm for arm in arms if seed in arm.seeds):
            tasks = [
                task
                for task in tasks_and_figures(measures[arm.name])
                if replaced or not is_there(folder, arm, seed, task)
            ]
            if not tasks:
                continue
            # 1. The stages that lead to its model.
            for stage in arm.stages[seed]:
                if stage.name not in trained:
                    yield from _train(
                        folder, stage, resume=resume, overwrite=overwrite, should_stop=should_stop
                    )
                    if should_stop():
                        return
                    trained.add(stage.name)

            # 2. Its results.
            if TRAINING in tasks:
                keep_figures(folder, arm, seed, overwrite=replaced)
            for task in (task for task in tasks if task != TRAINING):
                began = time.monotonic()
                yield from evaluate_arm(folder, arm, seed, task, quick=quick, overwrite=replaced)
                note_time(folder, task, 1, time.monotonic() - began)
                if should_stop():
                    yield Note("stopped; the same command with --resume auto goes on")
                    return


def check_new(folder: Path, arms: Iterable[Arm]) -> None:
    """Check that no stage and no result of these arms is in the folder.

    Raises:
        OutputError: Names the first thing there is.
    """
    for arm in arms:
        for seed in arm.seeds:
            models = [folder / stage.name for stage in arm.stages[seed]]
            work = [model.with_name(model.name + TRAINING_SUFFIX) for model in models]
            for path in (*models, *work, folder / RESULTS / arm.place(seed)):
                if path.exists():
                    raise OutputError(
                        f"something of the arm {arm.name} is here already",
                        where=str(path),
                        hint="--resume auto goes on with it and keeps what is finished; "
                        "--overwrite begins anew; or choose another folder with -o",
                    )


def _train(
    folder: Path, stage: ArmStage, *, resume: bool, overwrite: bool, should_stop: Stop
) -> Iterator[Event]:
    """Run a stage, and note what its steps took."""
    yield Note(stage.name)
    model = StarterModel(stage.name, stage.start, stage.name)
    ready = StarterStage(model, _placed(folder, stage.recipe), (), "")
    began, steps = time.monotonic(), 0
    events = run_stage(ready, folder, resume=resume, overwrite=overwrite, should_stop=should_stop)
    for event in events:
        if isinstance(event, StepDone):
            steps += 1
            of_autoencoder = bool(stage.autoencoder_steps) and "l1" in event.metrics
            if of_autoencoder and event.step == event.total:
                # A pretraining is two trainings, whose steps take differently long.
                note_time(folder, AUTOENCODER, steps, time.monotonic() - began)
                began, steps = time.monotonic(), 0
        yield event
    if steps or not stage.steps:
        note_time(folder, stage_kind(stage), max(1, steps), time.monotonic() - began)


def _placed(folder: Path, recipe: Any) -> Any:
    """The recipe, with the path of the model that it takes its autoencoder from."""
    autoencoder = getattr(recipe, "autoencoder", None)
    if autoencoder is None or not autoencoder.taken_from:
        return recipe
    taken = str(folder / autoencoder.taken_from)
    return replace(recipe, autoencoder=replace(autoencoder, taken_from=taken))
