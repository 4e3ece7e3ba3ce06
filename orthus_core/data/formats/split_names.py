"""Which of several parts of a data set are read: train, validation or test."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from pathlib import Path

from orthus_core.errors import DataError
from orthus_core.events import Event, Note

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of each split, as `datasets` finds them in paths."""

_KNOWN = 8  # names of splits that an error lists


def split_of(name: str) -> str:
    """The split that a file's or folder's name speaks of; "" for none."""
    words = re.split(r"[^a-z]+", name.lower())  # `train2017` is a split, as there
    return next((split for split, names in SPLITS.items() if set(names) & set(words)), "")


def chosen_split(
    where: Path, paths: Sequence[Path], split: str
) -> Generator[Event, None, list[Path]]:
    """The parts to read. Notes what is left out for want of a `split`.

    Args:
        where: The data set.
        paths: A file or folder of each part, in the data set.
        split: Name of a split or of a part; "" is `train` where there is one, and all otherwise.

    Raises:
        DataError: if no part has that name.
    """
    names = {path: path.relative_to(where).as_posix() for path in paths}
    if not split:
        chosen = [path for path in paths if split_of(names[path]) == "train"]
        if not chosen or len(chosen) == len(paths):
            return [*paths]
        others = {split_of(name) or name for path, name in names.items() if path not in chosen}
        yield Note(f"{where}: `train` is read; `split` names others: {', '.join(sorted(others))}")
        return chosen
    wanted = split_of(split) or split
    chosen = [path for path in paths if split in (path.name, path.stem)]
    chosen = chosen or [path for path in paths if wanted in (split_of(names[path]), names[path])]
    if not chosen and wanted == "train" and not any(map(split_of, names.values())):
        return [*paths]
    if not chosen:
        known = dict.fromkeys(split_of(name) or name for name in names.values() if name != ".")
        raise no_split(split, where, [*known])
    return chosen


def check_split(path: Path, split: str) -> None:
    """Check that a data set which is one file, or one folder, is of a split.

    Raises:
        DataError: if it is another one. What names no split is `train`, as in `datasets`.
    """
    if not split or split in (path.name, path.stem):
        return
    if (split_of(path.name) or "train") != (split_of(split) or split):
        raise no_split(split, path, [])


def no_split(split: str, where: Path, known: Sequence[str]) -> DataError:
    """The error for a split that a data set does not have.

    Args:
        split: What was asked for.
        where: The data set.
        known: The splits that there are.
    """
    more = ", ..." if len(known) > _KNOWN else ""
    there = f"there are {', '.join(known[:_KNOWN])}{more}" if known else "leave the split out"
    return DataError(f"there is no split {split!r} here", where=str(where), hint=there)
