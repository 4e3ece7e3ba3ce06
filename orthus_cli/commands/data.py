"""`orthus data`: check a data set before training, make sprite packs, write out the world."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orthus_cli.commands.data_show import show
from orthus_cli.console import reporter
from orthus_cli.help_sections import CommandList
from orthus_cli.options import Overwrite, Sets
from orthus_core.errors import RecipeError

if TYPE_CHECKING:
    from orthus_core.data.row_rule import TrainingRecipe

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
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder of pictures, or .jsonl of records.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad record.")] = False,
    named: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="Data format to read it in; found by itself if left out."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "-m", "--model", metavar="MODEL", help="Model that is to be trained on it: --init-from."
        ),
    ] = "mini",
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="Recipe of the training it is for; posttrain's defaults if left out.",
        ),
    ] = None,
    sets: Sets = None,
) -> None:
    """Read a whole data set and show what a training cannot use.

    Every record and picture is read, and every row encoded, as the training does: with the model's
    tokenizer and context, and for what the recipe learns. Ends with exit code 1 when a record
    cannot be used, or none can.
    """
    from orthus_core.data.formats.sniff import read
    from orthus_core.train.data_check import check_data
    from orthus_core.world.picture_kinds import register_picture_kinds

    r = reporter(ctx)
    training = training_recipe(recipe, sets or [])
    register_picture_kinds()
    reading = read(path, strict=strict or training.data.strict, name=named)
    try:
        for _ in r.track(check_data(reading, training, model, path)):
            pass
    finally:  # they may be why nothing is left to train on
        for fault in reading.faults:
            r.warn(str(fault))
        if reading.fault_count > len(reading.faults):
            r.warn(f"... and {reading.fault_count - len(reading.faults)} more")
    usable = len(reading.documents)
    r.result(
        {
            "path": str(path),
            "usable": usable,
            "bad": reading.fault_count,
            "first_bad": [fault._asdict() for fault in reading.faults],
            "training": training.command,
            "model": None if training.command == "pretrain" else model,
            "passed_over": [each._asdict() for each in reading.passed_over],
        },
        text=f"{path}: {usable} usable, {reading.fault_count} bad"
        + ("" if usable else "; there is nothing to train on"),
        quiet=[usable],
    )
    if reading.fault_count or not usable:
        raise typer.Exit(1)


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
