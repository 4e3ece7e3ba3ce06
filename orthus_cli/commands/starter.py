"""`orthus starter`: the bundled models from nothing, all stages in order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli.console import Reporter, reporter
from orthus_cli.options import DryRun, ResumeStages
from orthus_cli.training import stop_after_step
from orthus_core.recipe import as_table
from orthus_core.recipe.starter import StarterStage, starter_stages
from orthus_core.shell_words import shell_quoted
from orthus_core.user_files import user_path

if TYPE_CHECKING:
    from orthus_core.train.starter_run import StageDone


def starter(
    ctx: typer.Context,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder for the model of each stage."),
    ] = Path("runs"),
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="STAGE.KEY=VALUE",
            help="Change a key of a stage's recipe, as in posttrain.optim.steps=1000.",
        ),
    ] = None,
    toy: Annotated[
        bool, typer.Option("--toy", help="A few steps of each stage: a rehearsal in a minute.")
    ] = False,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Train the discrete chameleon-mini as well, on as many rows as mini.",
        ),
    ] = False,
    resume: ResumeStages = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Begin anew: the models, states, figures and samples in DIR are replaced.",
        ),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Train the bundled models from nothing.

    Five stages, each from the model of the one before. `orthus recipes cat starter/5-posttrain`
    shows a stage's recipe, --dry-run what each takes and the command that runs it alone. Ctrl-C
    saves, --resume auto goes on.
    """
    r = reporter(ctx)
    stages = starter_stages(sets or (), toy=toy, baseline=baseline)
    if dry_run:
        _show_plan(r, stages, output)
        return

    from transformers.utils import logging

    from orthus_core.train.starter_run import StageDone, run_starter

    logging.disable_progress_bar()
    done: list[StageDone] = []
    is_first = os.environ.get("RANK", "0") == "0"  # a launcher starts one process per device
    with stop_after_step(lambda: r.say("finishing this step, then saving")) as should_stop:
        events = run_starter(
            stages, output, resume=bool(resume), overwrite=overwrite, should_stop=should_stop
        )
        for event in r.track(events) if is_first else events:  # type: ignore[type-var]
            if isinstance(event, StageDone):
                done.append(event)
        if should_stop():
            raise KeyboardInterrupt
    if is_first:
        _report(r, done, output)


def _show_plan(r: Reporter, stages: list[StarterStage], output: Path) -> None:
    rows = [
        {
            "stage": stage.name,
            "makes": str(output / stage.model.output),
            "steps": stage.steps,
            "state": _state(output / stage.model.output),
            "about": stage.about,
            "run": stage.words(str(output)),
            "recipe": as_table(stage.recipe),
        }
        for stage in stages
    ]
    shown = ("stage", "makes", "steps", "state", "about")
    r.table(shown, [[row[name] for name in shown] for row in rows])
    commands = [shell_quoted(row["run"]) for row in rows]
    r.result(
        {"dry_run": True, "output": str(output), "stages": rows},
        text="\n".join(commands),
        quiet=commands,
    )


def _state(model: Path) -> str:
    """How far a stage has come, as far as its folders tell."""
    from orthus_core.atomic_folder import TRAINING_SUFFIX

    place = user_path(model)
    if (place / "config.json").is_file():
        return "there"
    return "begun" if place.with_name(place.name + TRAINING_SUFFIX).is_dir() else ""


def _report(r: Reporter, done: list[StageDone], output: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "stage": stage.name,
            "output": str(stage.output),
            "steps": stage.steps,
            "seconds": round(stage.seconds, 1),
            "figures": dict(stage.figures),
        }
        for stage in done
    ]
    r.table(
        ("stage", "model", "steps now", "seconds", "loss"),
        [
            (row["stage"], row["output"], row["steps"], row["seconds"], row["figures"].get("total"))
            for row in rows
        ],
    )
    r.result(
        {"output": str(output), "stages": rows},
        text=shell_quoted(["orthus", "generate", "a snowman", "-m", str(output / "mini")]),
        quiet=[row["output"] for row in rows],
    )
