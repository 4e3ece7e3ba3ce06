"""`orthus posttrain`: everything but the autoencoder, on interleaved rows."""

from __future__ import annotations

import typer

from orthus_cli.options import DryRun, OutputFolder, Overwrite, Resume, Sets
from orthus_cli.training import RecipeArgument, StartFrom, train_command
from orthus_core.recipe import PosttrainRecipe


def posttrain(
    ctx: typer.Context,
    output: OutputFolder,
    init_from: StartFrom,
    recipe: RecipeArgument = None,
    sets: Sets = None,
    resume: Resume = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train on mixed rows: text by cross-entropy, pictures by diffusion.

    States, figures and samples lie in OUTPUT.training; Ctrl-C saves, --resume auto goes on.
    """

    def trainer():
        from orthus_core.train.orthus_trainings import posttrain as run

        return run

    train_command(
        ctx,
        PosttrainRecipe,
        recipe,
        sets,
        trainer=trainer,
        output=output,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        start={"init_from": init_from},
    )
