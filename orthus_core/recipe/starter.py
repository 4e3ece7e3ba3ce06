"""The stages that make the bundled models from nothing, one recipe each, in the order they run.

Imports nothing heavy, so that a mistyped key fails at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from orthus_core.errors import RecipeError
from orthus_core.recipe.load import command_of, load
from orthus_core.recipe.schema import Recipe
from orthus_core.recipe.shelf import find

FOLDER = "starter"
"""The folder of these recipes among the shipped ones."""


class StarterModel(NamedTuple):
    """What a stage makes.

    Attributes:
        stage: Name of the stage and of its recipe.
        start: Name of the model that it begins with; None for nothing.
        output: Name of the model that it makes.
    """

    stage: str
    start: str | None
    output: str


STAGES = (
    StarterModel("1-pretrain", None, "chameleon-start"),
    StarterModel("2-convert", "chameleon-start", "mini-start"),
    StarterModel("3-finetune-vae", "mini-start", "mini-vae"),
    StarterModel("4-build-base", "mini-vae", "mini-base"),
    StarterModel("5-posttrain", "mini-base", "mini"),
)
BASELINE = StarterModel("baseline", "chameleon-start", "chameleon-mini")
"""The discrete Chameleon goes on alone, on as many rows as it took to make `mini` of it."""

_FEW_ROWS = ("data.rows=24", "optim.steps=2", "optim.batch_size=2")
_QUIET = ("log.sample_every=0", "log.validate_rows=2", "log.every=1")
TOY = {
    "1-pretrain": (
        *(*_FEW_ROWS, *_QUIET, "tokenizer.rows=100", "tokenizer.vocab_size=400"),
        *("autoencoder.resolution=32", "autoencoder.channel_multiplier=[1, 1, 1, 1, 1]"),
        *("autoencoder.embed_dim=8", "autoencoder.latent_channels=8"),
        *("autoencoder.optim.steps=3", "autoencoder.optim.batch_size=2"),
        *("backbone.hidden_size=64", "backbone.num_hidden_layers=2"),
    ),
    "2-convert": ("head.width=48",),
    "3-finetune-vae": ("optim.steps=2", "optim.batch_size=2", *_QUIET),
    "4-build-base": (*_FEW_ROWS, *_QUIET),
    "5-posttrain": (*_FEW_ROWS, *_QUIET, "sampling.steps=2"),
    "baseline": (*_FEW_ROWS, *_QUIET),
}
"""Changes by stage that leave nothing but the order of everything: hardly a step, tiny shapes."""


class StarterStage(NamedTuple):
    """A stage that is ready to run.

    Attributes:
        model: What it makes, and from what.
        recipe: Its resolved recipe.
        changes: What differs from the shipped recipe, as `--set` takes it.
        about: What it takes, from the recipe's second line; empty at toy size.
    """

    model: StarterModel
    recipe: Recipe
    changes: tuple[str, ...]
    about: str

    @property
    def name(self) -> str:
        return self.model.stage

    @property
    def steps(self) -> int | None:
        """Optimiser steps of its last training; None for a conversion."""
        optim = getattr(self.recipe, "optim", None)
        return None if optim is None else optim.steps

    def words(self, folder: str) -> list[str]:
        """The command that runs this stage alone."""
        recipe, output = f"{FOLDER}/{self.name}", f"{folder}/{self.model.output}"
        start = f"{folder}/{self.model.start}"
        sets = [word for change in self.changes for word in ("--set", change)]
        if self.recipe.command == "convert":
            return ["orthus", "convert", start, "-o", output, "--recipe", recipe, *sets]
        begin = ["--init-from", start] if self.model.start else []
        train = ["orthus", self.recipe.command, recipe, *begin, "-o", output]
        return [*train, "--resume", "auto", *sets]


def starter_stages(
    sets: Iterable[str] = (), *, toy: bool = False, baseline: bool = False
) -> list[StarterStage]:
    """The stages with their recipes.

    Args:
        sets: Changes as `STAGE.KEY=VALUE`, where a stage is named with or without its number.
        toy: Whether to apply `TOY` first.
        baseline: Whether the discrete baseline is trained as well.

    Raises:
        RecipeError: For a stage or key that does not exist, and as `load`.
    """
    models = [*STAGES, *([BASELINE] if baseline else [])]
    changes = {model.stage: [*TOY[model.stage]] if toy else [] for model in models}
    for typed in sets:
        name, _, change = typed.partition(".")
        named = [stage for stage in changes if name in (stage, re.sub(r"^\d+-", "", stage))]
        if not named or "=" in name:
            raise RecipeError(
                "a change begins with the stage that it is for",
                where=f"--set {typed}",
                hint=f"the stages are {', '.join(changes)}, as in posttrain.optim.steps=1000",
            )
        changes[named[0]].append(change)
    ready = [_ready(model, changes[model.stage]) for model in models]
    return [stage._replace(about="") for stage in ready] if toy else ready


def _ready(model: StarterModel, changes: Sequence[str]) -> StarterStage:
    from orthus_core.recipe import SCHEMAS

    name = f"{FOLDER}/{model.stage}"
    recipe = load(SCHEMAS[command_of(name)], name, changes)
    about = find(name).read_text(encoding="utf-8").splitlines()[1].lstrip("# ")
    return StarterStage(model, recipe, tuple(changes), about)
