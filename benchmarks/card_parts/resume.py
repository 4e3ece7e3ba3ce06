"""Continuing a killed training: build-base of the bundled model, killed after its second state and
continued, compared with an uninterrupted one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from card_parts.findings import Asked, Finding
from orthus_core.recipe import load
from orthus_core.recipe.training import BuildBaseRecipe

SETS = (
    *("optim.batch_size=4", "repeats=1", "data.rows=16", "data.held_out=0.0"),
    *("log.every=1", "log.save_every=1", "log.sample_every=0", "log.validate_every=0"),
)


def findings(asked: Asked) -> Iterator[Finding]:
    steps = 4 if asked.toy else 12
    alone, killed = asked.folder / "alone", asked.folder / "killed"
    run(alone, steps)
    process = begin(killed, steps, resume=False)
    second = killed.with_name("killed.training") / "states" / "step-000002" / "about.json"
    while process.exitcode is None and not second.exists():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    run(killed, steps, resume=True)
    ours, theirs = losses(killed), losses(alone)
    largest = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    is_right = len(ours) == steps and largest <= 1e-3 * max(theirs)
    detail = f"losses of up to {max(theirs):.3g} differ by at most {largest:.1e}"
    yield Finding("training continued after a kill", detail, "right" if is_right else "wrong")


def begin(output: Path, steps: int, *, resume: bool) -> multiprocessing.Process:
    # Forked before the card is used, so that nothing is imported again.
    process = multiprocessing.get_context("fork").Process(
        target=trained, args=(output, steps, resume)
    )
    process.start()
    return process  # type: ignore[return-value]


def run(output: Path, steps: int, *, resume: bool = False) -> None:
    process = begin(output, steps, resume=resume)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the training ended with {process.exitcode}")


def trained(output: Path, steps: int, resume: bool) -> None:
    from orthus_core.train.trainings import build_base

    recipe = load(BuildBaseRecipe, None, (*SETS, f"optim.steps={steps}"))
    for _ in build_base(recipe, "mini", output, resume=resume):
        pass


def losses(output: Path) -> list[float]:
    record = output / "metrics.jsonl"
    return [json.loads(line)["total"] for line in record.read_text().splitlines()]
