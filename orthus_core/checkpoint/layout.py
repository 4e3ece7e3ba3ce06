"""Detect the layout of a checkpoint folder from its file names and configuration. No tensor is
read, and no module that reads tensors is imported.

Hugging Face's layout has `config.json`, Meta's has `params.json` with `consolidated*.pth`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
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
    """Token names and ids of the folder's tokenizer, or None without tokenizer.json.

    Tokens that were added later may be listed in files of their own, as transformers reads them.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    vocabulary = vocabulary_in(read_json(file))
    for name in ("added_tokens.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            table = read_json(folder / name)
            vocabulary = _added_later(table) | vocabulary
    return vocabulary


def vocabulary_in(table: Mapping[str, Any]) -> dict[str, int]:
    """Token names and ids of a tokenizer.json."""
    vocabulary = table.get("model", {}).get("vocab", {})
    added = {token["content"]: token["id"] for token in table.get("added_tokens", ())}
    return (dict(vocabulary) if isinstance(vocabulary, dict) else {}) | added


def _added_later(table: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of an added_tokens.json, or of the table in a tokenizer_config.json."""
    decoder = table.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        found = ((token, number) for number, token in decoder.items() if isinstance(token, dict))
        return {
            token["content"]: int(number)
            for token, number in found
            if isinstance(token.get("content"), str) and str(number).isdecimal()
        }
    return {
        name: number for name, number in table.items() if type(number) is int and name[:1] == "<"
    }


def marked_files(folder: Path) -> list[Path]:
    """The JSON files of a folder that begin with a byte order mark, as some editors save them."""
    marks = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    found = []
    for file in sorted(folder.glob("*.json")):
        with suppress(OSError), file.open("rb") as stream:
            if stream.read(3).startswith(marks):
                found.append(file)
    return found


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint folder.

    Raises:
        CheckpointError: When the file cannot be read, or holds something else.
    """
    try:
        table = json.loads(file.read_bytes())  # in UTF-8, 16 or 32, with a mark or without
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        from orthus_core.wrong_content import true_cause

        damaged = CheckpointError(
            f"{file.name} does not read: {error}",
            where=str(file),
            hint="copy or download it again",
        )
        raise true_cause(damaged, file, error) from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{file.name} is not a JSON object", where=str(file))
    return table
