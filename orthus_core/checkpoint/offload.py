"""A model whose layers stay in their files, each fetched when a pass comes to it.

Layers are nearly all of a large model. Left in the files of its folder they take no memory beyond
that of the one at work; the system keeps what it can of the files in memory that nobody else needs.
Embeddings, both heads and the autoencoder are where the model runs.

A model that is quantised begins so too: each layer is brought in just before it is quantised, and
never more than one is whole.
"""

from __future__ import annotations

import torch
from accelerate.hooks import AlignDevicesHook, remove_hook_from_submodules
from torch import nn

from orthus_core.model.interleaved import InterleavedModel

LAYERS = "model.layers"
# accelerate's word for "in its file".
IN_ITS_FILE = "disk"


def layers_in_their_files(skeleton: InterleavedModel, device: torch.device) -> dict[str, str]:
    """Where each part of a model goes, as transformers takes it.

    Args:
        skeleton: The model without memory for its weights.
        device: Of all but the layers, which are brought there one by one.
    """
    parts = [name for name, _ in skeleton.named_children() if name != "model"]
    parts += [f"model.{name}" for name, _ in skeleton.model.named_children()]
    return {name: IN_ITS_FILE if name == LAYERS else str(device) for name in parts}


def bring_in(layer: nn.Module) -> None:
    """Brings the weights of one layer into memory, for good."""
    for module in layer.modules():
        hook = getattr(module, "_hf_hook", None)
        if isinstance(hook, AlignDevicesHook) and hook.offload and hook.weights_map is not None:
            for name, _ in list(module.named_parameters(recurse=False)):
                weight = hook.weights_map[name]
                module._parameters[name] = nn.Parameter(weight, requires_grad=False)
    _without_hooks(layer)


def is_all_here(model: InterleavedModel, device: torch.device) -> None:
    """Ends the fetching of a model whose layers have all been brought in."""
    _without_hooks(model)
    # The engine looks here for whether parts of the model are elsewhere.
    setattr(model, "hf_device_map", {"": str(device)})  # noqa: B010, nn.Module's is for tensors


def _without_hooks(parent: nn.Module) -> None:
    remove_hook_from_submodules(parent)
    for module in parent.modules():
        # accelerate leaves each module its own bound method, a circle in which weights that nobody
        # needs would wait for the garbage collector.
        module.__dict__.pop("forward", None)
