"""`orthus build-base`: a converted Chameleon becomes an Orthus base."""

from __future__ import annotations

import typer

from orthus_cli.options import DryRun, OutputFolder, Overwrite, Resume, Sets
from orthus_cli.training import RecipeArgument, StartFrom, train_command
from orthus_core.recipe import BuildBaseRecipe


def build_base(
    ctx: typer.Context,
    output: OutputFolder,
    init_from: StartFrom,
    recipe: RecipeArgument = None,
    sets: Sets = None,
    resume: Resume = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train the soft embedding and the diffusion head on pictures alone.

    Nothing that text depends on moves, and that is checked. Ctrl-C saves, --resume auto goes on.
    """

    def trainer():
        from orthus_core.train.orthus_trainings import build_base as run

        return run

    train_command(
        ctx,
        BuildBaseRecipe,
        recipe,
        sets,
        trainer=trainer,
        output=output,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        start={"init_from": init_from},
    )
