"""The folder where indices, tables and fits are kept: all is made again when it is removed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orthus_core.errors import OutputError
from orthus_core.user_files import user_path

VARIABLE = "ORTHUS_CACHE"
"""Environment variable that names another folder."""


def cache_folder(named: Path | None = None) -> Path:
    """The folder of the cache: the one named by a source, by `ORTHUS_CACHE`, or the user's own.

    Sources: the XDG base directory specification; Apple's and Microsoft's guides to file systems.

    Raises:
        OutputError: Where none is named and the user has no home folder, as in some containers.
    """
    if named is not None:
        return user_path(named)
    if chosen := os.environ.get(VARIABLE):
        return user_path(chosen)
    if sys.platform == "darwin":
        return _in_home("~/Library/Caches") / "orthus"
    if os.name == "nt":
        return _in_home(os.environ.get("LOCALAPPDATA") or "~/AppData/Local") / "orthus"
    # The specification says that a relative path is to be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return _in_home(base if os.path.isabs(base) else "~/.cache") / "orthus"


def _in_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OutputError(
            "this user has no home folder for the cache",
            where=path,
            hint=f"name a folder with {VARIABLE}",
        ) from error
