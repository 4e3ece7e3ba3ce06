"""The folder where indices, tables and fits are kept: all is made again when it is removed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orthus_core.user_files import user_path

VARIABLE = "ORTHUS_CACHE"
"""Environment variable that names another folder."""


def cache_folder(named: Path | None = None) -> Path:
    """The folder of the cache: the one named by a source, by `ORTHUS_CACHE`, or the user's own.

    Sources: the XDG base directory specification; Apple's and Microsoft's guides to file systems.
    """
    if named is not None:
        return user_path(named)
    if chosen := os.environ.get(VARIABLE):
        return user_path(chosen)
    if sys.platform == "darwin":
        return Path("~/Library/Caches/orthus").expanduser()
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "orthus"
    # The specification says that a relative path is to be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else "~/.cache").expanduser() / "orthus"
