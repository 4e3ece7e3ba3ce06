"""Data sets that Hugging Face `datasets` has stored: folders that `save_to_disk` wrote, and its
cache of the sets of the hub. Both consist of Arrow files, by split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orthus_core.errors import DataError

STATE, SPLITS = "state.json", "dataset_dict.json"

_HUB_ID = re.compile(r"[\w.-]+/[\w-][\w.-]*")

_OF_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".tar", ".gz", ".zip", ".txt")

Splits = dict[str, list[Path]]
"""The Arrow files of each split; "" where there are no splits."""


def is_saved_set(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / SPLITS).is_file() or (folder / STATE).is_file()


def is_hub_id(path: Path) -> bool:
    """Whether a path that does not exist looks like the id of a set on the hub: `org/name`."""
    return (
        _HUB_ID.fullmatch(path.as_posix()) is not None
        and path.parts[0] not in (".", "..")
        and path.suffix.lower() not in _OF_FILES
        and not path.parent.exists()
        and not path.exists()
    )


def saved_splits(folder: Path) -> Splits:
    """The splits of a folder that `save_to_disk` wrote.

    Raises:
        DataError: if a file is missing or damaged, or the set is a selection of its rows.
    """
    if (folder / SPLITS).is_file():
        names = _json(folder / SPLITS).get("splits")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError("there are no 'splits' in it", where=str(folder / SPLITS))
        return {name: saved_splits(folder / name)[""] for name in names}
    state = _json(folder / STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(
            "this set is a selection from a larger one",
            where=str(folder),
            hint="call flatten_indices() on it before save_to_disk()",
        )
    try:
        files = [folder / each["filename"] for each in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError("it names no files", where=str(folder / STATE)) from error
    if not files:
        raise DataError("this set has no rows", where=str(folder))
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise DataError("this file of the set is missing", where=str(missing), hint="copy it again")
    return {"": files}


def hub_splits(name: str) -> Splits:
    """The splits of a set on the hub, which is downloaded unless the cache of `datasets` has it.

    Raises:
        DataError: if it cannot be loaded.
    """
    with _quiet():
        import datasets

        try:
            loaded = datasets.load_dataset(name)
        except Exception as error:  # each of its parts raises errors of its own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            if "Config name is missing" in str(error):
                raise DataError(
                    "this data set has several configurations",
                    where=name,
                    hint="load one with `datasets`, call save_to_disk() and give its folder",
                ) from error
            raise DataError(
                f"there is no such folder, and the hub gives no such data set: {lines[0]}",
                where=name,
                hint="check the name, the network, and `hf auth login` for sets behind a gate",
            ) from error
    splits = Splits()
    for split, part in loaded.items():
        files = [Path(each["filename"]) for each in part.cache_files]
        if not files:
            raise DataError(f"the split {split!r} has no files in the cache", where=name)
        splits[str(split)] = files
    return splits


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and messages of `datasets`; progress is told by events."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read it: {error}", where=str(file)) from error
    return value if isinstance(value, dict) else {}
