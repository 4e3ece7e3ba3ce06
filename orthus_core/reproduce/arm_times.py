"""How long arms take: from the time that a step took where it was measured, and that of this run.

The measured rates are seconds on one core; a run that has done stages of a kind goes by its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.reproduce.measures import ANSWERS
from orthus_core.reproduce.paper_arms import Arm, ArmStage
from orthus_core.user_files import read_text

TIMES = "times.jsonl"
"""What a run's stages and tasks took; one line each."""

MEASURED: dict[str, float] = {
    "autoencoder": 0.83,
    "pretrain": 0.53,
    "convert": 1.5,
    "finetune-vae": 0.61,
    "build-base": 0.40,
    "posttrain": 0.68,
    "posttrain, understanding": 0.39,
    "posttrain, generation": 0.54,
    "posttrain, discrete": 0.62,
    ANSWERS: 11,
    "pope": 7,
    "recon": 10,
    "geneval": 127,
    "edit": 86,
    "diversity": 16,
}
"""Processor seconds on one core of a server (November 2026, bf16 products): of a step of each kind
of stage at the sizes of recipes/paper, and of each task.
"""

AUTOENCODER = "autoencoder"
"""The kind of a pretraining's steps that train its autoencoder."""

LARGE = 2.0
"""A step of an arm with a larger transformer, times one of the others."""

USUAL_STEPS = 25
"""Denoising steps a patch of arms that state none."""

DRAWN = {"geneval": 0.4, "diversity": 0.6, "edit": 0.3}
"""Share of a task's time that grows with the denoising steps; the rest is judging."""


class Expected(NamedTuple):
    """What an arm takes.

    Attributes:
        arm: Its name.
        seeds: Its seeds.
        stages: Trainings and conversions that no arm before it has done.
        steps: Their optimiser steps.
        training: Seconds of these.
        evaluation: Seconds of its evaluation.
    """

    arm: str
    seeds: int
    stages: int
    steps: int
    training: float
    evaluation: float

    @property
    def seconds(self) -> float:
        return self.training + self.evaluation


def stage_kind(stage: ArmStage) -> str:
    """What decides how long a step takes."""
    recipe: Any = stage.recipe
    kind = recipe.command
    if kind == "posttrain":
        kind += "" if stage.start and stage.start.endswith("base") else ", discrete"
        kind += "" if recipe.objective == "both" else f", {recipe.objective}"
    return kind


def expected_times(
    arms: Iterable[Arm], tasks: Mapping[str, Sequence[str]], rates: Mapping[str, float]
) -> list[Expected]:
    """What each arm takes beyond those before it, whose stages it may share.

    Args:
        tasks: The tasks of each arm.
        rates: Seconds of a step or task; `MEASURED` fills in.
    """
    rates = {**MEASURED, **rates}
    seen: set[str] = set()
    found = []
    for arm in arms:
        own = [stage for seed in arm.seeds for stage in arm.stages[seed]]
        new = {stage.name: stage for stage in own if stage.name not in seen}
        seen |= set(new)
        training = sum(_seconds(stage, rates, arm) for stage in new.values())
        more = (arm.recipe.steps or USUAL_STEPS) / USUAL_STEPS - 1
        evaluation = sum(rates[task] * (1 + more * DRAWN.get(task, 0)) for task in tasks[arm.name])
        found.append(
            Expected(
                arm.name,
                len(arm.seeds),
                len(new),
                sum(stage.steps for stage in new.values()),
                training,
                evaluation * len(arm.seeds),
            )
        )
    return found


def _seconds(stage: ArmStage, rates: Mapping[str, float], arm: Arm) -> float:
    recipe: Any = stage.recipe
    size = LARGE if arm.recipe.pretrain else 1.0
    rate = rates[stage_kind(stage)] * size
    if not stage.steps:
        return rate
    return recipe.optim.steps * rate + stage.autoencoder_steps * rates[AUTOENCODER]


def note_time(folder: Path, kind: str, count: int, seconds: float) -> None:
    """Add what a stage or task took to the run's times."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TIMES).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, "count": count, "seconds": round(seconds, 3)}) + "\n")


def own_rates(folder: Path) -> dict[str, float]:
    """Seconds of a step or task in this run, of the kinds that it has done."""
    file = folder / TIMES
    if not file.is_file():
        return {}
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for line in read_text(file).splitlines():
        try:
            each = json.loads(line)
            totals[each["kind"]][0] += each["count"]
            totals[each["kind"]][1] += each["seconds"]
        except (ValueError, KeyError, TypeError):
            continue  # a line that a full disk cut off
    return {kind: seconds / count for kind, (count, seconds) in totals.items() if count}


def spoken(seconds: float) -> str:
    """A duration for people: "3 min", "2 h 10 min"; "" for none."""
    if not seconds:
        return ""
    minutes = max(1, round(seconds / 60))
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
