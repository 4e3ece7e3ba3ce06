"""Memory: how much is free, how much a picture takes while it is drawn, and what running out of it
looks like.

Estimates are for choosing how many pictures to draw at once. They are generous, and a wrong one
costs a second try with half as many (`generate.py`), nothing else.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import nn

from orthus_core.model.config import InterleavedConfig
from orthus_core.model.interleaved import InterleavedModel

# What is left to others, and to what no estimate sees.
LEFT_FREE = 0.2
# The decoder holds about so many maps of its first width at full size at once.
DECODER_MAPS = 4
# Vectors of a token's own, in a layer, besides the wide ones of its MLP.
VECTORS_OF_A_TOKEN = 8


class Need(NamedTuple):
    """Bytes that drawing takes besides the weights.

    fixed: However many rows there are.
    row: Each row's.
    """

    fixed: int
    row: int

    def rows_in(self, free: int) -> int:
        """How many rows fit into so many free bytes; one at least, for it may fit after all."""
        return max(1, int((free * (1 - LEFT_FREE) - self.fixed) // self.row))


def cache_bytes(config: InterleavedConfig, slots: int, itemsize: int) -> int:
    """Keys and values of one stream of so many slots."""
    channels = config.hidden_size // config.num_attention_heads
    heads = cast(int, config.num_key_value_heads)
    return 2 * config.num_hidden_layers * heads * channels * slots * itemsize


def decoder_bytes(config: InterleavedConfig, itemsize: int) -> int:
    """Activations while one picture becomes pixels."""
    vq = config.vq_config
    pixels = vq.downsampling**2 * config.patches
    return DECODER_MAPS * vq.base_channels * pixels * itemsize


def need(
    model: InterleavedModel, *, slots: int, branches: int, tokens_at_once: int, decoded_at_once: int
) -> Need:
    """What rows take that are drawn side by side.

    Args:
        slots: Of the longest stream.
        streams: Of a row.
        tokens_at_once: Of prompts, in one pass.
        decoded_at_once: Pictures.
    """
    config, itemsize = model.config, model.dtype.itemsize
    wide = 3 * config.intermediate_size + VECTORS_OF_A_TOKEN * config.hidden_size
    head = getattr(model, "mlp_head", None)
    # All that a head makes of one stream for all steps is bounded by its plan; its weights are not.
    of_head = _bytes_of(head) if head is not None else 0
    decoder_itemsize = model.model.vqmodel.post_quant_conv.weight.dtype.itemsize
    return Need(
        fixed=tokens_at_once * wide * itemsize
        + of_head
        + decoded_at_once * decoder_bytes(config, decoder_itemsize),
        row=branches * cache_bytes(config, slots, itemsize) + 4 * config.vocab_size,
    )


def _bytes_of(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())
