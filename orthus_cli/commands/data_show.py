"""`orthus data show`: rows of a data set as a training sees them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orthus_cli.console import reporter
from orthus_cli.options import Columns, DataFormat, Overwrite, PicturesFolder, Sets, Split

if TYPE_CHECKING:
    from orthus_core.data.row_rule import TrainingRecipe
    from orthus_core.data.shown_row import ShownRow
    from orthus_core.events import Event

T = TypeVar("T")
MOST_OF_CUT = 100  # letters that are shown of a text beyond the context

TrainingRecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="Recipe of the training it is for; posttrain's defaults if left out.",
    ),
]
"""Also an option of `orthus data check`; of other commands it is a recipe of their own."""


def show(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help='Folder or file of a data set, or "sprites"; the recipe\'s own if left out.',
        ),
    ] = None,
    named: DataFormat = "",
    images: PicturesFolder = "",
    split: Split = "",
    columns: Columns = None,
    count: Annotated[int, typer.Option("-n", "--num-rows", min=1, help="Number of rows.")] = 12,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="PNG of the rows and their pictures."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "-m", "--model", metavar="MODEL", help="Model that is to be trained on it: --init-from."
        ),
    ] = "mini",
    recipe: TrainingRecipeFile = None,
    sets: Sets = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the order; the recipe's if left out.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show the first rows as a training sees them.

    Texts are shown as the model's tokenizer reads them, with the special tokens, and pictures at
    the model's size. Bold text is learnt, the rest is read. A row that is longer than the model's
    context is marked where it ends. Conditions are not dropped here.
    """
    from orthus_cli.commands.data import columns_of
    from orthus_core.results.output_names import check_free, write_file
    from orthus_core.train.data_show import shown_rows

    r = reporter(ctx)
    if output is not None:
        if output.suffix.lower() != ".png":
            raise typer.BadParameter("a sheet is a PNG: -o NAME.png", param_hint="--output")
        check_free(output, overwrite=overwrite)
    found: list[tuple[list[ShownRow], int]] = []
    own = {"format": named, "images": images, "split": split, "columns": columns_of(columns or [])}
    events = shown_rows(_recipe_of(recipe, sets or [], source, own, seed), model, count)
    for _ in r.track(_returned_into(found, events)):
        pass
    ((rows, side),) = found
    for number, row in enumerate(rows, start=1):
        r.styled(_text_of(number, row))
    if output is not None:
        from io import BytesIO

        from orthus_core.data.row_sheet import row_sheet

        content = BytesIO()
        row_sheet(rows, side).save(content, "PNG")
        write_file(output, content.getvalue(), overwrite=overwrite)
    r.result(
        {
            "rows": [row.record() for row in rows],
            "side": side,
            "sheet": None if output is None else str(output),
        },
        text="" if output is None else str(output),
        quiet=[row.name for row in rows] if output is None else [output],
    )


def _recipe_of(
    recipe: str | None,
    sets: list[str],
    source: str | None,
    own: dict[str, Any],
    seed: int | None,
) -> TrainingRecipe:
    """The recipe of the training, with the source and the seed that were named.

    Args:
        own: How the source is to be read: keys of a source in a recipe.
    """
    from orthus_cli.commands.data import training_recipe
    from orthus_core.recipe.training import SPRITES, SourceRecipe

    training = training_recipe(recipe, sets)
    data = training.data
    if source is not None and any(own.values()):
        data = replace(data, source=SPRITES, sources=(SourceRecipe(path=source, **own),))
    elif source is not None:
        data = replace(data, source=source, sources=())
    elif any(own.values()):
        raise typer.BadParameter("--as, --images, --split and --column are for a SOURCE")
    if seed is not None:
        data = replace(data, seed=seed)
    return replace(training, data=data)


def _returned_into(found: list[T], events: Generator[Event, None, T]) -> Iterator[Event]:
    """The events of a generator, whose result goes into a list."""
    found.append((yield from events))


def _text_of(number: int, row: ShownRow) -> Iterator[tuple[str, str]]:
    """A row as runs of text with their styles: a line for each turn."""
    length = f", {row.positions} positions" if row.positions else ""
    yield f"{number}  {row.name}{length}\n", "underline"
    role, cut = "", False
    for part in row.parts:
        if part.cut and not cut:
            yield "\n  -- longer than the context: the rest is left out --", "red"
        if part.role != role or part.cut != cut:
            yield ("" if not role else "\n") + f"  {part.role:<5} ", "cyan"
            role, cut = part.role, part.cut
        text = f"[{part.text}]" if part.kind == "picture" else part.text
        if part.cut and len(text) > MOST_OF_CUT:
            text = f"{text[:MOST_OF_CUT]} \N{HORIZONTAL ELLIPSIS}"
        style = "bold" if part.learnt else "yellow" if part.kind == "special" else "dim"
        yield f"{text} ", style
    yield "\n", ""
    if row.problem:
        yield f"  left out: {row.problem}\n", "red"
