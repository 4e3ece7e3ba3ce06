"""Whether a model could be drawn with the `sampling` table of a recipe, before it is trained."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import copy
from typing import Any

from orthus_core.errors import CheckpointError, PromptError, RecipeError
from orthus_core.model.config import InterleavedConfig
from orthus_core.samplers.params import OWN, TASKS, SamplingParams


def check_sampling(config: InterleavedConfig, sampling: Mapping[str, Any]) -> None:
    """Check sampling defaults that a model will carry.

    Args:
        config: Configuration of the model that the training begins with.
        sampling: Defaults by name, which replace its own.

    Raises:
        RecipeError: Names the first key that is unknown, or that the model could not be drawn with.
    """
    config, own = copy(config), config.sampling or {}
    for name, value in sampling.items():
        where = f"sampling.{name}"
        if name not in OWN:
            close = difflib.get_close_matches(name, OWN, n=1)
            meant = f", did you mean 'sampling.{close[0]}'?" if close else ""
            raise RecipeError(
                f"unknown key {where!r}{meant}",
                where=where,
                hint=f"the keys here are {', '.join(OWN)}",
            )
        config.sampling = {**own, name: value}
        try:
            for task in TASKS.values():
                SamplingParams.resolve(config, task)
        except CheckpointError as error:
            message = f"{where} cannot be {value!r}"
            raise RecipeError(message, where=where, hint=error.hint) from error
        except PromptError as error:
            message = f"{where} = {value!r}: {error.message}"
            hint = error.hint or "leave it out, and the model keeps its own"
            raise RecipeError(message, where=where, hint=hint) from error
