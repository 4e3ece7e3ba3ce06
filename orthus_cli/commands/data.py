"""`orthus data`: check a data set before training, make sprite packs, write out the world."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli.commands.data_encode import encode
from orthus_cli.commands.data_show import TrainingRecipeFile, show
from orthus_cli.console import reporter
from orthus_cli.help_sections import CommandList
from orthus_cli.options import Columns, DataFormat, Overwrite, PicturesFolder, Sets, Split
from orthus_core.errors import RecipeError

if TYPE_CHECKING:
    from orthus_core.data.row_rule import TrainingRecipe
    from orthus_core.train.data_check import CheckedSource

app = typer.Typer(
    cls=CommandList,
    help="Check and show data sets, prepare the bundled one.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
prepare = typer.Typer(
    cls=CommandList,
    help="Make a data set from its sources.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
app.add_typer(prepare, name="prepare")


@app.command("check")
def check(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folder or file of a data set, or an id of a hub; the recipe's own if left out.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad record.")] = False,
    named: DataFormat = "",
    images: PicturesFolder = "",
    split: Split = "",
    columns: Columns = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Read every row of a large data set.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Processes that read.")
    ] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            "--init-from",
            metavar="MODEL",
            help="Model that is to be trained on it; mini if left out, and none for pretrain.",
        ),
    ] = None,
    recipe: TrainingRecipeFile = None,
    sets: Sets = None,
) -> None:
    """Read a data set and show what a training cannot use.

    Records and pictures are read, and rows encoded, as the training does: with the model's
    tokenizer and context, and for what the recipe learns. A data set of at most 1,000 rows is read
    whole; of a larger one, 1,000 rows are, or all with --all. Ends with exit code 1 when a record
    cannot be used, or none can.
    """
    from orthus_core.data.row_faults import RowFaults
    from orthus_core.recipe.training import SPRITES, SourceRecipe
    from orthus_core.train.data_check import check_data

    r = reporter(ctx)
    training = training_recipe(recipe, sets or [])
    data = training.data
    own = {"format": named, "images": images, "split": split, "columns": columns_of(columns or [])}
    if source is not None:
        data = replace(data, source=SPRITES, sources=(SourceRecipe(path=source, **own),))
    elif any(own.values()):
        raise typer.BadParameter("--as, --images, --split and --column are for a SOURCE")
    if data.makes_rows:
        raise typer.BadParameter("name a SOURCE, or a --recipe that reads one")
    training = replace(training, data=data)
    if training.command != "pretrain":
        model = model or "mini"
    faults = RowFaults(strict or data.strict, named_later=True)
    found: list[CheckedSource] = []
    events = check_data(training, model, faults, found, everything=everything, workers=workers)
    try:
        for _ in r.track(events):
            pass
    finally:  # they may be why nothing is left to train on
        met = faults.take()
        first = faults.named(met)
        for fault in first:
            r.warn(str(fault))
        if len(met) > len(first):
            r.warn(f"... and {len(met) - len(first)} more")
    rows = [_checked(each, faults.counts.get(each.name, 0)) for each in found]
    usable = sum(each.usable for each in found)
    r.result(
        {
            **(rows[0] if len(rows) == 1 else {"usable": usable, "bad": len(faults)}),
            "first_bad": [fault.as_table() for fault in first],
            "training": training.command,
            "model": model,
            **({"sources": rows} if len(rows) > 1 else {}),
        },
        text="\n".join(_line(each, faults.counts.get(each.name, 0)) for each in found),
        quiet=[usable],
    )
    if faults or not all(each.usable for each in found):
        raise typer.Exit(1)


def columns_of(named: list[str]) -> dict[str, str]:
    """The columns of `--column FIELD=COLUMN`."""
    pairs = [text.partition("=") for text in named]
    if wrong := [text for text, (field, _, column) in zip(named, pairs, strict=True) if not column]:
        raise typer.BadParameter(f"write --column FIELD=COLUMN, not {wrong[0]!r}")
    return {field.strip(): column.strip() for field, _, column in pairs}


def _checked(found: CheckedSource, bad: int) -> dict[str, Any]:
    passed_over = [each._asdict() for each in found.rows.passed_over]
    return {
        "path": found.path,
        "name": found.name,
        "rows": len(found.rows),
        "read": found.read,
        "usable": found.usable,
        "bad": bad,
        "passed_over": passed_over,
    }


def _line(found: CheckedSource, bad: int) -> str:
    """What was found in one data set, and in how much of it."""
    line = f"{found.path}: {found.usable} usable, {bad} bad"
    if found.read < len(found.rows):
        line += f" of the {found.read} read; it has {len(found.rows)} rows, --all reads every one"
    return line if found.usable else f"{line}; there is nothing to train on"


def training_recipe(source: str | None, sets: list[str]) -> TrainingRecipe:
    """The recipe of the training that the data set is for.

    Raises:
        RecipeError: When it does not load, or is of no training.
    """
    from orthus_core.recipe import SCHEMAS, load
    from orthus_core.recipe.load import command_of

    command = command_of(source) if source is not None else "posttrain"
    trainings = [name for name, schema in SCHEMAS.items() if hasattr(schema(), "data")]
    if command not in trainings:
        raise RecipeError(
            f"{command} is no training, and needs no data set",
            where=str(source),
            hint=f"name a recipe for {', '.join(trainings)}",
        )
    return load(SCHEMAS[command], source, sets)  # type: ignore[return-value]


app.command("show")(show)
app.command("encode")(encode)


class Style(str, Enum):
    """Style of the emoji."""

    fluent_3d = "3d"
    flat = "flat"


@prepare.command("emoji")
def prepare_emoji(
    ctx: typer.Context,
    style: Annotated[
        Style,
        typer.Argument(help="Style of Microsoft's Fluent Emoji."),
    ],
    pictures: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="3d: assets folder of the npm package @lobehub/fluent-emoji-3d; flat: the "
            "unpacked @iconify-json/fluent-emoji-flat.",
        ),
    ],
    names: Annotated[
        Path, typer.Option(metavar="DIR", help="The unpacked npm package emojibase-data.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Tar to make.")],
    size: Annotated[int, typer.Option(min=16, max=256, help="Side of a picture in pixels.")] = 128,
    overwrite: Overwrite = False,
) -> None:
    """Make a sprite pack: emoji of one style, in one tar.

    Each stands beside its names.

    Drawing flat needs the package resvg-py.
    """
    from orthus_core.results.output_names import check_free
    from orthus_core.world.emoji import build_pack, fluent_3d, iconify

    check_free(output, overwrite=overwrite)
    r = reporter(ctx)
    sources = fluent_3d(pictures) if style is Style.fluent_3d else iconify(pictures)
    r.say("scaling about two thousand pictures, some twenty seconds")
    pack = build_pack(sources, names, output, size, tones=style is Style.fluent_3d)
    r.detail("named but without a picture: " + ", ".join(pack.without_picture))
    r.result(
        {
            "path": str(pack.path),
            "sprites": pack.untoned + pack.toned,
            "toned": pack.toned,
            "bytes": pack.size_bytes,
            "without_picture": list(pack.without_picture),
        },
        text=f"{pack.path}: {pack.untoned} sprites and {pack.toned} with a skin tone, "
        f"{pack.size_bytes / 1e6:.1f} MB",
        quiet=[pack.path],
    )


@prepare.command("world")
def prepare_world(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 1000,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="Kind of row (repeatable); all by default."),
    ] = None,
    size: Annotated[int, typer.Option(min=16, max=512, help="Side of a picture.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other rows.")] = 0,
    testing: Annotated[
        bool, typer.Option("--testing", help="Only what training never sees.")
    ] = False,
) -> None:
    """Write rows of the small world as a data set.

    It is records.jsonl beside PNG pictures, with the truth of each scene.

    The trainings need no such folder, they make rows as they go; it is for looking at them, and for
    other tools. The same seed gives the same rows.
    """
    from orthus_core.atomic_folder import check_empty
    from orthus_core.world.export import export
    from orthus_core.world.records import MAKERS
    from orthus_core.world.world import World

    check_empty(output)
    r = reporter(ctx)
    weights = dict.fromkeys(tasks or MAKERS, 1.0)
    world = World.open(testing=testing)
    for _ in r.track(export(world, weights, output, rows=rows, size=size, seed=seed)):
        pass
    r.result(
        {"path": str(output), "rows": rows, "tasks": list(weights), "seed": seed},
        text=f"{output}: {rows} rows",
        quiet=[output],
    )
