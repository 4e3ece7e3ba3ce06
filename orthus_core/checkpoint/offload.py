"""A model whose layers stay in their files; each is loaded when a pass reaches it.

The layers are most of a large model. Left in their files, they take no memory except for the
current layer; the system caches the files in otherwise unused memory. Embeddings, both heads and
the autoencoder stay on the device that the model runs on.

A model that is quantised also starts this way: each layer is loaded just before it is quantised,
so at most one layer is in full precision.
"""

from __future__ import annotations

import torch
from accelerate.hooks import AlignDevicesHook, remove_hook_from_submodules
from torch import nn

from orthus_core.model.interleaved import InterleavedModel

LAYERS = "model.layers"
# accelerate's name for "in its file".
IN_ITS_FILE = "disk"


def layers_in_their_files(skeleton: InterleavedModel, device: torch.device) -> dict[str, str]:
    """The location of each part of a model, as a device map for transformers.

    Args:
        skeleton: The model without memory for its weights.
        device: Device for everything except the layers, which are loaded there one by one.
    """
    parts = [name for name, _ in skeleton.named_children() if name != "model"]
    parts += [f"model.{name}" for name, _ in skeleton.model.named_children()]
    return {name: IN_ITS_FILE if name == LAYERS else str(device) for name in parts}


def bring_in(layer: nn.Module) -> None:
    """Load the weights of one layer into memory permanently."""
    for module in layer.modules():
        hook = getattr(module, "_hf_hook", None)
        if isinstance(hook, AlignDevicesHook) and hook.offload and hook.weights_map is not None:
            for name, _ in list(module.named_parameters(recurse=False)):
                weight = hook.weights_map[name]
                module._parameters[name] = nn.Parameter(weight, requires_grad=False)
    _without_hooks(layer)


def is_all_here(model: InterleavedModel, device: torch.device) -> None:
    """Mark a model whose layers have all been loaded as no longer offloaded."""
    _without_hooks(model)
    # The engine reads this attribute to find out whether parts of the model are elsewhere.
    setattr(model, "hf_device_map", {"": str(device)})  # noqa: B010, nn.Module's is for tensors


def _without_hooks(parent: nn.Module) -> None:
    remove_hook_from_submodules(parent)
    for module in parent.modules():
        # accelerate stores each module's bound method in the module; this reference cycle keeps
        # unused weights alive until garbage collection.
        module.__dict__.pop("forward", None)
