"""The backbone's weights in 8 or 4 bits, for machines with little memory.

Only weights are quantised, in groups along a row that share one scale (2210.17323 and 2306.00978
measure such groups). The backbone of a 7B takes 6.7 GB with 8 bits and 3.4 GB with 4, instead of
13.0 GB. Embeddings, both heads and the autoencoder are not quantised: they are small, and the
quality of an image depends on them.

On a CPU in bf16, torch has kernels that multiply by quantised weights directly (`KernelLinear`).
They also save time when few rows are drawn at once. Elsewhere each layer's weights are restored in
the model's own precision when they are used (`QuantisedLinear`): that saves memory, not time.

Legend: O outputs and I inputs of a layer, G groups of a row, W weights of a group, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.errors import CheckpointError
from orthus_core.model.interleaved import InterleavedModel

# Number of weights that share a scale. Smaller groups are more precise, but need more scales: at
# 64, scales cost a quarter of a bit a weight.
GROUP = 64
# Group widths that the 4-bit kernel takes, the best first, and the number of outputs in its block.
KERNEL_GROUPS, KERNEL_BLOCK = (64, 32), 16
# From this many rows on, it is faster to restore 8-bit weights and multiply as usual.
MANY_ROWS = 32


class QuantisedLinear(nn.Module):
    """A linear layer with weights q * scale, where q are integers.

    Args:
        layer: Layer to replace; its bias is kept.
        bits: Bits of each integer: 8, or 4, stored two in a byte.
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
        """The restored weights: [O, I]."""
        whole_OGW = unpacked(self.whole) if self.bits == 4 else self.whole
        return (whole_OGW * self.scale).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class KernelLinear(nn.Module):
    """A linear layer on a CPU in bf16 that uses torch's kernels for quantised weights.

    With 8 bits a whole row shares a scale, since the kernel has no groups.

    Args:
        layer: Layer to replace; `has_kernel` is true for it.
        bits: Bits of each integer: 8 or 4.
    """

    def __init__(self, layer: nn.Linear, bits: Literal[4, 8]) -> None:
        super().__init__()
        self.bits, inputs = bits, layer.in_features
        self.group = inputs if bits == 8 else _kernel_group(inputs)
        whole_OGW, scale_OG1 = quantised(layer.weight.detach(), bits, self.group)
        whole_OI, scale_OG = whole_OGW.flatten(1), scale_OG1.flatten(1).to(layer.weight.dtype)
        self.whole: Tensor
        self.scale: Tensor
        if bits == 8:
            self.register_buffer("whole", whole_OI)
            self.register_buffer("scale", scale_OG.flatten())
        else:
            # Integers from 0 to 15. Each scale has an offset beside it, which is 0 here.
            levels_OI = whole_OI.int() + 8
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels_OI, 1)
            scale_GO = scale_OG.t()
            self.register_buffer("whole", packed)
            self.register_buffer("scale", torch.stack([scale_GO, 0 * scale_GO], -1).contiguous())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        x_RI = x.reshape(-1, x.shape[-1])
        y = self._product(x_RI).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def _product(self, x_RI: Tensor) -> Tensor:
        if self.bits == 4:
            return torch.ops.aten._weight_int4pack_mm_for_cpu(
                x_RI, self.whole, self.group, self.scale
            )
        if len(x_RI) < MANY_ROWS:
            return torch.ops.aten._weight_int8pack_mm(x_RI, self.whole, self.scale)
        return F.linear(x_RI, self.whole.to(x_RI.dtype)) * self.scale


def has_kernel(layer: nn.Linear, bits: int) -> bool:
    """Whether torch has a kernel for this layer's weights with this number of bits."""
    weight_OI = layer.weight
    if weight_OI.device.type != "cpu" or weight_OI.dtype != torch.bfloat16:
        return False
    # In fp32 the same kernels take two to seven times as long as unquantised weights.
    names = {
        8: ("_weight_int8pack_mm",),
        4: ("_weight_int4pack_mm_for_cpu", "_convert_weight_to_int4pack_for_cpu"),
    }[bits]
    fits = layer.out_features % KERNEL_BLOCK == 0 and _kernel_group(layer.in_features) > 0
    return fits and all(hasattr(torch.ops.aten, name) for name in names)


def _kernel_group(inputs: int) -> int:
    """Group width of the 4-bit kernel for rows of this length; 0 when no width fits."""
    return next((width for width in KERNEL_GROUPS if inputs % width == 0), 0)


def quantised(weight_OI: Tensor, bits: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Integers [O, G, W] and scales fp32 [O, G, 1] whose product is nearest to the weights.

    Args:
        weight_OI: Weights to quantise.
        bits: Bits of each integer.
        width: W, the group width; by default `GROUP`, or the row when it is no multiple of `GROUP`.
    """
    outputs, inputs = weight_OI.shape
    width = width or (GROUP if inputs % GROUP == 0 else inputs)
    weight_OGW = weight_OI.float().view(outputs, inputs // width, width)
    largest = 2 ** (bits - 1) - 1
    scale_OG1 = weight_OGW.abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest
    return (weight_OGW / scale_OG1).round().to(torch.int8), scale_OG1


def packed(whole_OGW: Tensor) -> Tensor:
    """Integers from -8 to 7, packed two in a byte: uint8 [O, G, W / 2]."""
    low, high = (whole_OGW + 8).to(torch.uint8).chunk(2, dim=-1)
    return low | high << 4


def unpacked(bytes_OGH: Tensor) -> Tensor:
    """The integers that `packed` stored: int8 [O, G, W]."""
    return torch.cat([bytes_OGH & 15, bytes_OGH >> 4], dim=-1).to(torch.int8) - 8


def quantise(
    model: InterleavedModel,
    bits: Literal[4, 8],
    *,
    bring: Callable[[nn.Module], None] | None = None,
) -> None:
    """Quantises the layers of a model's backbone in place, one after another.

    The model can then draw and write, but it can neither be trained nor saved.

    Args:
        model: Model to quantise.
        bits: Bits of each weight.
        bring: Loads a layer's weights into memory, just before the layer is quantised.

    Raises: CheckpointError when the model is quantised already.
    """
    layers = model.model.layers
    if any(isinstance(module, (QuantisedLinear, KernelLinear)) for module in layers.modules()):
        raise CheckpointError(
            "the model is quantised already",
            where="quantise",
            hint="open it again to quantise it otherwise",
        )
    for layer in layers:
        if bring is not None:
            bring(layer)
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    kind = KernelLinear if has_kernel(child, bits) else QuantisedLinear
                    setattr(parent, name, kind(child, bits))
