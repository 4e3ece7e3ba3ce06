"""`orthus pretrain`: a small discrete Chameleon from nothing."""

from __future__ import annotations

import typer

from orthus_cli.options import DryRun, OutputFolder, Overwrite, Resume, Sets
from orthus_cli.training import RecipeArgument, train_command
from orthus_core.recipe import PretrainRecipe


def pretrain(
    ctx: typer.Context,
    output: OutputFolder,
    recipe: RecipeArgument = None,
    sets: Sets = None,
    resume: Resume = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train a small discrete Chameleon: tokenizer, autoencoder with codes, transformer.

    States, figures and samples lie in OUTPUT.training; Ctrl-C saves, --resume auto goes on.
    """

    def trainer():
        from orthus_core.train.pretrain import pretrain as run

        return run

    train_command(
        ctx,
        PretrainRecipe,
        recipe,
        sets,
        trainer=trainer,
        output=output,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
    )
