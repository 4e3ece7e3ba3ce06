"""Hugging Face's layout: `config.json` with safetensors or pickled weights.

Chameleon (facebook/chameleon-7b, no pixel decoder), Anole (leloykun/Anole-7b-v0.1-hf, with one)
and the released Orthus (with a diffusion head) all use it, under the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.headers import INDEX, PICKLED_INDEX, PICKLED_WEIGHTS, WEIGHTS
from orthus_core.checkpoint.lazy import LazyTensor, safetensors_folder
from orthus_core.checkpoint.source import LayerwiseModel, Source, read_json
from orthus_core.errors import CheckpointError

# Files that a tokenizer, a picture processor or a licence may consist of; the words a model knows.
KEPT_FILES = (
    "vocabulary.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
_TERMS = ("LICENSE*", "USE_POLICY*", "NOTICE*")


def is_here(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / "config.json").is_file()


def open_folder(folder: Path) -> Source:
    """The checkpoint in Hugging Face's layout.

    Raises:
        CheckpointError: When it is of another family, or a part is missing, unsafe or damaged.
    """
    from orthus_core.checkpoint.pickled import pickled_folder

    config = read_json(folder / "config.json")
    check_family(config, folder)
    pickled = has_pickled(folder) and not has_safetensors(folder)
    read = pickled_folder if pickled else safetensors_folder
    found = {
        parameter_names.from_hugging_face(name): tensor for name, tensor in read(folder).items()
    }
    tensors = {name: tensor for name, tensor in found.items() if name is not None}
    if not config.get("vocabulary_map"):
        config["vocabulary_map"] = tokenizer_vocabulary(folder)
    return Source(
        path=folder,
        layout="Hugging Face",
        config=config,
        tensors=tensors,
        keep=kept_files(folder),
        texts={},
        stack=lambda dtype: _stack(config, tensors, dtype),
    )


def _stack(
    config: dict[str, Any], tensors: dict[str, LazyTensor], dtype: torch.dtype | None
) -> LayerwiseModel:
    # Imported when it runs: `orthus info` opens folders too, and shall not wait for model code.
    from orthus_core.checkpoint.chameleon_layerwise import stack

    return stack(config, tensors, dtype)


def has_safetensors(folder: Path) -> bool:
    """Whether there are weights that `read_folder` reads."""
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def has_pickled(folder: Path) -> bool:
    """Whether there are weights that `pickled_folder` reads."""
    return any((folder / name).is_file() for name in (PICKLED_WEIGHTS, PICKLED_INDEX))


def kept_files(folder: Path) -> tuple[Path, ...]:
    """Tokenizer, processor and licence files of a folder."""
    named = [folder / name for name in KEPT_FILES if (folder / name).is_file()]
    terms = [file for pattern in _TERMS for file in sorted(folder.glob(pattern)) if file.is_file()]
    return (*named, *terms)


def check_family(config: dict[str, Any], folder: Path) -> None:
    """Raises: CheckpointError when a configuration is not of the Chameleon family."""
    kind = config.get("model_type")
    if kind not in ("chameleon", "anole", "orthus"):
        raise CheckpointError(
            f"this is a model of type {kind!r}, not a Chameleon, Anole or Orthus",
            where=str(folder / "config.json"),
            hint="Orthus is built on Chameleon: take facebook/chameleon-7b or Anole",
        )


def tokenizer_vocabulary(folder: Path) -> dict[str, int] | None:
    """Names to ids as the folder's tokenizer has them, or None where there is no tokenizer.json."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    table = read_json(file)
    vocabulary = table.get("model", {}).get("vocab", {})
    added = {token["content"]: token["id"] for token in table.get("added_tokens", ())}
    return (dict(vocabulary) if isinstance(vocabulary, dict) else {}) | added
