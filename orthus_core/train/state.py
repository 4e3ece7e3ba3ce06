"""Saved states of a training: written whole or not at all, so that it can go on bit for bit.

A state folder `states/step-000500` holds the objective's weights, the optimiser, the weight average
and the step. Every random draw of a step comes from (seed, step), so no generator has to be saved.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orthus_core.errors import OutputError, TrainingError
from orthus_core.train.optim import WeightAverage

STATES = "states"


def saved_steps(folder: Path) -> list[int]:
    """Steps of the whole states in a training folder, in rising order."""
    return sorted(
        int(path.name.removeprefix("step-"))
        for path in (folder / STATES).glob("step-*")
        if path.name.removeprefix("step-").isdigit()
    )


def state_path(folder: Path, step: int) -> Path:
    return folder / STATES / f"step-{step:06d}"


def save_state(
    folder: Path,
    step: int,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    *,
    keep_last: int,
    about: dict[str, Any],
) -> Path:
    """Write the state after `step` steps beside its place, then rename it in; drop states older
    than `keep_last`.

    Raises: OutputError when the disk will not take it; states that were there stay.
    """
    final = state_path(folder, step)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        state = {
            "objective": objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state(),
        }
        torch.save(state, partial / "state.pt")
        (partial / "about.json").write_text(json.dumps({"step": step, **about}, indent=2))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(
            f"cannot save the training state: {error}",
            where=str(final),
            hint="free some space, then run the same command with --resume auto",
        ) from error
    for old in saved_steps(folder)[:-keep_last]:
        shutil.rmtree(state_path(folder, old), ignore_errors=True)
    return final


def load_state(
    path: Path,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    *,
    about: dict[str, Any],
) -> int:
    """Put a saved state back and return how many steps it had done.

    Raises: TrainingError when the state is missing, broken, or of a training with another recipe.
    """
    try:
        known = json.loads((path / "about.json").read_text())
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        raise TrainingError(
            f"the saved state does not read: {error}",
            where=str(path),
            hint="delete that folder and resume from the one before it, or start anew",
        ) from error
    changed = sorted(key for key, value in about.items() if known.get(key) != value)
    if changed:
        raise TrainingError(
            f"the saved state was made with another {', '.join(changed)}",
            where=str(path),
            hint="resume with the recipe it was started with",
        )
    objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    average.load(state["average"])
    return int(known["step"])
