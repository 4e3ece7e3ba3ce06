"""Hugging Face's layout: `config.json` with safetensors or pickled weights.

Chameleon (facebook/chameleon-7b, no pixel decoder), Anole (leloykun/Anole-7b-v0.1-hf, with one)
and the released Orthus (with a diffusion head) all use it, under the same names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.headers import CONFIG, with_tied
from orthus_core.checkpoint.layout import (
    check_family,
    is_pickled,
    read_json,
    tokenizer_vocabulary,
)
from orthus_core.checkpoint.lazy import LazyTensor, safetensors_folder
from orthus_core.checkpoint.pickled import pickled_folder
from orthus_core.checkpoint.source import LayerwiseModel, Source
from orthus_core.checkpoint.variants import renamed, settled
from orthus_core.model.config import IMAGE_TOKEN

# Tokenizer, picture processor and licence files, which are copied unchanged.
KEPT_FILES = (
    "vocabulary.txt",
    "words.json",
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
        CheckpointError: When the model family differs, or a part is missing, unsafe or damaged.
    """
    table = read_json(folder / CONFIG)
    check_family(table, folder)
    read = pickled_folder if is_pickled(folder) else safetensors_folder
    found = {
        parameter_names.from_hugging_face(name): tensor for name, tensor in read(folder).items()
    }
    # Once more, under our names: a tied head may have had another project's prefix.
    tensors = with_tied({n: tensor for n, tensor in found.items() if n is not None}, folder)
    config = settled(table, tokenizer_vocabulary(folder), str(folder / CONFIG))
    keep = kept_files(folder)
    image_token_id = (config.get("vocabulary_map") or {}).get(IMAGE_TOKEN)
    texts = renamed(
        {file.name: _json(file) for file in keep if file.suffix == ".json"}, image_token_id
    )
    return Source(
        path=folder,
        layout="Hugging Face",
        config=config,
        tensors=tensors,
        keep=tuple(file for file in keep if file.name not in texts),
        texts=texts,
        stack=lambda dtype: _stack(config, tensors, dtype),
    )


def _json(file: Path) -> str:
    return json.dumps(read_json(file), ensure_ascii=False)


def _stack(
    config: dict[str, Any], tensors: dict[str, LazyTensor], dtype: torch.dtype | None
) -> LayerwiseModel:
    # Imported here because `orthus info` also opens folders and should not wait for model code.
    from orthus_core.checkpoint.chameleon_layerwise import stack

    return stack(config, tensors, dtype)


def kept_files(folder: Path) -> tuple[Path, ...]:
    """Tokenizer, processor and licence files of a folder."""
    named = [folder / name for name in KEPT_FILES if (folder / name).is_file()]
    terms = [file for pattern in _TERMS for file in sorted(folder.glob(pattern)) if file.is_file()]
    return (*named, *terms)
