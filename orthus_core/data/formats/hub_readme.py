"""The configurations of a data set that its README names, as on the hub.

    ---
    configs:
    - config_name: default
      data_files:
      - split: train
        path: data/train-*
    ---

Files of another configuration are other data, often with other columns. Source: datasets,
utils/metadata.py (`MetadataConfigs`), data_files.py (forms of `data_files`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.user_files import read_text

README = "README.md"
DEFAULT = "default"
_HEAD = re.compile(r"\s*---\s*\n(.*?)\n---\s*(?:\n|$)", re.DOTALL)


class Configuration(NamedTuple):
    """The files that are one data set.

    Attributes:
        splits: The files of each split.
        others: Names of the configurations that these are not.
    """

    splits: dict[str, list[Path]]
    others: list[str]


def configuration(folder: Path, files: Sequence[Path]) -> Configuration | None:
    """The configuration that a folder's README calls default; None where it names no file of these.

    Args:
        folder: The data set.
        files: Its tables.

    Raises:
        DataError: if there are several, and none is the default.
    """
    configs = _configs(folder / README)
    found = {
        name: splits
        for name, config in configs.items()
        if (splits := _splits_of(config, folder, files))
    }
    marked = [name for name in found if configs[name].get("default") is True or name == DEFAULT]
    chosen = marked or [*found]
    if not chosen:
        return None
    if len(chosen) > 1 and not marked:
        first = next(iter(found[chosen[0]].values()))[0]
        raise DataError(
            f"this data set has several configurations: {', '.join(found)}",
            where=str(folder),
            hint=f"give the folder or the file of one, such as {first.parent}",
        )
    return Configuration(found[chosen[0]], [name for name in found if name != chosen[0]])


def _configs(readme: Path) -> dict[str, Mapping[str, Any]]:
    import yaml

    try:
        head = _HEAD.match(read_text(readme))
        listed = yaml.safe_load(head[1]).get("configs") if head else None
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return {}
    listed = listed if isinstance(listed, list) else []
    return {
        str(each.get("config_name", DEFAULT)): each for each in listed if isinstance(each, Mapping)
    }


def _splits_of(
    config: Mapping[str, Any], folder: Path, files: Sequence[Path]
) -> dict[str, list[Path]]:
    """The files of each split of a configuration; none where it names none of these."""
    inside = config.get("data_dir")
    inside = inside if isinstance(inside, str) else ""
    names = {file: file.relative_to(folder).as_posix() for file in files}
    splits = dict[str, list[Path]]()
    for split, pattern in _patterns(config.get("data_files")):
        wanted = PurePosixPath(inside, pattern).as_posix()
        wanted = re.sub(r"\[0-9\]\{(\d)\}", lambda digits: "[0-9]" * int(digits[1]), wanted)
        found = [file for file, name in names.items() if _matches(name, wanted)]
        held = splits.setdefault(split, [])
        held += [file for file in found if file not in held]
    return {split: held for split, held in splits.items() if held}


def _matches(name: str, pattern: str) -> bool:
    """Whether a path is of a pattern, in which only `**` stands for several folders, or none."""
    forms = {pattern, pattern.replace("**/", "")}
    return any(
        fnmatchcase(name, form) and ("**" in form or name.count("/") == form.count("/"))
        for form in forms
    )


def _patterns(data_files: Any) -> Iterator[tuple[str, str]]:
    """Split and pattern of each entry: a pattern, a list of them, or of `split` and `path`."""
    if isinstance(data_files, Mapping):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    for entry in data_files if isinstance(data_files, list) else [data_files]:
        split, paths = "train", entry
        if isinstance(entry, Mapping):
            split, paths = str(entry.get("split", "train")), entry.get("path")
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str):
                yield split, path
