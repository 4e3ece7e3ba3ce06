"""`orthus plan`: what a drawing or a training takes, before it is begun."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from orthus_cli import options
from orthus_cli.console import reporter
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_cli.stored import options_of
from orthus_core.errors import RecipeError
from orthus_core.recipe import SCHEMAS, GenerateRecipe, load
from orthus_core.recipe.load import command_of

if TYPE_CHECKING:
    import torch

    from orthus_core.model.config import InterleavedConfig
    from orthus_core.plan.fit import Change
    from orthus_core.plan.memory_parts import MemoryItem
    from orthus_core.recipe.training import OptimRecipe

DRAWING = ("generate", "edit", "story")
TRAINING = ("pretrain", "finetune-vae", "build-base", "posttrain")
GB = 10**9
# Assumed row of a training whose data is not known yet: an edit's two pictures, and some words.
PICTURES_OF_A_ROW = 2
WORDS_OF_A_ROW = 64


class Plan(NamedTuple):
    """Memory and time of one drawing or training, or of one of several parts that run in turn.

    Attributes:
        name: Name of the part.
        items: Memory of the part, item by item.
        needed: Total bytes.
        changes: What to change so that it fits.
        seconds: How long it takes, where that was measured.
        unit: What `seconds` is measured for.
    """

    name: str
    items: list[MemoryItem]
    needed: int
    changes: list[Change]
    seconds: float | None
    unit: str


@recipe_options(
    GenerateRecipe,
    only=("num_images", "batch_size", "steps", "dtype", "low_memory", "device"),
)
def plan(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND|RECIPE",
            help="A command that draws or trains; or a recipe's name or file.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("-m", "--model", "--init-from", metavar="MODEL", help="Whose size counts."),
    ] = None,
    *,
    flags: Flags,
    quantize: Annotated[
        Literal["8", "4"] | None, typer.Option("--quantize", help="Bits of the layers' weights.")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option("--memory", metavar="GB", min=0, help="Of a device that is not here."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure here for a moment how long it takes.")
    ] = False,
    sets: options.Sets = None,
) -> None:
    """Say what memory and time a drawing or a training takes.

    Where it does not fit, what to change is said. Example: orthus plan generate -m base

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

    from orthus_core.device import devices

    # 1. The model and the device.
    config, name, about = _model(command, recipe, model)
    kinds = {each.kind: each for each in reversed(devices())}
    chosen = flags["device"] or getattr(recipe, "device", "auto")
    kind = chosen if chosen != "auto" else devices()[0].kind
    here = kinds.get(kind)
    room = round(memory * GB) if memory else here.free if here else None
    batch_size = flags["batch_size"]
    at_once = int(batch_size) if batch_size and batch_size != "auto" else None
    # 2. Memory and time.
    if command in DRAWING:
        said = {
            "pictures": at_once or flags["num_images"] or _pictures(recipe),
            "dtype": flags["dtype"],
            "low_memory": flags["low_memory"],
        }
        made = [_drawing(config, recipe, said, quantize, flags["steps"], kind, room, calibrate)]
    else:
        made = [
            _training(config, part, recipe, at_once, kind, room, calibrate)
            for part in _parts(command, recipe)
        ]
    # 3. Report.
    largest = max(made, key=lambda each: each.needed)
    seconds = [each.seconds for each in made if each.seconds is not None]
    fits = None if room is None else largest.needed <= room
    for each in made:
        of = f"{command}: {each.name}" if len(made) > 1 else command
        r.table(
            ("part", "GB", "depends on"),
            [(item.name, _gb(item.bytes), item.about) for item in each.items],
            title=f"{of} with {about}",
        )
    r.result(
        {
            "command": command,
            "model": name,
            "device": kind,
            "parts": [item._asdict() for item in largest.items],
            "needed": largest.needed,
            "room": room,
            "fits": fits,
            "seconds": sum(seconds) if seconds else None,
            "stages": [
                {"name": each.name, "needed": each.needed, "seconds": each.seconds} for each in made
            ],
            "changes": [change._asdict() for each in made for change in each.changes],
        },
        text="\n".join(_lines(made, room, fits, kind)),
        quiet=[largest.needed],
    )
    if fits is False:
        raise typer.Exit(1)


def _model(
    command: str, recipe: Any, named: str | None
) -> tuple[InterleavedConfig, str | None, str]:
    """The configuration to plan for, its model's name, and its description for a title.

    Raises:
        RecipeError: When a model is named for a training that starts from scratch.
        CheckpointError: When it is not known how large the model is.
    """
    from orthus_core.plan.planned_model import planned_model, pretrain_config

    if command == "pretrain":
        if named:
            raise RecipeError(
                "pretrain begins from nothing, so there is no model whose size could count",
                where=f"--model {named}",
                hint="leave it out; the recipe says how large the model becomes",
            )
        taken = recipe.autoencoder.taken_from
        about = f"a model on the autoencoder of {taken}" if taken else "a model from nothing"
        return pretrain_config(recipe), None, about
    name = named or getattr(recipe, "model", "mini")
    found = planned_model(name)
    return found.config, name, f"{name}{'' if found.is_here else ', which is not on this machine'}"


class Part(NamedTuple):
    """One training of a command that does one or two.

    Attributes:
        name: Name of the part.
        command: Command name for `Training`.
        optim: Optimiser settings, and the recipe's table that holds them.
    """

    name: str
    command: str
    optim: OptimRecipe
    table: str


def _parts(command: str, recipe: Any) -> list[Part]:
    if command != "pretrain":
        return [Part(command, command, recipe.optim, "optim")]
    transformer = Part("transformer", command, recipe.optim, "optim")
    if recipe.autoencoder.taken_from:
        return [transformer]
    first = Part("autoencoder", "autoencoder", recipe.autoencoder.optim, "autoencoder.optim")
    return [first, transformer]


def _pictures(recipe: Any) -> int:
    """Number of pictures drawn at once, as far as the recipe sets it."""
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
    from orthus_core.plan.memory_parts import Drawing, drawing_memory, total

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
    return Plan(recipe.command, items, needed, [] if fits else changes, seconds, "a picture")


def _training(
    config: InterleavedConfig,
    part: Part,
    recipe: Any,
    batch_size: int | None,
    kind: str,
    room: int | None,
    calibrate: bool,
) -> Plan:
    from orthus_core.plan.calibrate import step_seconds
    from orthus_core.plan.fit import training_changes
    from orthus_core.plan.memory_parts import Training, total, training_memory
    from orthus_core.recipe.training import LoraRecipe

    optim = part.optim
    pictures = PICTURES_OF_A_ROW if part.command in ("pretrain", "posttrain") else 1
    length = pictures * (config.patches + 2) + WORDS_OF_A_ROW
    trained = Training(
        command=part.command,
        batch=batch_size or optim.batch_size,
        length=min(length, config.max_position_embeddings),
        optimiser=optim.kind,
        averaged=optim.ema_decay > 0,
        repeats=getattr(recipe, "repeats", 1),
        lora=getattr(recipe, "lora", LoraRecipe()),
    )
    items = training_memory(config, trained, kind)
    needed = total(items)
    fits = room is None or needed <= room
    changes = [] if fits else training_changes(config, trained, room or 0, kind, table=part.table)
    seconds = None
    if calibrate:
        steps = optim.steps * optim.accumulate
        seconds = step_seconds(config, trained, _device(kind)) * steps
    of = f" of the {part.name}" if part.table != "optim" else ""
    return Plan(part.name, items, needed, changes, seconds, f"all {optim.steps} steps{of}")


def _device(kind: str) -> torch.device:
    from orthus_core.device import pick_device

    return pick_device(kind)


def _lines(made: list[Plan], room: int | None, fits: bool | None, kind: str) -> list[str]:
    most = max(each.needed for each in made)
    lines = []
    if len(made) > 1:
        lines.append(", then ".join(f"{each.name} {_gb(each.needed)} GB" for each in made))
    needed = f"{_gb(most)} GB"
    if room is None:
        lines.append(f"{needed} are needed; what is free on {kind} is not known")
    else:
        free = f"{_gb(room)} GB"
        lines.append(f"{needed} are needed, {free} are free on {kind}: it {_verdict(bool(fits))}")
    for each in made:
        if each.seconds is not None:
            lines.append(f"about {_duration(each.seconds)} for {each.unit}, measured on {kind}")
    changes = [change for each in made for change in each.changes]
    for change in changes:
        enough = room is not None and change.bytes <= room
        also = "fits" if enough else "does not fit yet"
        lines.append(f"next: {change.what} takes {_gb(change.bytes)} GB, which {also}")
    if fits is False and not any(change.bytes <= (room or 0) for change in changes):
        least = min([most, *(change.bytes for change in changes)])
        lines.append(f"next: a device with {_gb(least)} GB free, or a smaller model such as mini")
    return lines


def _gb(count: int) -> str:
    """Gigabytes, with as many decimal places as are meaningful."""
    return f"{count / GB:.1f}" if count >= GB else f"{count / GB:.3f}"


def _verdict(fits: bool) -> str:
    return "fits" if fits else "does not fit"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    hours = seconds / 3600
    return f"{math.ceil(seconds / 60)} min" if hours < 2 else f"{hours:.1f} h"
