"""Evaluate an arm's model on the small world's benchmark; each task is kept when it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orthus_core.api.loaded import load_model
from orthus_core.evaluation.efficientnet import weights_file
from orthus_core.events import Event, Note
from orthus_core.reproduce.arm_results import recipes_of, result_folder
from orthus_core.reproduce.measures import TRAINING
from orthus_core.reproduce.paper_arms import Arm
from orthus_core.reproduce.training_figures import training_figures
from orthus_core.results.output_names import write_folder
from orthus_core.world.benchmark.context import EvalContext, TaskResult
from orthus_core.world.benchmark.mini import evaluate
from orthus_core.world.benchmark.model_under_test import ModelUnderTest
from orthus_core.world.benchmark.report import RESULT, SAMPLES, report_files

JUDGED = ("geneval", "edit", "diversity")
"""Tasks whose judge is an optional package."""

QUESTIONS_SEED = 1
"""Seed of what is asked and drawn: the same for all arms."""

QUICK_LIMIT = 6
"""Samples of a task in a rehearsal."""


def check_judge(tasks: Sequence[str]) -> None:
    """Check, before anything is trained, that what the tasks need is installed.

    Raises:
        OrthusError: When the optional package with the judge's weights is missing.
    """
    if any(task in JUDGED for task in tasks):
        weights_file()


def evaluate_arm(
    folder: Path,
    arm: Arm,
    seed: int,
    task: str,
    *,
    quick: bool = False,
    overwrite: bool = False,
) -> Iterator[Event]:
    """Run a task on the model of an arm and a seed, and write its result.

    Raises:
        CheckpointError: When the model is missing or damaged.
    """
    loaded = load_model(str(folder / arm.model(seed)), device="auto", dtype="fp32")
    subject = ModelUnderTest(
        loaded.model, loaded.tokenizer, seed=QUESTIONS_SEED, steps=arm.recipe.steps or None
    )
    bench = EvalContext(subject, limit=QUICK_LIMIT if quick else None, seed=QUESTIONS_SEED)
    asked: dict[str, Any] = {
        **{"seed": bench.seed, "limit": bench.limit, "sampling": subject.sampling().to_dict()},
        **{"arm": arm.name, "arm_seed": seed, "recipes": recipes_of(arm, seed)},
    }
    for event in evaluate(bench, [task]):
        if not isinstance(event, TaskResult):
            yield event
            continue
        score = event.scores[0]
        yield Note(f"{arm.name}, seed {seed}: {event.task}, {score.name} {score.value:.3f}")
        files = report_files([event], loaded.about, {**asked, "tasks": [task]})
        place = result_folder(folder, arm, seed, task)
        write_folder(place, files, mark=RESULT, replaces=("*",), overwrite=overwrite)


def keep_figures(folder: Path, arm: Arm, seed: int, *, overwrite: bool = False) -> None:
    """Write the figures of an arm's training as a result of its own."""
    model, base = arm.stages[seed][-1].name, arm.stages[seed][-1].start
    figures = training_figures(folder / model, folder / base if base else None)
    run = {"arm": arm.name, "arm_seed": seed, "recipes": recipes_of(arm, seed)}
    table = {"benchmark": TRAINING, "run": run, "figures": figures}
    files = {
        RESULT: (json.dumps(table, indent=2) + "\n").encode(),
        SAMPLES: (json.dumps(figures) + "\n").encode(),
    }
    place = result_folder(folder, arm, seed, TRAINING)
    write_folder(place, files, mark=RESULT, replaces=("*",), overwrite=overwrite)
