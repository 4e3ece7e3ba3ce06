"""The included recipes: plain TOML files, found by name."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from orthus_core.errors import RecipeError
from orthus_core.user_files import user_path


def shelf() -> Path:
    """The folder of the included recipes: beside this file once installed, else at the source
    tree's root.
    """
    installed = Path(__file__).parent / "shipped"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def shelved() -> dict[str, Path]:
    """Every included recipe, name to file, sorted with 10 after 9; one in a folder is named
    "folder/name".
    """
    named = {
        path.relative_to(shelf()).with_suffix("").as_posix(): path
        for path in shelf().rglob("*.toml")
    }
    return dict(sorted(named.items(), key=lambda item: _with_numbers(item[0])))


def _with_numbers(name: str) -> list[tuple[int, str]]:
    """A sort key for a name, with each run of digits as a number."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def find(name: str | Path) -> Path:
    """The file for a recipe's name or path; an existing path takes precedence over a name.

    Raises:
        RecipeError: When it is neither.
    """
    path = user_path(name)
    if path.is_file():
        return path
    names = shelved()
    if str(name) in names:
        return names[str(name)]
    if path.is_dir():
        raise RecipeError(f"{name} is a folder, and a recipe is a file")
    close = difflib.get_close_matches(path.with_suffix("").as_posix(), names, n=1)
    meant = f", did you mean {close[0]!r}?" if close else ""
    raise RecipeError(
        f"there is no recipe {str(name)!r}{meant}",
        hint="`orthus recipes ls` lists the recipes that come along; a file needs its path",
    )
