"""What the four trainings share at the command line: recipe, resuming, Ctrl-C, and a last word."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orthus_cli.console import reporter
from orthus_core.errors import TrainingError
from orthus_core.events import StepDone
from orthus_core.recipe import Recipe, as_table, dump, load

if TYPE_CHECKING:
    from orthus_core.events import Event

R = TypeVar("R", bound=Recipe)

RecipeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A TOML file, or a name from `orthus recipes ls`; the paper's values when not given.",
        show_default=False,
    ),
]
StartFrom = Annotated[
    str,
    typer.Option(
        "--init-from", metavar="MODEL", help="Model folder, alias or hub id to start from."
    ),
]
Run = Callable[..., "Iterator[Event]"]


def train_command(
    ctx: typer.Context,
    schema: type[R],
    recipe: str | None,
    sets: Sequence[str] | None,
    *,
    trainer: Callable[[], Run],
    output: Path,
    resume: str | None,
    overwrite: bool,
    dry_run: bool,
    start: Mapping[str, Any] | None = None,
) -> None:
    """Load the recipe, run the training with its progress shown, and say what came of it.

    Args:
        trainer: Imports and returns the core function; not called before the recipe has loaded,
            so that a typo fails at once.
        start: Further arguments of that function, such as `init_from`.
    """
    resolved = load(schema, recipe, sets or ())
    r = reporter(ctx)
    r.detail(dump(resolved))
    if dry_run:
        r.result({"dry_run": True, "output": str(output), "recipe": as_table(resolved)})
        return
    if resume not in (None, "auto"):
        raise TrainingError(
            f"--resume {resume}",
            where="--resume",
            hint="states are found beside the output: use --resume auto",
        )
    figures: dict[str, float] = {}
    # A launcher starts a process a device; the first speaks for all.
    is_first = os.environ.get("RANK", "0") == "0"
    with stop_after_step(lambda: r.say("finishing this step, then saving")) as should_stop:
        events = trainer()(
            resolved,
            output=output,
            resume=resume == "auto",
            overwrite=overwrite,
            should_stop=should_stop,
            **(start or {}),
        )
        for event in r.track(events) if is_first else events:
            if isinstance(event, StepDone):
                figures = dict(event.metrics)
        if should_stop():
            raise KeyboardInterrupt
    if not is_first:
        return
    r.result(
        {"output": str(output), "figures": figures, "recipe": as_table(resolved)},
        text=str(output),
        quiet=[output],
    )


@contextmanager
def stop_after_step(on_first: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C once asks the training to save and end, twice ends it where it is."""
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
