"""`orthus distill`: fewer calls of the diffusion head for the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli.console import reporter
from orthus_cli.help_sections import CommandList
from orthus_cli.options import (
    DryRun,
    OutputFolder,
    Overwrite,
    OverwriteRun,
    RecipeFile,
    Resume,
    Sets,
)
from orthus_cli.prompts import read_prompts
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_cli.training import Profile, place_of, run_training
from orthus_core.recipe import DistillGuidanceRecipe, DistillHeadRecipe, GenerateRecipe, load

if TYPE_CHECKING:
    from orthus_core.distill.time_grids import TimeGrids

app = typer.Typer(
    cls=CommandList,
    help="Make a model draw with fewer calls of its diffusion head.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@app.command("grid")
@recipe_options(GenerateRecipe, only=("guidance", "device", "dtype"))
def grid(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model: a folder, alias or hub id.")
    ],
    output: OutputFolder,
    scheduler: Annotated[
        list[str] | None,
        typer.Option(
            "--scheduler",
            metavar="NAME",
            help="Solver to find grids for: ddim, dpm++ or unipc; repeat for more. Those of the "
            "presets if left out.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            max=100,
            help="Most steps of a grid; there is one for each number up to it. As many as the "
            "presets take if left out.",
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompt-file",
            metavar="FILE",
            help="Texts to measure with, one a line; things that the model lists, or 16 plain "
            "scenes, if left out.",
        ),
    ] = None,
    contexts: Annotated[
        int, typer.Option("--contexts", min=2, help="Patches to measure with.")
    ] = 256,
    *,
    flags: Flags,
    overwrite: Overwrite = False,
) -> None:
    """Find the best times for a solver's steps, and write the model with them.

    Example: orthus distill grid mini -o mini-grid

    Nothing is trained: the head's paths are followed in fine steps, and for each number of steps
    the times are chosen whose steps miss least. Presets other than exact then step over them.
    """
    r = reporter(ctx)
    texts = read_prompts((), prompt_file) if prompt_file else ()

    from orthus_core.checkpoint.hub import resolve
    from orthus_core.checkpoint.model_folder import open_model
    from orthus_core.distill import time_grids
    from orthus_core.user_files import user_path

    # 1. What is asked for, and whether it can be written.
    of_presets = time_grids.solvers_of_presets()
    most = max(of_presets.values())
    solvers = {name: steps or of_presets.get(name, most) for name in scheduler or of_presets}
    time_grids.check_solvers([*solvers])
    output = user_path(output)
    time_grids.check_copy(resolve(model), output, overwrite=overwrite)
    # 2. The grids.
    opened = open_model(model, device=flags["device"] or "auto", dtype=flags["dtype"])
    found: list[TimeGrids] = []
    for event in r.track(
        time_grids.find_time_grids(
            opened, solvers, prompts=texts, guidance=flags["guidance"], contexts=contexts
        )
    ):
        if isinstance(event, time_grids.TimeGrids):
            found.append(event)
    # 3. The model with them.
    time_grids.write_with_grids(opened, output, found, overwrite=overwrite)
    r.table(
        ["solver", "steps", "error, own times", "error, grid", "kept"],
        [
            [each.solver, str(e.steps), f"{e.own:.4f}", f"{e.grid:.4f}", _kept(e)]
            for each in found
            for e in each.errors
        ],
    )
    r.result(
        {"folder": str(output), "grids": [_record(each) for each in found]},
        text=str(output),
        quiet=[output],
    )


@app.command("guidance")
@recipe_options(DistillGuidanceRecipe, only=("guidance",))
def guidance(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="The model to learn from: a folder, alias or hub id."),
    ],
    output: OutputFolder,
    recipe: RecipeFile = None,
    sets: Sets = None,
    resume: Resume = None,
    overwrite: OverwriteRun = False,
    profile: Profile = False,
    dry_run: DryRun = False,
    *,
    flags: Flags,
) -> None:
    """Train a model to draw in one stream what it draws with guidance in two, or edits in three.

    Example: orthus distill guidance mini -o mini-guided --resume auto

    The new model is guided inside: drawing takes half the time or less, and its guidance cannot be
    changed. Its words are kept. States, figures and samples lie in OUTPUT.training; Ctrl-C saves,
    --resume auto goes on.
    """
    place = place_of(output, model, resume, overwrite, profile)
    loaded = load(DistillGuidanceRecipe, recipe, sets or (), flags)
    run = "orthus_core.distill.guidance:distill_guidance"
    run_training(ctx, loaded, run, place, dry_run=dry_run)


@app.command("head")
def head(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="The model to learn from: a folder, alias or hub id."),
    ],
    output: OutputFolder,
    recipe: RecipeFile = None,
    sets: Sets = None,
    resume: Resume = None,
    overwrite: OverwriteRun = False,
    profile: Profile = False,
    dry_run: DryRun = False,
) -> None:
    """Train a diffusion head that takes few steps, and write the model with it.

    Example: orthus distill head mini -o mini-fast --resume auto

    The new head starts as DDIM in few steps and learns to land where the model's own head lands in
    many; the backbone stays as it is. The new model draws in 4 steps. States and figures lie in
    OUTPUT.training; Ctrl-C saves, --resume auto goes on.
    """
    place = place_of(output, model, resume, overwrite, profile)
    loaded = load(DistillHeadRecipe, recipe, sets or ())
    run = "orthus_core.distill.head:distill_head"
    run_training(ctx, loaded, run, place, dry_run=dry_run)


def _kept(error: Any) -> str:
    return "grid" if error.is_kept else "own times"


def _record(grids: TimeGrids) -> dict[str, Any]:
    """The grids of a solver as JSON holds them."""
    return {
        "solver": grids.solver,
        "guidance": grids.guidance,
        "times": {str(steps): [*times] for steps, times in grids.times.items()},
        "errors": [{**e._asdict(), "kept": _kept(e)} for e in grids.errors],
    }
