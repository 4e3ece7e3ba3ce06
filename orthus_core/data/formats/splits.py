"""Which of several parts of a data set are read: train, validation or test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from orthus_core.errors import DataError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of each split, as `datasets` finds them in paths."""


def split_of(name: str) -> str:
    """The split that a file's or folder's name speaks of; "" for none."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((split for split, names in SPLITS.items() if set(names) & set(words)), "")


def chosen_split(
    where: Path, paths: Sequence[Path], split: str
) -> tuple[list[Path], list[str]]:
    """The parts to read.

    Args:
        where: The data set.
        paths: A file or folder of each part.
        split: Name of a split or of a part; "" is `train` where there is one, and all otherwise.

    Returns:
        The parts, and the names of the parts that are left out for want of a `split`.

    Raises:
        DataError: if no part has that name.
    """
    if not split:
        chosen = [path for path in paths if split_of(path.name) == "train"] or [*paths]
        return chosen, [path.name for path in paths if path not in chosen]
    wanted = split_of(split) or split
    chosen = [path for path in paths if split in (path.name, path.stem)]
    chosen = chosen or [path for path in paths if split_of(path.name) == wanted]
    if not chosen:
        raise DataError(
            f"there is no split {split!r} here",
            where=str(where),
            hint=f"there are {', '.join(path.name for path in paths)}",
        )
    return chosen, []
