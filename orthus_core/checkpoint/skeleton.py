"""Whether weights fit a configuration, told from shapes alone, before a single weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import torch

from orthus_core.checkpoint.headers import listed
from orthus_core.errors import CheckpointError
from orthus_core.model.config import DiscreteConfig, InterleavedConfig, OrthusConfig
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.model.orthus import OrthusForConditionalGeneration

Shapes = Mapping[str, tuple[int, ...]]


def model_class(config: InterleavedConfig) -> type[InterleavedModel]:
    """The class of the model that a configuration describes."""
    if isinstance(config, DiscreteConfig):
        from orthus_core.model.chameleon import DiscreteChameleon

        return DiscreteChameleon
    return OrthusForConditionalGeneration


@overload
def skeleton(config: OrthusConfig) -> OrthusForConditionalGeneration: ...


@overload
def skeleton(config: InterleavedConfig) -> InterleavedModel: ...


def skeleton(config: InterleavedConfig) -> InterleavedModel:
    """The model without memory for its weights: a 7B takes a tenth of a second."""
    with torch.device("meta"):
        return model_class(config)(config)


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a checkpoint of this model holds, in order."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_shapes(expected: Shapes, found: Shapes, where: str) -> None:
    """Whether every tensor is there in its shape; further ones are not looked at.

    Raises:
        CheckpointError: When tensors are missing, or one has another shape.
    """
    missing = [name for name in expected if name not in found]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(expected)} tensors are missing: {listed(missing)}",
            where=where,
            hint="copy or download the folder again; all of its weight files are needed",
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{name} has the shape {list(found[name])}, and config.json makes it {list(shape)}",
                where=where,
                hint="weights and config.json must be of one checkpoint",
            )
