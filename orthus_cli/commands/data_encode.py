"""`orthus data encode`: the features of a data set's pictures, computed before a training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orthus_cli.console import reporter
from orthus_cli.options import Columns, DataFormat, DryRun, PicturesFolder, Sets, Split
from orthus_cli.training import stop_after_step
from orthus_core.errors import RecipeError
from orthus_core.user_files import user_path

if TYPE_CHECKING:
    from orthus_core.data.row_rule import TrainingRecipe


def encode(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|SOURCE",
            help="Recipe of a training, or folder, file or hub id of a data set.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            "--init-from",
            metavar="MODEL",
            help="Model that the training starts from; its autoencoder encodes. [default: mini]",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "-o", "--cache", metavar="DIR", help="Folder of the features; data.cache by default."
        ),
    ] = None,
    named: DataFormat = "",
    images: PicturesFolder = "",
    split: Split = "",
    columns: Columns = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Processes that load pictures.")
    ] = 0,
    sets: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Encode the pictures of a data set once, for all trainings.

    Trainings with `--set data.cache=DIR` then find their features there. It says beforehand how
    many pictures there are, and what they take on disk; Ctrl-C keeps what is done, and the same
    command encodes only what is missing. A launcher (torchrun, accelerate launch) shares the work
    among its processes.
    """
    from orthus_cli.commands.data import columns_of
    from orthus_core.data.row_faults import RowFaults
    from orthus_core.recipe.training import SPRITES, SourceRecipe

    r = reporter(ctx)
    own = {"format": named, "images": images, "split": split, "columns": columns_of(columns or [])}
    training = _training(source, sets or [])
    if training is None:
        training = _training(None, sets or [])
        assert training is not None, "without a recipe there are its defaults"
        own_source = replace(SourceRecipe(path=source), **own)
        data = replace(training.data, source=SPRITES, sources=(own_source,))
        training = replace(training, data=data)
    elif any(own.values()):
        raise typer.BadParameter("--as, --images, --split and --column are for a SOURCE")
    folder = cache or (Path(training.data.cache) if training.data.cache else None)
    if folder is None:
        raise RecipeError(
            "there is no folder for the features",
            where="data.cache",
            hint="name one with -o DIR, and give trainings --set data.cache=DIR",
        )
    folder = user_path(folder)
    start = model or _start(training)

    from orthus_core.train.data_encode import encode_data
    from orthus_core.train.encode_first import EncodingPlan

    plan, faults = EncodingPlan([]), RowFaults(training.data.strict, named_later=True)
    is_first = os.environ.get("RANK", "0") == "0"
    with stop_after_step(lambda: r.say("finishing these pictures, then saving")) as should_stop:
        events = encode_data(
            training,
            start,
            folder,
            plan,
            faults,
            workers=workers,
            dry_run=dry_run,
            should_stop=should_stop,
        )
        for _ in r.track(events) if is_first else events:
            pass
    if not is_first:
        return
    met = faults.take()
    first = faults.named(met)
    for fault in first:
        r.warn(str(fault))
    if len(met) > len(first):
        r.warn(f"... and {len(met) - len(first)} more")
    if should_stop():
        r.say(f"{plan.encoded} of {plan.new} pictures are encoded; the same command goes on")
        raise KeyboardInterrupt
    done = "would be encoded" if dry_run else "encoded"
    count = plan.new if dry_run else plan.encoded
    r.result(
        {
            "folder": str(folder),
            "model": start,
            "new": plan.new,
            "stored": plan.stored,
            "encoded": plan.encoded,
            "bytes": plan.bytes,
            "free": plan.free,
            "bad": len(faults),
            "first_bad": [fault.as_table() for fault in first],
            "dry_run": dry_run,
        },
        text=f"{folder}: {count} pictures {done}, {plan.stored} were there"
        + (f", {len(faults)} rows cannot be read" if faults else "")
        + f"; train with --set data.cache={folder}",
        quiet=[folder],
    )


def _training(source: str | None, sets: list[str]) -> TrainingRecipe | None:
    """The recipe of a training; None if `source` is a data set."""
    from orthus_cli.commands.data import training_recipe
    from orthus_core.recipe.shelf import shelved

    if source is not None and not source.endswith(".toml") and source not in shelved():
        return None
    return training_recipe(source, sets)


def _start(training: TrainingRecipe) -> str:
    """The model whose autoencoder a training uses, if none is named."""
    from orthus_core.recipe.training import PretrainRecipe

    if not isinstance(training, PretrainRecipe):
        return "mini"
    if training.autoencoder.taken_from:
        return training.autoencoder.taken_from
    raise RecipeError(
        "this pretrain trains its own autoencoder first, and encodes only then",
        where="autoencoder.taken_from",
        hint="name a trained one with -m MODEL",
    )
