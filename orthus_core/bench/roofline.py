"""The least time a picture could take if reading its weights were all there is to it.

Each pass of the backbone reads all its layers, each denoising step the head's sequential part, each
patch its modulations, once for however many pictures are drawn side by side; keys and values are
each picture's own. A processor whose cache holds the head can be faster than this.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.memory_estimate import cache_bytes


class Traffic(NamedTuple):
    """Bytes that one patch reads.

    shared: Once for the batch.
    own: For each picture in it.
    """

    shared: float
    own: float

    def seconds_a_picture(self, patches: int, batch: int, bandwidth: float) -> float:
        """At so many bytes a second."""
        return patches * (self.shared / batch + self.own) / bandwidth


def backbone_traffic(model: OrthusForConditionalGeneration, streams: int, context: int) -> Traffic:
    """Of a pass over one new token a stream, with `context` tokens read before."""
    cache = streams * cache_bytes(model.config, context, model.dtype.itemsize)
    return Traffic(_bytes(model.model.layers), cache)


def head_traffic(head: DiffusionHead, steps: int) -> Traffic:
    """Of a patch."""
    once = [
        head.cond_embed,
        *(owner.adaLN_modulation for owner in (*head.blocks, head.final_layer)),
    ]
    sequential = [head.input_proj, head.final_layer.linear, *(block.mlp for block in head.blocks)]
    return Traffic(sum(map(_bytes, once)) + steps * sum(map(_bytes, sequential)), 0)


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
