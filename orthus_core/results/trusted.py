"""Which values may be followed that came with a file.

A picture or a story of someone else's says how it was made, and is followed when it is drawn again
or told on. It must neither choose code to import nor what to fetch; what the user typed may.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orthus_core.checkpoint.hub import is_here
from orthus_core.errors import DataError
from orthus_core.recipe.solver_registry import SOLVERS


def check_harmless(
    path: str | Path, recipe: Mapping[str, Any], named: Iterable[str | None] = ()
) -> None:
    """Whether these values may be followed.

    Args:
        path: The file that they came with.
        recipe: What it says.
        named: What the user typed, who may choose both.

    Raises:
        DataError: For a scheduler of others, and for a model that is not on this machine.
    """
    named = [name for name in named if name is not None]
    scheduler, model = recipe.get("scheduler"), recipe.get("model") or "mini"
    if scheduler not in (None, *SOLVERS, *named):
        raise DataError(
            f"it names a scheduler that is not ours: {scheduler}",
            where=str(path),
            hint=f"if you trust that code, run `orthus info {shlex.quote(str(path))}` and the "
            "command it shows",
        )
    if model not in named and not is_here(model):
        raise DataError(
            f"it was made with a model that is not on this machine: {model}",
            where=str(path),
            hint=f"name it yourself to fetch it: -m {shlex.quote(str(model))}",
        )
