"""The backbone's weights in 8 or 4 bits, for machines whose memory is small.

Weights alone are quantised, in groups along a row that share one scale, and each layer is put
together again in the model's own precision when it is used (2210.17323 and 2306.00978 measure such
groups). A 7B's backbone takes 6.7 GB with 8 bits and 3.4 with 4, instead of 13.0. This saves
memory, not time. Embeddings, both heads and the autoencoder stay as they are: they are small, and a
picture hangs on them.

Legend: O outputs and I inputs of a layer, G groups of a row, W weights of a group.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.errors import CheckpointError
from orthus_core.model.interleaved import InterleavedModel

# Weights that share a scale. Fewer would be finer, and their scales weigh more: at 64, a quarter of
# a bit a weight.
GROUP = 64


class QuantisedLinear(nn.Module):
    """A linear layer with weights q * scale, q whole numbers.

    Args:
        layer: The layer it stands for; its bias is kept.
        bits: 8, or 4, which lie two in a byte.
    """

    def __init__(self, layer: nn.Linear, bits: Literal[4, 8]) -> None:
        super().__init__()
        self.bits = bits
        whole_OGW, scale_OG1 = quantised(layer.weight.detach(), bits)
        self.whole: Tensor
        self.scale: Tensor
        self.register_buffer("whole", packed(whole_OGW) if bits == 4 else whole_OGW)
        self.register_buffer("scale", scale_OG1.to(layer.weight.dtype))
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:
        """The weights as they are used: [O, I]."""
        whole_OGW = unpacked(self.whole) if self.bits == 4 else self.whole
        return (whole_OGW * self.scale).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def quantised(weight_OI: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers [O, G, W] and scales fp32 [O, G, 1] whose product is nearest to the weights.

    A group spans the whole row where rows are no multiple of `GROUP`.
    """
    outputs, inputs = weight_OI.shape
    width = GROUP if inputs % GROUP == 0 else inputs
    weight_OGW = weight_OI.float().view(outputs, inputs // width, width)
    largest = 2 ** (bits - 1) - 1
    scale_OG1 = weight_OGW.abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest
    return (weight_OGW / scale_OG1).round().to(torch.int8), scale_OG1


def packed(whole_OGW: Tensor) -> Tensor:
    """Numbers from -8 to 7, two in a byte: uint8 [O, G, W / 2]."""
    low, high = (whole_OGW + 8).to(torch.uint8).chunk(2, dim=-1)
    return low | high << 4


def unpacked(bytes_OGH: Tensor) -> Tensor:
    """`packed` undone: int8 [O, G, W]."""
    return torch.cat([bytes_OGH & 15, bytes_OGH >> 4], dim=-1).to(torch.int8) - 8


def quantise(model: InterleavedModel, bits: Literal[4, 8]) -> None:
    """Quantises the layers of a model's backbone where they stand, one after another.

    The model can then be drawn with, but neither trained nor saved.

    Raises: CheckpointError when it is quantised already.
    """
    layers = model.model.layers
    if any(isinstance(module, QuantisedLinear) for module in layers.modules()):
        raise CheckpointError(
            "the model is quantised already",
            where="quantise",
            hint="open it again to quantise it otherwise",
        )
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, QuantisedLinear(child, bits))
