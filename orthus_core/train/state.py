"""Saved states of a training, written completely or not at all, for bit-exact resuming.

A state folder `states/step-000500` holds the objective's weights, the optimisers, the weight
average, the step, and the training's origins. Every random draw of a step depends on (seed, step)
alone, so no generator has to be saved.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orthus_core.atomic import (
    TRAINING_SUFFIX,
    check_folder,
    check_room,
    probe_folder,
    real_path,
    staged_folder,
)
from orthus_core.checkpoint.headers import CONFIG
from orthus_core.errors import OutputError, TrainingError, UnplacedError
from orthus_core.recipe import Recipe, keys
from orthus_core.train.optim import WeightAverage

STATES = "states"
# File in a state folder with its step and the training's origins.
ABOUT = "about.json"

# What to continue from: nothing, the newest state beside the output, or a path for `state_at`.
Resume = bool | Path

# Tables of a recipe that configure only the reporting of a training.
TELLING = ("log",)
# Keys that affect only which process does the work.
INDIFFERENT = frozenset({"data.workers"})


def origins(recipe: Recipe, *tables: str, **more: Any) -> dict[str, Any]:
    """Everything that determines a training: each key of its recipe that is set, by dotted name.

    Args:
        recipe: Recipe of the training.
        tables: The only tables and keys that affect it; by default all that affect a training.
        more: Other values that affect it.
    """
    taken = {
        key.name: key.default
        for key in keys(recipe)
        if (key.path[0] in tables if tables else key.path[0] not in TELLING)
        and key.name not in INDIFFERENT
        and key.default is not None
    }
    return json.loads(json.dumps(taken | more))  # converted as in a saved state


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete states in a training folder, in ascending order."""
    return sorted(
        int(path.name.removeprefix("step-"))
        for path in (folder / STATES).glob("step-*")
        if path.name.removeprefix("step-").isdigit()
    )


def state_path(folder: Path, step: int) -> Path:
    return folder / STATES / f"step-{step:06d}"


def training_folder(output: Path) -> Path:
    """The folder of states, figures and samples of the training of `output`.

    It lies next to the output. Where nothing can be written there, or the output is a mount point,
    so that what lies next to it is another disk, it lies inside.
    """
    place = real_path(output)
    name = place.name + TRAINING_SUFFIX
    beside, inside = place.with_name(name) if place.name else place / name, place / name
    if inside.is_dir() or not place.is_dir():
        return inside if inside.is_dir() else beside
    if beside.is_dir():
        return beside
    if os.path.ismount(place):
        return inside
    try:
        probe_folder(beside)
    except OutputError:
        return inside
    return beside


def check_output(output: Path, *, overwrite: bool) -> None:
    """Check, before anything is read, that a model and its training's states may be written.

    Raises:
        OutputError: When `output` is taken, or one of the two folders cannot be written to.
    """
    check_folder(output, mark=CONFIG, overwrite=overwrite)
    probe_folder(training_folder(output), "the training's states could not be written")


def check_disk(output: Path, objective: nn.Module) -> None:
    """Check that the disk has room for at least the weights of one state.

    Raises:
        OutputError: When it does not.
    """
    wanted = sum(weight.nbytes for weight in objective.state_dict().values())
    check_room(training_folder(output), wanted)


def save_finished(save: Callable[[Path], object], output: Path, work: Path) -> None:
    """Save a trained model; where `output` cannot be written, beside its states, or else in the
    system's folder for temporary files.

    Args:
        save: Writes the model to a folder.
        work: Folder of the training.

    Raises:
        UnplacedError: When it is not at `output`; names where it is.
        OutputError: When it could not be written anywhere.
    """
    try:
        save(output)
        return
    except UnplacedError:
        raise
    except OutputError as error:
        failed = error
    elsewhere = Path(tempfile.gettempdir()) / f"orthus-{os.getpid()}"
    for place in (work / "model", elsewhere / (real_path(output).name or "model")):
        try:
            save(place)
        except OutputError:
            continue
        raise UnplacedError(
            failed.message,
            where=str(output),
            hint=f"the trained model is kept in {place}: use it there, or move it to where it "
            "belongs",
            kept=place,
        ) from failed
    raise OutputError(
        failed.message,
        where=str(output),
        hint=f"make room and rights there, then run the same command with --resume auto: {work} "
        "holds the training's last state, from which the model is written again",
    ) from failed


def state_at(path: Path) -> Path:
    """The state folder that a path means: itself, or the newest state of a run.

    Args:
        path: A state folder, the training folder that contains `states`, or the output next to that
            folder.

    Raises:
        TrainingError: When it is none of these, or has no state.
    """
    path = path.absolute()
    if (path / ABOUT).is_file():
        return path
    for folder in (path, training_folder(path)):
        if steps := saved_steps(folder):
            return state_path(folder, steps[-1])
    raise TrainingError(
        "this is no saved state, nor a run that has one"
        if path.exists()
        else "there is no such folder",
        where=str(path),
        hint="give a state such as OUTPUT.training/states/step-000500, or the run's OUTPUT; "
        "--resume auto takes the newest state beside the output",
    )


def state_to_resume(resume: Resume, folder: Path) -> Path | None:
    """The state that a training in `folder` continues from; None to start anew.

    Raises:
        TrainingError: As for `state_at`.
    """
    if isinstance(resume, Path):
        return state_at(resume)
    steps = saved_steps(folder) if resume else []
    return state_path(folder, steps[-1]) if steps else None


def check_resume(resume: Resume) -> None:
    """Check that the state to resume from exists, before any work.

    Raises:
        TrainingError: As for `state_at`.
    """
    if isinstance(resume, Path):
        state_at(resume)


def save_state(
    folder: Path,
    step: int,
    objective: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: WeightAverage,
    *,
    keep_last: int,
    origins: Mapping[str, Any],
) -> Path:
    """Write the state after `step` steps to a temporary folder, then rename it; delete states older
    than the `keep_last` up to this step. Later ones, of a run that this one branched off, stay.

    Raises:
        OutputError: When the disk is full or fails; existing states stay.
    """
    final = state_path(folder, step)
    with staged_folder(
        final,
        mark=None,
        overwrite=True,
        failure="cannot save the training state",
        hint="free some space, then run the same command with --resume auto",
    ) as partial:
        state = {
            "objective": objective.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "average": average.state(),
        }
        torch.save(state, partial / "state.pt")
        about = {"step": step, "origins": dict(origins)}
        (partial / ABOUT).write_text(json.dumps(about, indent=2))
    for old in [each for each in saved_steps(folder) if each <= step][:-keep_last]:
        shutil.rmtree(state_path(folder, old), ignore_errors=True)
    return final


def load_state(
    path: Path,
    objective: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: WeightAverage,
    *,
    origins: Mapping[str, Any],
) -> int:
    """Restore a saved state and return its number of steps.

    Raises:
        TrainingError: When the state is missing, broken, or of a training with different origins.
    """
    try:
        known = json.loads((path / ABOUT).read_text())
        step, before = int(known["step"]), known["origins"]
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load can raise anything for a broken file
        raise TrainingError(
            f"the saved state does not read: {error}",
            where=str(path),
            hint="delete that folder and resume from the one before it, or start anew",
        ) from error
    check_same(before, origins, path)
    objective.load_state_dict(state["objective"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    average.load(state["average"])
    return step


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Check that a state has the current training's origins.

    Raises:
        TrainingError: Names the first keys that differ, with both values.
    """
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        values = [
            f"{key} = {value_text(before, key)}, now {value_text(now, key)}" for key in changed[:3]
        ]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise TrainingError(
            f"the saved state was made with {'; '.join(values)}{more}",
            where=str(path),
            hint="resume with what it was started with (only log may change), or leave out "
            "--resume to start anew",
        )


def value_text(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not set"
