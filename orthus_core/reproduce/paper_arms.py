"""The arms as they are trained: every stage with its recipe, from the common start to the model.

Arms share every stage up to the first in which they differ, so the start is trained once, and an
arm that only differs in posttraining begins from the reference arm's base.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from orthus_core.errors import RecipeError
from orthus_core.recipe.load import command_of, load
from orthus_core.recipe.paper_arm import ArmRecipe
from orthus_core.recipe.schema import Recipe
from orthus_core.recipe.shelf import shelved

FOLDER = "paper"
"""The folder of these recipes among the shipped ones."""

REFERENCE = "softmax"
"""The arm that is the common recipes without a difference."""

START = "start"
"""The name of the common start, and of what a start of an arm's own takes its autoencoder from."""

COMMON = {
    "pretrain": "1-pretrain",
    "convert": "2-convert",
    "finetune_vae": "3-finetune-vae",
    "build_base": "4-build-base",
    "posttrain": "5-posttrain",
}
"""The recipe of each stage that all arms share, by the arm's table of differences."""

_FEW_ROWS = {"data": {"rows": 16}, "log": {"validate_rows": 2}}
QUICK: dict[str, dict[str, Any]] = {
    "pretrain": {
        "tokenizer": {"rows": 60, "vocab_size": 400},
        "autoencoder": {
            **{"resolution": 16, "channel_multiplier": [1, 1, 1], "embed_dim": 8},
            **{"latent_channels": 8, "num_embeddings": 64},
            "optim": {"steps": 3, "batch_size": 2},
        },
        "backbone": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        "optim": {"steps": 2, "batch_size": 2},
        **_FEW_ROWS,
    },
    "convert": {"head": {"width": 32}},
    "finetune_vae": {"optim": {"steps": 2, "batch_size": 2}, **_FEW_ROWS},
    "build_base": {"optim": {"steps": 2, "batch_size": 2, "warmup_steps": 1}, **_FEW_ROWS},
    "posttrain": {
        "optim": {"steps": 3, "batch_size": 2, "decay_steps": 1, "warmup_steps": 1},
        "sampling": {"steps": 2},
        **_FEW_ROWS,
    },
}
"""Changes of a rehearsal, which leave nothing but the order of everything."""

QUICK_STEPS = 2
"""Denoising steps at most of a rehearsal."""


class ArmStage(NamedTuple):
    """One training or conversion.

    Attributes:
        name: Name of what it makes, a folder in the folder of the whole: `softmax/base`.
        start: Name of the model that it begins with; None for nothing.
        recipe: Its resolved recipe.
    """

    name: str
    start: str | None
    recipe: Recipe

    @property
    def steps(self) -> int:
        """Optimiser steps, those of an autoencoder included; 0 for a conversion."""
        recipe: Any = self.recipe
        return recipe.optim.steps + self.autoencoder_steps if hasattr(recipe, "optim") else 0

    @property
    def autoencoder_steps(self) -> int:
        """Those of the steps that train an autoencoder within a pretraining."""
        autoencoder: Any = getattr(self.recipe, "autoencoder", None)
        return 0 if autoencoder is None or autoencoder.taken_from else autoencoder.optim.steps


class Arm(NamedTuple):
    """One arm.

    Attributes:
        name: Its name.
        recipe: Its differences.
        seeds: The seeds that it is trained with.
        stages: Its stages for each seed, in order, from the common start on.
    """

    name: str
    recipe: ArmRecipe
    seeds: tuple[int, ...]
    stages: Mapping[int, Sequence[ArmStage]]

    def model(self, seed: int) -> str:
        """Name of the model that is evaluated."""
        return self.stages[seed][-1].name

    def place(self, seed: int) -> str:
        """Where its results are kept, in the folder of the whole."""
        return f"{self.name}/seed-{seed}"


def arm_recipes() -> dict[str, ArmRecipe]:
    """The shipped arms by name.

    Raises:
        RecipeError: As `load`.
    """
    names = [name for name in shelved() if name.startswith(f"{FOLDER}/")]
    arms = [name for name in names if command_of(name) == ArmRecipe.command]
    return {name.removeprefix(f"{FOLDER}/"): load(ArmRecipe, name) for name in arms}


def paper_arms(names: Iterable[str], *, seeds: int | None = None, quick: bool = False) -> list[Arm]:
    """Arms with all their stages.

    Args:
        names: Names of the arms.
        seeds: Number of seeds; each arm's own if None.
        quick: Whether to apply `QUICK`, with one seed.

    Raises:
        RecipeError: For an arm that does not exist, and as `load`.
    """
    known = arm_recipes()
    for name in names:
        if name not in known:
            raise RecipeError(f"there is no arm {name!r}", hint=f"the arms are {', '.join(known)}")
    return [_arm(name, known, seeds, quick=quick) for name in names]


def _arm(name: str, known: Mapping[str, ArmRecipe], seeds: int | None, *, quick: bool) -> Arm:
    recipe = known[name]
    if recipe.drawn_by:
        other = _arm(recipe.drawn_by, known, seeds, quick=quick)
        return other._replace(name=name, recipe=recipe)
    # Without seeds of its own there is one of it: more trainings of the start would be more starts.
    count = 1 if quick or recipe.kind == "start" else (seeds or recipe.seeds)
    numbers = tuple(range(count))
    return Arm(
        name, recipe, numbers, {seed: _stages(name, recipe, seed, quick=quick) for seed in numbers}
    )


def _stages(name: str, arm: ArmRecipe, seed: int, *, quick: bool) -> list[ArmStage]:
    """The stages of an arm with a seed."""

    def resolved(table: str, *more: Mapping[str, Any]) -> Recipe:
        return _with_differences(name, table, arm, quick=quick, more=more)

    # 1. The start, its own where it differs, with the autoencoder of the common one.
    stages = [ArmStage(START, None, _with_differences(name, "pretrain", ArmRecipe(), quick=quick))]
    begun = f"{name}/" if arm.pretrain else ""
    if arm.pretrain:
        own = resolved("pretrain", {"autoencoder": {"taken_from": START}})
        stages.append(ArmStage(f"{begun}{START}", None, own))
    if arm.kind == "start":
        return stages
    of_seed = {"seed": seed, "data": {"seed": seed}}
    if arm.kind == "discrete":
        # It chooses each code in one step, in a rehearsal too.
        last = resolved("posttrain", of_seed, {"sampling": {"steps": 1}})
        return [*stages, ArmStage(f"{name}/seed-{seed}", stages[-1].name, last)]

    # 2. Conversion and build-base, the reference arm's until it differs.
    begun = begun or (f"{name}/" if arm.convert else f"{REFERENCE}/")
    stages.append(ArmStage(f"{begun}converted", stages[-1].name, resolved("convert")))
    if arm.kind == "decoder":
        last = resolved("finetune_vae", of_seed)
        return [*stages, ArmStage(f"{name}/seed-{seed}", stages[-1].name, last)]
    begun = f"{name}/" if arm.build_base else begun
    stages.append(ArmStage(f"{begun}base", stages[-1].name, resolved("build_base")))

    # 3. Posttraining, once for each seed.
    last = resolved("posttrain", of_seed)
    return [*stages, ArmStage(f"{name}/seed-{seed}", stages[-1].name, last)]


def _with_differences(
    name: str,
    table: str,
    arm: ArmRecipe,
    *,
    quick: bool,
    more: Sequence[Mapping[str, Any]] = (),
) -> Recipe:
    """The common recipe of a stage with what the arm does otherwise, and further changes."""
    flags: dict[str, Any] = {}
    for layer in (getattr(arm, table), *([QUICK[table]] if quick else []), *more):
        flags |= dict(_flat(layer))
    whose = f"the arm {name}: {table}." if getattr(arm, table) else ""
    return _loaded(f"{FOLDER}/{COMMON[table]}", json.dumps(flags), whose)


@cache  # most stages are those of other arms and seeds
def _loaded(source: str, changes: str, whose: str) -> Recipe:
    """A shipped recipe with changes, by key as JSON.

    Args:
        whose: What the changes are, in the words of an error.
    """
    from orthus_core.recipe import SCHEMAS

    return load(SCHEMAS[command_of(source)], source, (), json.loads(changes), flags_are=whose)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
