"""Run a Chameleon with transformers' own layers, reading the weights one layer at a time.

It runs both sides of the conversion's proof: a source in Hugging Face's layout, and every
converted model.

Legend: S sequence, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import ChameleonConfig, ChameleonModel

from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.lazy import LazyTensor, cast
from orthus_core.checkpoint.source import LayerwiseModel, project


def stack(
    config: Mapping[str, Any],
    tensors: Mapping[str, LazyTensor],
    dtype: torch.dtype | None = None,
) -> LayerwiseModel:
    """The model in fp32, one layer in memory at a time.

    Args:
        config: Fields of ChameleonConfig.
        tensors: Tensors by our parameter names.
        dtype: Precision that the weights are rounded to first; None leaves them as they are.
    """

    def read(name: str) -> Tensor:
        lazy = tensors[name]
        return (lazy if dtype is None else cast(lazy, dtype)).read()

    fields = {name: value for name, value in config.items() if name != "model_type"}
    with init_empty_weights():  # weights are read later; only the rotary table is built now
        model = ChameleonModel(ChameleonConfig(**{**fields, "num_hidden_layers": 1}))
    model.eval()
    norm = model.norm
    model.norm = nn.Identity()  # type: ignore[assignment]

    def embed(ids_S: Tensor) -> Tensor:
        return read(parameter_names.EMBEDDINGS)[ids_S].float()

    def layer(number: int, hidden_SD: Tensor) -> Tensor:
        prefix = f"model.layers.{number}."
        own = [name for name in tensors if name.startswith(prefix)]
        weights = {name.removeprefix(prefix): read(name).float() for name in own}
        model.layers[0].load_state_dict(weights, assign=True)
        output = model(inputs_embeds=hidden_SD[None], use_cache=False)
        model.layers[0].to("meta")  # two stacks alternate, and only one holds a layer
        return output.last_hidden_state[0]

    def finish(hidden_SD: Tensor) -> Tensor:
        norm.load_state_dict({"weight": read(parameter_names.FINAL_NORM).float()}, assign=True)
        return norm(hidden_SD)

    def logits(hidden_SD: Tensor) -> Tensor:
        return project(hidden_SD, read(parameter_names.LM_HEAD))

    return LayerwiseModel(embed, layer, finish, logits)
