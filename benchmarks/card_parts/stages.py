"""All stages of the bundled models. Each training is first run for a few steps in a scratch folder;
how long they took decides how many steps fit into its share of the time.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from card_parts.findings import Asked, Finding
from orthus_core.events import Event, StepDone
from orthus_core.recipe.starter import StarterStage, starter_stages
from orthus_core.train.starter_run import run_stage

SHARES = {
    "1-pretrain": {"autoencoder.optim.steps": 0.33, "optim.steps": 0.05},
    "3-finetune-vae": {"optim.steps": 0.07},
    "4-build-base": {"optim.steps": 0.05},
    "5-posttrain": {"optim.steps": 0.5},
}
"""Share of the time that the steps of each training may take. They sum to 1 less what is left for
starting, measuring and saving the trainings."""

TRIED = 12
"""Steps of a trial; the first third, in which kernels are chosen, does not count."""

# Large batches; rows are made by other processes and encoded on the card, which is faster than
# reading features that one process would have to keep up with.
WORKERS = max(1, (os.cpu_count() or 2) - 2)
LARGE = (
    *("pretrain.autoencoder.optim.batch_size=128", "pretrain.optim.batch_size=384"),
    *("finetune-vae.optim.batch_size=128", "build-base.optim.batch_size=384"),
    "posttrain.optim.batch_size=384",
    *(f"{stage}.data.rows=0" for stage in ("pretrain", "build-base", "posttrain")),
    *(f"{stage}.data.workers={WORKERS}" for stage in ("pretrain", "build-base", "posttrain")),
    *(
        f"{stage}.log.{key}=0"
        for stage in ("pretrain", "finetune-vae", "build-base", "posttrain")
        for key in ("sample_every", "validate_every", "save_every")
    ),
)


def findings(asked: Asked) -> Iterator[Finding]:
    large = [] if asked.toy else [*LARGE]
    for name in [stage.name for stage in starter_stages()]:
        sets = [*large, *asked.sets]
        for key, steps in fitting(name, sets, asked).items():
            sets.append(f"{name}.{key}={steps}")
        (stage,) = [s for s in starter_stages(sets, toy=asked.toy) if s.name == name]
        started = time.monotonic()
        events = list(steps_of(stage, asked.folder))
        figures = events[-1][1].metrics if events else {}
        shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        seconds = time.monotonic() - started
        yield Finding(name, f"{len(events)} steps in {seconds:.0f} s; {shown or 'no figures'}")


def fitting(name: str, sets: list[str], asked: Asked) -> dict[str, int]:
    """How many steps fit into each training's share of the time, by the key of its steps."""
    shares = SHARES.get(name, {})
    if not shares or asked.toy:
        return {}
    trial = asked.folder / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir()
    short = [f"{name}.{key}={TRIED}" for key in shares]
    (stage,) = [s for s in starter_stages([*sets, *short]) if s.name == name]
    if stage.model.start:
        (trial / stage.model.start).symlink_to((asked.folder / stage.model.start).resolve())
    times = [moment for moment, _ in steps_of(stage, trial)]
    found = {}
    for number, key in enumerate(shares):
        own = times[number * TRIED : (number + 1) * TRIED]
        each = (own[-1] - own[TRIED // 3]) / (len(own) - 1 - TRIED // 3)
        found[key] = max(TRIED, int(asked.seconds * shares[key] / each))
    return found


def steps_of(stage: StarterStage, folder: Path) -> Iterator[tuple[float, StepDone]]:
    """Each step of a stage, with the moment it was done."""
    events: Iterator[Event] = run_stage(
        stage, folder, resume=False, overwrite=False, should_stop=lambda: False
    )
    for event in events:
        if isinstance(event, StepDone):
            yield time.monotonic(), event
