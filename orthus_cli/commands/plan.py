"""`orthus plan`: what a drawing or a training takes, before it is begun."""

from __future__ import annotations

import math
import os
from pathlib import Path
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
    from orthus_core.plan.hours import Disk
    from orthus_core.plan.memory_parts import MemoryItem
    from orthus_core.recipe.training import OptimRecipe

DRAWING = ("generate", "edit", "story")
TRAINING = ("pretrain", "finetune-vae", "build-base", "posttrain")
GB = 10**9
# Assumed row of a training whose data is not known yet: an edit's two pictures, and some words.
PICTURES_OF_A_ROW = 2
WORDS_OF_A_ROW = 64
# Cards that share a copy of the model where `sharding = "hybrid"` names no replicas.
CARDS_OF_A_MACHINE = 8


class Plan(NamedTuple):
    """Memory and time of one drawing or training, or of one of several parts that run in turn.

    Attributes:
        name: Name of the part.
        items: Memory of the part, item by item.
        needed: Total bytes.
        changes: What to change so that it fits.
        seconds: How long it takes, where that was measured.
        unit: What `seconds` is measured for.
        reckoned: How long it takes by its arithmetic, and what it writes; of a training.
    """

    name: str
    items: list[MemoryItem]
    needed: int
    changes: list[Change]
    seconds: float | None
    unit: str
    reckoned: Reckoned | None = None


class Reckoned(NamedTuple):
    """Time and disk of a training, computed.

    Attributes:
        steps: Its number of steps.
        flops: Operations of a step, computing activations again included.
        seconds: Seconds of a step; None for a card whose peak is not known.
        disk: What it writes.
    """

    steps: int
    flops: float
    seconds: float | None
    disk: Disk


class Cards(NamedTuple):
    """The cards of a training.

    Attributes:
        count: Their number.
        name: Name of the card.
        reached: Share of its peak that is assumed to be reached.
    """

    count: int
    name: str
    reached: float


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
            autocompletion=options.recipe_names,
            help="A command that draws or trains; or a recipe's name or file.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            "--init-from",
            metavar="MODEL",
            autocompletion=options.model_names,
            help="Whose size counts.",
        ),
    ] = None,
    *,
    flags: Flags,
    quantize: Annotated[
        Literal["8", "4"] | None, typer.Option("--quantize", help="Bits of the layers' weights.")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            "--memory", "--gpu-memory", metavar="GB", min=0, help="Of a device that is not here."
        ),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, help="Cards that a training shares.")
    ] = None,
    card: Annotated[
        str | None,
        typer.Option("--card", metavar="NAME", help="Card whose peak counts, such as H100."),
    ] = None,
    reached: Annotated[
        float | None,
        typer.Option("--mfu", min=0.01, max=1, help="Share of the peak that is reached."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure here for a moment how long it takes.")
    ] = False,
    sets: options.Sets = None,
) -> None:
    """Say what memory and time a drawing or a training takes.

    Where it does not fit, what to change is said. Example: orthus plan generate -m base

    Memory is computed from the model's configuration; its weights are not read and nothing is
    downloaded. Hours of a training follow from its arithmetic, a card's peak and an assumed share
    of it. Exit code 1 means that it does not fit. For cards that are not here: orthus plan
    posttrain -m instruct --gpus 8 --gpu-memory 80
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
    kind = chosen if chosen != "auto" else "cuda" if gpus else devices()[0].kind
    cards = _cards(kind, gpus or 1, card, reached)
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
            _training(config, part, recipe, at_once, kind, room, calibrate, cards)
            for part in _parts(command, recipe, goes_on=name is not None)
        ]
    # 3. Report.
    largest = max(made, key=lambda each: each.needed)
    seconds = [each.seconds for each in made if each.seconds is not None]
    fits = None if room is None else largest.needed <= room
    for each in made:
        of = f"{command}: {each.name}" if len(made) > 1 else command
        r.table(
            ("part", "GB", "depends on"),
            [(item.name, _gb(item.bytes), item.about) for item in _at_peak(each.items)],
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
            "gpus": cards.count,
            "hours": _hours(made),
            "stages": [_stage(each) for each in made],
            "changes": [change._asdict() for each in made for change in each.changes],
        },
        text="\n".join(_lines(made, room, fits, kind, cards)),
        quiet=[largest.needed],
    )
    if fits is False:
        raise typer.Exit(1)


def _model(
    command: str, recipe: Any, named: str | None
) -> tuple[InterleavedConfig, str | None, str]:
    """The configuration to plan for, its model's name, and its description for a title.

    Raises:
        RecipeError: When a discrete Chameleon would be trained by keys that mean nothing to it.
        CheckpointError: When it is not known how large the model is, or `pretrain` would go on from
            an Orthus.
    """
    from orthus_core.model.config import DiscreteConfig
    from orthus_core.plan.planned_model import planned_model, pretrain_config

    if command == "pretrain" and not named:
        taken = recipe.autoencoder.taken_from
        about = f"a model on the autoencoder of {taken}" if taken else "a model from nothing"
        return pretrain_config(recipe), None, about
    name = named or getattr(recipe, "model", "mini")
    found = planned_model(name)
    if command == "pretrain":
        from orthus_core.train.pretrain import check_discrete

        check_discrete(found.config, Path(name))
    if command == "posttrain" and isinstance(found.config, DiscreteConfig):
        from orthus_core.train.discrete_posttrain import check_keys

        check_keys(recipe)
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


def _parts(command: str, recipe: Any, *, goes_on: bool) -> list[Part]:
    """The trainings of a command; `goes_on` says whether it begins with a model."""
    if command != "pretrain":
        return [Part(command, command, recipe.optim, "optim")]
    transformer = Part("transformer", command, recipe.optim, "optim")
    if goes_on or recipe.autoencoder.taken_from:
        return [transformer]
    first = Part("autoencoder", "autoencoder", recipe.autoencoder.optim, "autoencoder.optim")
    return [first, transformer]


def _pictures(recipe: Any) -> int:
    """Number of pictures drawn at once, as far as the recipe sets it."""
    asked = getattr(recipe, "batch_size", None)
    # A single seed is counted up from; of several there is one for each picture.
    count = max(len(getattr(recipe, "seeds", ())), getattr(recipe, "num_images", 1))
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
    from orthus_core.plan.memory_parts import Drawing, drawing_memory, prompt_size, total

    said = flags["dtype"] or recipe.dtype
    bits = int(quantize) if quantize else recipe.quantize
    usual = "bf16" if kind == "cuda" or bits else "fp32"
    prompt = prompt_size(config, recipe)
    asked = Drawing(
        pictures=flags["pictures"],
        prompt=prompt.tokens,
        branches=prompt.streams,
        dtype=usual if said == "auto" else said,
        quantise=bits,
        fetched=flags["low_memory"] or recipe.low_memory,
    )
    items = drawing_memory(config, asked, kind)
    offered = (8, 4) if "quantize" in options_of(recipe.command) else ()
    changes = drawing_changes(config, asked, room, kind, bits=offered) if room is not None else []
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
    cards: Cards,
) -> Plan:
    from orthus_core.plan.calibrate import step_seconds
    from orthus_core.plan.fit import training_changes
    from orthus_core.plan.hours import disk_of, peak_of, seconds_of, step_flops
    from orthus_core.plan.memory_parts import total
    from orthus_core.plan.training_memory import Training, training_memory
    from orthus_core.recipe.training import LoraRecipe
    from orthus_core.train.batches import share_of
    from orthus_core.train.distributed import Rank

    optim, rows = part.optim, batch_size or part.optim.batch_size
    share_of(rows, Rank(0, cards.count))  # refused as the training would
    pictures = PICTURES_OF_A_ROW if part.command in ("pretrain", "posttrain") else 1
    words = WORDS_OF_A_ROW if part.command in ("pretrain", "posttrain") else 0
    length = pictures * (config.patches + 2) + words
    devices = getattr(recipe, "devices", None)
    trained = Training(
        command=part.command,
        batch=rows,
        length=min(length, config.max_position_embeddings),
        optimiser=optim.kind,
        averaged=optim.ema_decay > 0,
        interpolated=getattr(recipe, "interpolation", 1.0) < 1,
        compared=getattr(recipe, "kept_predictions", 0.0) > 0,
        repeats=getattr(recipe, "repeats", 1),
        lora=getattr(recipe, "lora", LoraRecipe()),
        pictures=pictures,
        words=words,
        accumulate=optim.accumulate,
        gpus=cards.count,
        replicas=_replicas(devices, cards.count),
        sharded=getattr(devices, "sharding", "auto") != "none",
        checkpoint=getattr(devices, "checkpoint_activations", False),
        patch_share=getattr(recipe, "patch_share", 1.0),
        linear=part.command == "autoencoder" and recipe.autoencoder.encoder == "linear",
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
    work, peak = step_flops(config, trained), peak_of(cards.name)
    reckoned = Reckoned(
        optim.steps,
        work.useful + work.again,
        seconds_of(work, cards.count, peak, cards.reached) if peak and kind == "cuda" else None,
        disk_of(config, trained, optim.steps, recipe.log.keep_last),
    )
    about = f"all {optim.steps} steps{of}"
    return Plan(part.name, items, needed, changes, seconds, about, reckoned)


def _cards(kind: str, count: int, name: str | None, reached: float | None) -> Cards:
    """The cards to plan for: by default of the kind that is here, or a usual one.

    Raises:
        RecipeError: For a card whose peak is not known.
    """
    from orthus_core.plan.hours import CARD, REACHED, peak_of
    from orthus_core.train.card_rates import PEAKS

    if name and peak_of(name) is None:
        raise RecipeError(
            f"the peak of a card called {name!r} is not known",
            where="--card",
            hint=f"name one of {', '.join(PEAKS)}",
        )
    if not name and kind == "cuda":
        import torch

        here = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        name = here if here and peak_of(here) else CARD
    return Cards(count, name or CARD, reached or REACHED)


def _replicas(devices: Any, cards: int) -> int:
    """Groups of cards that hold the whole model each, by the recipe's table `devices`.

    Raises:
        RecipeError: When the cards do not divide into them.
    """
    replicas = getattr(devices, "replicas", 1)
    if getattr(devices, "sharding", "auto") == "hybrid" and replicas == 1:
        replicas = max(1, cards // CARDS_OF_A_MACHINE)
    if cards % replicas:
        raise RecipeError(
            f"{cards} cards do not divide into {replicas} groups of one size",
            where="devices.replicas",
            hint=f"take a divisor of {cards}, or another --gpus",
        )
    return replicas


def _at_peak(items: list[MemoryItem]) -> list[MemoryItem]:
    """The parts, with a word for those that are not in memory when most is."""
    from orthus_core.plan.memory_parts import is_in, peak_phase

    peak = peak_phase(items)
    return [
        each
        if is_in(each, peak)
        else each._replace(about=f"{each.about} (not at the peak)".strip())
        for each in items
    ]


def _stage(made: Plan) -> dict[str, Any]:
    """One training of a plan, for programs."""
    told = {"name": made.name, "needed": made.needed, "seconds": made.seconds}
    if made.reckoned:
        told |= {
            "steps": made.reckoned.steps,
            "flops_per_step": made.reckoned.flops,
            "seconds_per_step": made.reckoned.seconds,
            "disk": made.reckoned.disk._asdict(),
        }
    return told


def _hours(made: list[Plan]) -> float | None:
    """Hours of all trainings by their arithmetic; None where that is not known."""
    found = [each.reckoned for each in made if each.reckoned]
    if not found or any(each.seconds is None for each in found):
        return None
    return sum(each.steps * (each.seconds or 0) for each in found) / 3600


def _device(kind: str) -> torch.device:
    from orthus_core.device import pick_device

    return pick_device(kind)


def _lines(
    made: list[Plan], room: int | None, fits: bool | None, kind: str, cards: Cards
) -> list[str]:
    most = max(each.needed for each in made)
    lines = []
    if len(made) > 1:
        lines.append(", then ".join(f"{each.name} {_gb(each.needed)} GB" for each in made))
    each_card = f" on each of {cards.count} cards" if cards.count > 1 else ""
    needed = f"{_gb(most)} GB{each_card}"
    if room is None:
        lines.append(f"{needed} are needed; what is free on {kind} is not known")
    else:
        free = f"{_gb(room)} GB"
        lines.append(f"{needed} are needed, {free} are free on {kind}: it {_verdict(bool(fits))}")
    for each in made:
        if each.seconds is not None:
            lines.append(f"about {_duration(each.seconds)} for {each.unit}, measured on {kind}")
    for each in made:
        if each.reckoned:
            lines += _reckoned_lines(each.reckoned, each.unit, cards)
    changes = [change for each in made for change in each.changes]
    for change in changes:
        enough = room is not None and change.bytes <= room
        also = "fits" if enough else "does not fit yet"
        lines.append(f"next: {change.what} takes {_gb(change.bytes)} GB, which {also}")
    if fits is False and not any(change.bytes <= (room or 0) for change in changes):
        least = min([most, *(change.bytes for change in changes)])
        lines.append(f"next: a device with {_gb(least)} GB free, or a smaller model such as mini")
    return lines


def _reckoned_lines(reckoned: Reckoned, unit: str, cards: Cards) -> list[str]:
    lines = []
    if reckoned.seconds is not None:
        on = f"{cards.count} {cards.name}" if cards.count > 1 else f"one {cards.name}"
        lines.append(
            f"about {_duration(reckoned.steps * reckoned.seconds)} for {unit} on {on}, if "
            f"{cards.reached:.0%} of the peak is reached (assumed; --card and --mfu set both); "
            f"{reckoned.flops:.2g} operations a step, without encoding pictures"
        )
    states, model, features = (_gb(size) for size in reckoned.disk)
    told = f"disk: {states} GB of states, {model} GB for the result"
    if reckoned.disk.features:
        told += f", at most {features} GB of encoded pictures"
    return [*lines, told]


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
