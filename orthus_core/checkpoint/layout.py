"""Detect the layout of a checkpoint folder from its file names and configuration. No tensor is
read, and no module that reads tensors is imported.

Hugging Face's layout has `config.json`, Meta's has `params.json` with `consolidated*.pth`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orthus_core.checkpoint.headers import CONFIG, INDEX, PICKLED_INDEX, PICKLED_WEIGHTS, WEIGHTS
from orthus_core.errors import CheckpointError


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder has Hugging Face's layout."""
    return (folder / CONFIG).is_file()


def is_meta(folder: Path) -> bool:
    """Whether a folder has Meta's layout."""
    return next(meta_params_files(folder), None) is not None


def meta_params_files(folder: Path) -> Iterator[Path]:
    """`params.json` of every model in the folder that has weights next to it."""
    for place in (folder, *sorted(folder.glob("models/*"))):
        if (place / "params.json").is_file() and any(place.glob("consolidated*.pth")):
            yield place / "params.json"


def is_pickled(folder: Path) -> bool:
    """Whether the folder has pickled weights and no safetensors."""

    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    return has(PICKLED_WEIGHTS, PICKLED_INDEX) and not has(WEIGHTS, INDEX)


def check_family(config: dict[str, Any], folder: Path) -> None:
    """Check that a configuration belongs to the Chameleon family.

    Raises:
        CheckpointError: When it does not.
    """
    kind = config.get("model_type")
    if kind not in ("chameleon", "anole", "orthus"):
        raise CheckpointError(
            f"this is a model of type {kind!r}, not a Chameleon, Anole or Orthus",
            where=str(folder / CONFIG),
            hint="Orthus is built on Chameleon: take facebook/chameleon-7b or Anole",
        )


def tokenizer_vocabulary(folder: Path) -> dict[str, int] | None:
    """Token names and ids of the folder's tokenizer, or None without tokenizer.json."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    table = read_json(file)
    vocabulary = table.get("model", {}).get("vocab", {})
    added = {token["content"]: token["id"] for token in table.get("added_tokens", ())}
    return (dict(vocabulary) if isinstance(vocabulary, dict) else {}) | added


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint folder.

    Raises:
        CheckpointError: When the file cannot be read.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{file.name} does not read: {reason}",
            where=str(file),
            hint="copy or download it again",
        ) from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{file.name} is not a JSON object", where=str(file))
    return table
