"""Shared parts of the four training commands: recipe, resuming, Ctrl-C, and the final report."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli.console import reporter
from orthus_cli.options import (
    DryRun,
    OutputFolder,
    OverwriteRun,
    Resume,
    Sets,
    model_names,
    recipe_names,
)
from orthus_core.events import StepDone
from orthus_core.recipe import Recipe, as_table, dump, load
from orthus_core.user_files import user_path

if TYPE_CHECKING:
    from orthus_core.events import Event

RecipeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        autocompletion=recipe_names,
        help="A TOML file, or a name from `orthus recipes ls`; the paper's values when not given.",
        show_default=False,
    ),
]
StartFrom = Annotated[
    str,
    typer.Option(
        "--init-from",
        metavar="MODEL",
        autocompletion=model_names,
        help="Model folder, alias or hub id to start from.",
    ),
]
GoOnFrom = Annotated[
    str | None,
    typer.Option(
        "--init-from",
        metavar="MODEL",
        help="A discrete Chameleon to go on from, with its words, autoencoder and transformer.",
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Write torch's trace of some steps, and where the time went, to OUTPUT.training.",
    ),
]
Run = Callable[..., "Iterator[Event]"]


def from_nothing(schema: type[Recipe], run: str, about: str) -> Callable[..., None]:
    """The command of a training that starts without a model, unless one is named.

    Args:
        schema: Class of the recipe.
        run: Core function, as `module:name`; imported after the recipe has loaded, so that a
            mistyped key fails at once.
        about: Help text of the command.
    """

    def command(
        ctx: typer.Context,
        output: OutputFolder,
        recipe: RecipeArgument = None,
        init_from: GoOnFrom = None,
        sets: Sets = None,
        resume: Resume = None,
        overwrite: OverwriteRun = False,
        profile: Profile = False,
        dry_run: DryRun = False,
    ) -> None:
        place = place_of(output, init_from, resume, overwrite, profile)
        run_training(ctx, load(schema, recipe, sets or ()), run, place, dry_run=dry_run)

    command.__doc__ = about
    return command


def from_a_model(schema: type[Recipe], run: str, about: str) -> Callable[..., None]:
    """The command of a training that starts from a model, see `from_nothing`."""

    def command(
        ctx: typer.Context,
        output: OutputFolder,
        init_from: StartFrom,
        recipe: RecipeArgument = None,
        sets: Sets = None,
        resume: Resume = None,
        overwrite: OverwriteRun = False,
        profile: Profile = False,
        dry_run: DryRun = False,
    ) -> None:
        place = place_of(output, init_from, resume, overwrite, profile)
        run_training(ctx, load(schema, recipe, sets or ()), run, place, dry_run=dry_run)

    command.__doc__ = about
    return command


def place_of(
    output: Path, init_from: Any, resume: str | None, overwrite: bool, profile: bool
) -> dict[str, Any]:
    """What `run_training` hands to the core function beside the recipe."""
    place = {"output": output, "init_from": init_from, "resume": resume, "overwrite": overwrite}
    return place | ({"profile": True} if profile else {})


def run_training(
    ctx: typer.Context, recipe: Recipe, run: str, place: dict[str, Any], *, dry_run: bool
) -> None:
    """Runs a training, shows its progress and reports the result.

    Args:
        place: Further arguments of the core function: output, source, and whether to overwrite.
    """
    if "RANK" in os.environ:
        # torch, which is not imported yet, warns of each lost connection with its call stack.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if place.get("profile"):
        # torch's profiler writes a line to the terminal when it starts and when it stops.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    r = reporter(ctx)
    output, resume = place["output"], place["resume"]
    if dry_run:
        result = {"dry_run": True, "output": str(output), "recipe": as_table(recipe)}
        r.result(result, text=dump(recipe).rstrip(), quiet=[output])
        return
    r.detail(dump(recipe))
    figures: dict[str, float] = {}
    speed: dict[str, float] = {}
    is_left = False  # whether steps are left to do
    # A launcher starts one process per device; only the first reports.
    is_first = os.environ.get("RANK", "0") == "0"
    with stop_after_step(lambda: r.say("finishing this step, then saving")) as should_stop:
        events = _function(run)(
            recipe, **{**place, "resume": _resume(resume)}, should_stop=should_stop
        )
        for event in r.track(events) if is_first else events:
            if isinstance(event, StepDone):
                figures, speed = dict(event.metrics), dict(event.speed)
                is_left = event.step < event.total
        if should_stop() or is_left:  # Ctrl-C may have reached another process alone
            raise KeyboardInterrupt
    if not is_first:
        return
    r.result(
        {"output": str(output), "figures": figures, "speed": speed, "recipe": as_table(recipe)},
        text=str(output),
        quiet=[output],
    )


def _resume(typed: str | None) -> bool | Path:
    """The core functions' `resume`: whether to resume from beside the output, or the path to resume
    from.
    """
    return typed == "auto" if typed in (None, "auto") else user_path(typed)


def _function(run: str) -> Run:
    """The core function of a training; progress bars of other libraries are turned off."""
    module, _, name = run.partition(":")
    found = getattr(importlib.import_module(module), name)

    from transformers.utils import logging

    logging.disable_progress_bar()
    return found


@contextmanager
def stop_after_step(on_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Handles Ctrl-C: the first makes the training save and end, the second stops it at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        on_first()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
