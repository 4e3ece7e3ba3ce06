"""The minimum time of a picture if reading the weights were the only cost.

Each pass of the backbone reads all its layers, each denoising step reads the head's sequential
part, and each patch its modulations, once for the whole batch; keys and values are read for each
picture. A processor whose cache holds the head can be faster than this.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.memory_estimate import cache_bytes


class Traffic(NamedTuple):
    """Bytes that one patch reads.

    Attributes:
        shared: Bytes read once for the batch.
        own: Bytes read for each picture of the batch.
    """

    shared: float
    own: float

    def seconds_a_picture(self, patches: int, batch: int, bandwidth: float) -> float:
        """Seconds per picture at a bandwidth in bytes per second."""
        return patches * (self.shared / batch + self.own) / bandwidth


def backbone_traffic(model: OrthusForConditionalGeneration, streams: int, context: int) -> Traffic:
    """Traffic of a pass over one new token per stream, after `context` tokens."""
    cache = streams * cache_bytes(model.config, context, model.dtype.itemsize)
    return Traffic(_bytes(model.model.layers), cache)


def head_traffic(head: DiffusionHead, steps: int) -> Traffic:
    """Traffic of the head for one patch."""
    once = [
        head.cond_embed,
        *(owner.adaLN_modulation for owner in (*head.blocks, head.final_layer)),
    ]
    sequential = [head.input_proj, head.final_layer.linear, *(block.mlp for block in head.blocks)]
    return Traffic(sum(map(_bytes, once)) + steps * sum(map(_bytes, sequential)), 0)


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
