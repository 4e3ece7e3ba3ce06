"""Hugging Face's layout: `config.json` with safetensors or pickled weights.

Chameleon (facebook/chameleon-7b, no pixel decoder), Anole (leloykun/Anole-7b-v0.1-hf, with one)
and the released Orthus (with a diffusion head) all use it, under the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.headers import CONFIG
from orthus_core.checkpoint.layout import (
    check_family,
    is_pickled,
    read_json,
    tokenizer_vocabulary,
)
from orthus_core.checkpoint.lazy import LazyTensor, safetensors_folder
from orthus_core.checkpoint.pickled import pickled_folder
from orthus_core.checkpoint.source import LayerwiseModel, Source

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


def open_folder(folder: Path) -> Source:
    """The checkpoint in Hugging Face's layout.

    Raises:
        CheckpointError: When it is of another family, or a part is missing, unsafe or damaged.
    """
    config = read_json(folder / CONFIG)
    check_family(config, folder)
    read = pickled_folder if is_pickled(folder) else safetensors_folder
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


def kept_files(folder: Path) -> tuple[Path, ...]:
    """Tokenizer, processor and licence files of a folder."""
    named = [folder / name for name in KEPT_FILES if (folder / name).is_file()]
    terms = [file for pattern in _TERMS for file in sorted(folder.glob(pattern)) if file.is_file()]
    return (*named, *terms)
