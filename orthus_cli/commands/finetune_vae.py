"""`orthus finetune-vae`: the pixel decoder learns to draw from features."""

from __future__ import annotations

import typer

from orthus_cli.options import DryRun, OutputFolder, Overwrite, Resume, Sets
from orthus_cli.training import RecipeArgument, StartFrom, train_command
from orthus_core.recipe import FinetuneVaeRecipe


def finetune_vae(
    ctx: typer.Context,
    output: OutputFolder,
    init_from: StartFrom,
    recipe: RecipeArgument = None,
    sets: Sets = None,
    resume: Resume = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train the pixel decoder on features that were not snapped to codes.

    The encoder stays as it is. Ctrl-C saves, --resume auto goes on.
    """

    def trainer():
        from orthus_core.train.orthus_trainings import finetune_vae as run

        return run

    train_command(
        ctx,
        FinetuneVaeRecipe,
        recipe,
        sets,
        trainer=trainer,
        output=output,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        start={"init_from": init_from},
    )
