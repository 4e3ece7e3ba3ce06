"""A model that is open, with its tokenizer and what results record about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from orthus_core.checkpoint import model_folder
from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.data.known_words import KnownWords
from orthus_core.device import DTYPES
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.user_files import user_path


class LoadedModel(NamedTuple):
    """An open model and everything needed to use it.

    asking: The model with its tokenizer.
    about: Name, hash, device and precision, as results record them; and under `lora` the adapters
        that were added, which the hash then counts.
    known: Words it was trained on, if its folder lists them.
    """

    builder: PromptBuilder
    about: dict[str, Any]
    known: KnownWords | None

    @property
    def model(self) -> InterleavedModel:
        return self.builder.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.builder.tokenizer


def load_model(
    source: str | Path,
    *,
    device: str | torch.device | None = "auto",
    dtype: str | torch.dtype | None = None,
    quantize: Literal[4, 8] | None = None,
    low_memory: bool = False,
    lora: Sequence[str | Path] | None = None,
) -> LoadedModel:
    """Opens a model.

    Args:
        source: Folder, alias or hub id, as for `open_model`.
        quantize: Bits to hold the backbone's weights in, 4 or 8.
        low_memory: Leaves the backbone in its files, and fetches each layer when it is used.
        lora: Adapters that are added to the model, each PATH or PATH:SCALE.

    Raises:
        CheckpointError: When the folder is incomplete or damaged, or has no tokenizer, or adapters
            do not read or are of another model.
        HubError: When a hub model is not available.
    """
    found = model_folder.open_model(
        source,
        device=device,
        dtype=dtype,
        low_memory=low_memory,
        quantize=quantize,
        lora=lora or (),
    )
    model = found.model
    # Adapters that were trained on words of a user's own list them beside those of the model.
    places = (*(user_path(each["path"]) for each in reversed(found.adapters)), found.path)
    known = next(filter(None, map(KnownWords.of, places)), None)
    tokenizer = found.processor.tokenizer if found.processor else None
    builder = PromptBuilder(model, tokenizer, known.read if known else None)
    about: dict[str, Any] = {
        "name": str(source),
        "hash": fingerprint(found.path),
        "device": str(model.device),
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == model.dtype),
    }
    if found.adapters:
        from orthus_core.checkpoint.adapters import hash_with

        about |= {"hash": hash_with(about["hash"], found.adapters), "lora": list(found.adapters)}
    return LoadedModel(builder, about, known)
