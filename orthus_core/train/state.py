"""Saved states of a training, written completely or not at all, for bit-exact resuming.

A state folder `states/step-000500` holds what the training moves (weights, moments of the
optimisers, averages; `state_saver`) in a safetensors file of each process that wrote it, and in
`about.json` the step, its run, the training's origins, and sizes and checksums of these files.
Every random draw of a step depends on (seed, step) alone, so no generator has to be saved.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from orthus_core.atomic import real_path
from orthus_core.atomic_folder import TRAINING_SUFFIX
from orthus_core.errors import OutputError, TrainingError, UnplacedError
from orthus_core.output_checks import probe_folder
from orthus_core.recipe import Recipe, keys
from orthus_core.recipe.schema import Key
from orthus_core.recipe.training import (
    SPRITES,
    BuildBaseRecipe,
    FinetuneVaeRecipe,
    PosttrainRecipe,
    PretrainRecipe,
    SourceRecipe,
)
from orthus_core.train.state_files import FileRecord, as_records
from orthus_core.user_files import user_path

TRAININGS = (PretrainRecipe, FinetuneVaeRecipe, BuildBaseRecipe, PosttrainRecipe)
STATES = "states"
# File in a state folder with its step, its run and the training's origins; without it, the folder
# is no state.
ABOUT = "about.json"
# The run of states that earlier versions saved.
UNNAMED = ""

# What to continue from: nothing, the newest state beside the output, or a path for `state_at`.
Resume = bool | Path

# Tables of a recipe that change no number of a training: its reporting, and its devices.
TELLING = ("log", "devices")
# Keys that change no number of a training: which process does the work, and how many, where
# features are kept, whether it refuses what it would leave out, and what the finished model is to
# sample by.
INDIFFERENT = frozenset(
    {
        *("data.workers", "data.strict", "data.cache", "data.encode_first"),
        *("sampling", "interpolation", "devices"),
    }
)
# Origin of a transformer on codes: the weights of their autoencoder, which its states do not hold.
# Those of earlier versions held them, and do not tell it.
CODES_OF = "codes_of"
BATCH_OF = "batch_of"
"""The origin of a training on several devices whose batches are of all of them together; in early
versions each device had a batch of its own, and they do not tell this."""
# Changed keys that an error gives with their values; more are named.
SHOWN = 5


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
        if (tables_hold(key, tables) if tables else key.path[0] not in TELLING)
        and key.name not in INDIFFERENT
        and key.default is not None
    }
    return as_saved(taken | more)


def as_saved(value: Any) -> Any:
    """A value as a saved state holds it."""
    return json.loads(json.dumps(value, default=dataclasses.asdict))


def tables_hold(key: Key, tables: Sequence[str]) -> bool:
    """Whether a key of a recipe is one of `tables`, or in one of them."""
    return key.path[0] in tables or key.name in tables


def rows_origin(identity: str) -> dict[str, str]:
    """The data as an origin of a training; none where the recipe alone decides it."""
    return {"rows": identity} if identity else {}


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete states in a training folder, in ascending order."""
    return sorted(
        int(path.name.removeprefix("step-"))
        for path in (folder / STATES).glob("step-*")
        if path.name.removeprefix("step-").isdigit() and (path / ABOUT).is_file()
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


def about(state: Path) -> dict[str, Any]:
    """What a state says of itself.

    Raises:
        TrainingError: When it does not read.
    """
    try:
        found = json.loads((state / ABOUT).read_text(encoding="utf-8"))
        return {
            "step": int(found["step"]),
            "run": str(found.get("run", UNNAMED)),
            "origins": dict(found["origins"]),
            "files": found.get("files"),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken_state(state, error) from error


def step_of(state: Path) -> int:
    return about(state)["step"]


def run_of(state: Path) -> str:
    """Identity of the run that saved a state."""
    return about(state)["run"]


def origins_of(state: Path) -> dict[str, Any]:
    return about(state)["origins"]


def files_of(state: Path) -> list[FileRecord] | None:
    """The files of a state; None for one of an earlier version, which has a single `state.pt`.

    Raises:
        TrainingError: When it does not read.
    """
    found = about(state)["files"]
    try:
        return None if found is None else as_records(found)
    except (ValueError, TypeError) as error:
        raise broken_state(state, error) from error


def broken_state(state: Path, error: BaseException) -> TrainingError:
    reason = str(error).splitlines() or [type(error).__name__]  # torch goes on to list all weights
    return TrainingError(
        f"the saved state does not read: {reason[0]}",
        where=str(state),
        hint="delete that folder and resume from the one before it, or begin anew with "
        "--overwrite in place of --resume",
    )


def remove_state(state: Path) -> None:
    """Delete a state, first what makes it one, so that a killed process leaves no broken state."""
    (state / ABOUT).unlink(missing_ok=True)
    shutil.rmtree(state, ignore_errors=True)


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], where: Path, *, length: str
) -> None:
    """Check that a training goes on with the origins that it began with.

    Args:
        where: The state, or the figures, that were made with `before`.
        length: Key of the number of steps, which may change.

    Raises:
        TrainingError: Names every key that differs, the first with both values.
    """
    before, now = with_batch_of(before), with_batch_of(now)
    changed = sorted(
        key
        for key in (before.keys() | now.keys()) - INDIFFERENT - {length}
        if not is_same(key, before.get(key), now.get(key))
    )
    if changed:
        values = [
            f"{key} = {value_text(before, key)}, now {value_text(now, key)}"
            for key in changed[:SHOWN]
        ]
        more = f"; {', '.join(changed[SHOWN:])} differ too" if len(changed) > SHOWN else ""
        made = "the saved state was made" if where.is_dir() else "the figures here were made"
        if is_of_earlier_order(before.get("rows"), now.get("rows")):
            raise TrainingError(
                f"{made} by an earlier version, which read the rows of data sets in another order",
                where=str(where),
                hint="begin anew: --overwrite in place of --resume, or another folder with -o; "
                "--init-from starts from the weights of a finished training",
            )
        raise TrainingError(
            f"{made} with {'; '.join(values)}{more}",
            where=str(where),
            hint=f"go on with what it was begun with (only {length}, log, sampling, interpolation, "
            "devices, data.cache, data.encode_first, data.workers and data.strict may change), or "
            "begin anew: --overwrite in place of --resume, or another folder with -o",
        )


def with_batch_of(origins: Mapping[str, Any]) -> dict[str, Any]:
    """The origins, which say of one device too that its batches are all there is."""
    alone = {BATCH_OF: "all devices"} if origins.get("devices", 1) == 1 else {}
    return alone | dict(origins)


def is_same(key: str, one: Any, other: Any) -> bool:
    """Whether two values of a key are the same; a folder of data may be spelled in two ways, and
    states of earlier versions do not tell newer keys, which then have their defaults.
    """
    if one is None or other is None:
        # States of the first versions do not tell their rows, which came in another order.
        return one is None and (not other or key == CODES_OF or other == default_of(key))
    if key == "data.source":
        return one == other or resolved(one) == resolved(other)
    if key == "data.sources":
        return [whole_source(each) for each in one] == [whole_source(each) for each in other]
    return one == other


def is_of_earlier_order(before: Any, now: Any) -> bool:
    """Whether the rows of a state come in an order that another version had."""
    return bool(now) and str(before).partition(";")[0] != str(now).partition(";")[0]


def resolved(path: str) -> str:
    """A path of data as the system knows it; the small world and nothing have none."""
    return path if path in ("", SPRITES) else str(user_path(path).resolve())


def whole_source(source: Mapping[str, Any]) -> dict[str, Any]:
    """A source of data with its paths resolved; keys that a state of an earlier version does not
    tell have their defaults.
    """
    return as_saved(SourceRecipe()) | dict(source) | of_files(source)


def of_files(source: Mapping[str, Any]) -> dict[str, str]:
    """The paths of a source of data, resolved."""
    return {name: resolved(source[name]) for name in ("path", "images") if name in source}


@cache
def default_of(name: str) -> Any:
    """The default of a key by its dotted name; None if the recipes of trainings differ in it."""
    found = [key.default for recipe in TRAININGS for key in keys(recipe) if key.name == name]
    common = found[0] if found and all(each == found[0] for each in found) else None
    return as_saved(common)


def value_text(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not set"
