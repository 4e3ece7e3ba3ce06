"""Validate settings read from someone else's file.

A picture or story from someone else has a record that is used to redraw or continue it. The record
may choose neither code to import nor models to download; the user's own input may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orthus_core.checkpoint.hub import is_here
from orthus_core.errors import DataError
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.shell_words import shell_quoted


def check_harmless(
    path: str | Path, recipe: Mapping[str, Any], named: Iterable[str | None] = ()
) -> None:
    """Check that these values may be used.

    Args:
        path: File that the values came from.
        recipe: Recipe in the file.
        named: The user's own input, which may choose both.

    Raises:
        DataError: For an external scheduler, and for a model that is not on this machine.
    """
    named = [name for name in named if name is not None]
    scheduler, model = recipe.get("scheduler"), recipe.get("model") or "mini"
    if scheduler not in (None, *SOLVERS, *named):
        raise DataError(
            f"it names a scheduler that is not ours: {scheduler}",
            where=str(path),
            hint=f"if you trust that code, run `orthus info {shell_quoted([str(path)])}` and the "
            "command it shows",
        )
    if model not in named and not is_here(model):
        raise DataError(
            f"it was made with a model that is not on this machine: {model}",
            where=str(path),
            hint=f"name it yourself to fetch it: -m {shell_quoted([str(model)])}",
        )
