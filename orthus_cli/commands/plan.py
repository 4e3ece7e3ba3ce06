"""`orthus plan`: what a drawing or a training takes, before it is begun."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from orthus_cli import options
from orthus_cli.console import reporter
from orthus_cli.stored import options_of
from orthus_core.errors import RecipeError
from orthus_core.recipe import SCHEMAS, load
from orthus_core.recipe.load import command_of

if TYPE_CHECKING:
    import torch

    from orthus_core.model.config import InterleavedConfig
    from orthus_core.plan.fit import Change
    from orthus_core.plan.memory import Item

DRAWING = ("generate", "edit", "story")
TRAINING = ("finetune-vae", "build-base", "posttrain")
GB = 10**9
# A row of a training that is not known yet: an edit's two pictures, and some words.
PICTURES_OF_A_ROW = 2
WORDS_OF_A_ROW = 64


class Plan(NamedTuple):
    """What was found out of one undertaking.

    items: Its memory, part by part.
    needed: Bytes in all.
    changes: What to change so that it fits.
    seconds: How long it takes, where that was measured.
    unit: What takes so long.
    """

    items: list[Item]
    needed: int
    changes: list[Change]
    seconds: float | None
    unit: str


def plan(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND|RECIPE", help="generate, edit or story; or a recipe's name or file."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("-m", "--model", "--init-from", metavar="MODEL", help="Whose size counts."),
    ] = None,
    num_images: options.NumImages = None,
    batch_size: options.BatchSize = None,
    steps: options.Steps = None,
    dtype: options.Dtype = None,
    quantize: Annotated[
        Literal["8", "4"] | None, typer.Option("--quantize", help="Bits of the layers' weights.")
    ] = None,
    low_memory: options.LowMemory = None,
    device: options.Device = None,
    memory: Annotated[
        float | None,
        typer.Option("--memory", metavar="GB", min=0, help="Of a device that is not here."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure here for a moment how long it takes.")
    ] = False,
    sets: options.Sets = None,
) -> None:
    """Say what something takes, and what to change so that it fits: orthus plan generate -m base

    Memory is computed from the model's configuration; its weights are not read and nothing is
    downloaded. Exit code 1 means that it does not fit.
    """
    r = reporter(ctx)
    is_command = what in (*DRAWING, *TRAINING) and not os.path.isfile(what)
    command = what if is_command else command_of(what)
    if command not in (*DRAWING, *TRAINING):
        raise RecipeError(
            f"there is no plan for `orthus {command}`",
            where=what,
            hint=f"it plans {', '.join((*DRAWING, *TRAINING))}",
        )
    recipe: Any = load(SCHEMAS[command], None if is_command else what, sets or ())

    from orthus_core.plan.machine import devices
    from orthus_core.plan.subject import subject

    # 1. Of which model, and where.
    name = model or getattr(recipe, "model", "mini")
    found = subject(name)
    kinds = {each.kind: each for each in reversed(devices())}
    chosen = device or getattr(recipe, "device", "auto")
    kind = chosen if chosen != "auto" else devices()[0].kind
    here = kinds.get(kind)
    room = round(memory * GB) if memory else here.free if here else None
    at_once = int(batch_size) if batch_size and batch_size != "auto" else None
    # 2. What it takes, and how long.
    if command in DRAWING:
        flags = {
            "pictures": at_once or num_images or _pictures(recipe),
            "dtype": dtype,
            "low_memory": low_memory,
        }
        made = _drawing(found.config, recipe, flags, quantize, steps, kind, room, calibrate)
    else:
        made = _training(found.config, command, recipe, at_once, kind, room, calibrate)
    # 3. Tell.
    fits = None if room is None else made.needed <= room
    r.table(
        ("part", "GB", "hangs on"),
        [(item.name, _gb(item.bytes), item.about) for item in made.items],
        title=f"{command} with {name}{'' if found.is_here else ', which is not on this machine'}",
    )
    r.result(
        {
            "command": command,
            "model": name,
            "device": kind,
            "parts": [item._asdict() for item in made.items],
            "needed": made.needed,
            "room": room,
            "fits": fits,
            "seconds": made.seconds,
            "unit": made.unit,
            "changes": [change._asdict() for change in made.changes],
        },
        text="\n".join(_lines(made, room, fits, kind)),
        quiet=[made.needed],
    )
    if fits is False:
        raise typer.Exit(1)


def _pictures(recipe: Any) -> int:
    """How many are drawn at once, as far as a recipe says so."""
    asked = getattr(recipe, "batch_size", None)
    count = len(getattr(recipe, "seeds", ())) or getattr(recipe, "num_images", 1)
    return min(asked, count) if isinstance(asked, int) else count


def _drawing(
    config: InterleavedConfig,
    recipe: Any,
    flags: dict[str, Any],
    quantize: str | None,
    steps: int | None,
    kind: str,
    room: int | None,
    calibrate: bool,
) -> Plan:
    from orthus_core.plan.calibrate import drawing_pace, picture_seconds
    from orthus_core.plan.fit import drawing_changes
    from orthus_core.plan.memory import Drawing, drawing_memory, total

    said = flags["dtype"] or recipe.dtype
    usual = "bf16" if kind == "cuda" or quantize else "fp32"
    asked = Drawing(
        pictures=flags["pictures"],
        dtype=usual if said == "auto" else said,
        quantise=int(quantize) if quantize else None,
        fetched=bool(flags["low_memory"]),
    )
    items = drawing_memory(config, asked, kind)
    bits = (8, 4) if "quantize" in options_of(recipe.command) else ()
    changes = drawing_changes(config, asked, room, kind, bits=bits) if room is not None else []
    seconds = None
    if calibrate:
        often = steps or recipe.steps or config.sampling_defaults["steps"]
        pace = drawing_pace(config, asked, _device(kind))
        seconds = picture_seconds(config, pace, often) / asked.pictures
    needed = total(items)
    fits = room is None or needed <= room
    return Plan(items, needed, [] if fits else changes, seconds, "a picture")


def _training(
    config: InterleavedConfig,
    command: str,
    recipe: Any,
    batch_size: int | None,
    kind: str,
    room: int | None,
    calibrate: bool,
) -> Plan:
    from orthus_core.plan.calibrate import step_seconds
    from orthus_core.plan.fit import training_changes
    from orthus_core.plan.memory import Training, total, training_memory

    pictures = PICTURES_OF_A_ROW if command == "posttrain" else 1
    length = pictures * (config.patches + 2) + WORDS_OF_A_ROW
    trained = Training(
        command=command,
        batch=batch_size or recipe.optim.batch_size,
        length=min(length, config.max_position_embeddings),
        optimiser=recipe.optim.kind,
        averaged=recipe.optim.ema_decay > 0,
        repeats=getattr(recipe, "repeats", 1),
    )
    items = training_memory(config, trained, kind)
    needed = total(items)
    fits = room is None or needed <= room
    changes = [] if fits else training_changes(config, trained, room or 0, kind)
    seconds = None
    if calibrate:
        steps = recipe.optim.steps * recipe.optim.accumulate
        seconds = step_seconds(config, trained, _device(kind)) * steps
    return Plan(items, needed, changes, seconds, f"all {recipe.optim.steps} steps")


def _device(kind: str) -> torch.device:
    from orthus_core.checkpoint.folder import pick_device

    return pick_device(kind)


def _lines(made: Plan, room: int | None, fits: bool | None, kind: str) -> list[str]:
    needed = f"{_gb(made.needed)} GB"
    if room is None:
        lines = [f"{needed} are needed; what is free on {kind} is not known"]
    else:
        free = f"{_gb(room)} GB"
        lines = [f"{needed} are needed, {free} are free on {kind}: it {_verdict(bool(fits))}"]
    if made.seconds is not None:
        lines.append(f"about {_duration(made.seconds)} for {made.unit}, measured on {kind}")
    for change in made.changes:
        enough = room is not None and change.bytes <= room
        also = "fits" if enough else "does not fit yet"
        lines.append(f"next: {change.what} takes {_gb(change.bytes)} GB, which {also}")
    if fits is False and not any(change.bytes <= (room or 0) for change in made.changes):
        least = min([made.needed, *(change.bytes for change in made.changes)])
        lines.append(f"next: a device with {_gb(least)} GB free, or a smaller model such as mini")
    return lines


def _gb(count: int) -> str:
    """Gigabytes, with as many places as tell something."""
    return f"{count / GB:.1f}" if count >= GB else f"{count / GB:.3f}"


def _verdict(fits: bool) -> str:
    return "fits" if fits else "does not fit"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    hours = seconds / 3600
    return f"{math.ceil(seconds / 60)} min" if hours < 2 else f"{hours:.1f} h"
