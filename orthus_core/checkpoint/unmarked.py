"""A copy of a model folder without byte order marks, for libraries that do not read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from orthus_core.user_files import read_text

# They live as long as the process: a model may leave layers in their files.
_copies: list[TemporaryDirectory[str]] = []


def copy_of(folder: Path, marked: Sequence[Path]) -> Path:
    """A temporary folder with texts of the marked files in UTF-8, and links to all others.

    Raises:
        ValueError: When a marked file is no text.
    """
    copy = TemporaryDirectory(prefix="orthus-model-")
    _copies.append(copy)
    for file in folder.iterdir():
        target = Path(copy.name) / file.name
        if file in marked:
            target.write_text(read_text(file), encoding="utf-8")
        else:
            target.symlink_to(file.absolute())
    return Path(copy.name)
