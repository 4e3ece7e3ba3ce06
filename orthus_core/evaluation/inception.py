"""Inception-2015, the network of FID and of the Inception score, from a file of its weights.

The layers are those of 1512.00567 as the network of the FID paper has them: its average pooling
leaves the border out, and its last block pools by the maximum. The weights are TensorFlow's of
2015-12-05 as published for PyTorch with the FID port (pt_inception-2015-12-05-6726825d.pth); their
names are kept, because blocks of the same shape could not be told apart by order.

Legend: M pictures, H W pixels, c channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.errors import OrthusError
from orthus_core.evaluation.fid import INCEPTION_SOURCE, INCEPTION_WEIGHTS

SIZE = 299
FEATURES, CLASSES = 2048, 1008
BATCH_NORM_EPS = 1e-3


class ConvNorm(nn.Module):
    """A convolution without bias, BatchNorm and ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=BATCH_NORM_EPS)

    def forward(self, x_Mchw: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x_Mchw)))


def mean_pool(x_Mchw: Tensor) -> Tensor:
    """Means of 3 x 3 neighbours, without those beyond the border."""
    return F.avg_pool2d(x_Mchw, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """Branches of 1x1, 5x5 and twice 3x3 convolutions, on the grid of 35 x 35."""

    def __init__(self, before: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(before, 64)
        self.branch5x5_1, self.branch5x5_2 = ConvNorm(before, 48), ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(before, 64)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(before, pooled)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        single = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(mean_pool(x))], 1)


class BlockB(nn.Module):
    """From the grid of 35 x 35 to that of 17 x 17."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(before, 384, 3, 2)
        self.branch3x3dbl_1 = ConvNorm(before, 64)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """Branches of 7x7 convolutions as rows and columns, on the grid of 17 x 17."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        row: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
        column: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvNorm(768, 192)
        self.branch7x7_1 = ConvNorm(768, wide)
        self.branch7x7_2 = ConvNorm(wide, wide, **row)
        self.branch7x7_3 = ConvNorm(wide, 192, **column)
        self.branch7x7dbl_1 = ConvNorm(768, wide)
        self.branch7x7dbl_2 = ConvNorm(wide, wide, **column)
        self.branch7x7dbl_3 = ConvNorm(wide, wide, **row)
        self.branch7x7dbl_4 = ConvNorm(wide, wide, **column)
        self.branch7x7dbl_5 = ConvNorm(wide, 192, **row)
        self.branch_pool = ConvNorm(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(mean_pool(x))], 1)


class BlockD(nn.Module):
    """From the grid of 17 x 17 to that of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = ConvNorm(768, 192), ConvNorm(192, 320, 3, 2)
        self.branch7x7x3_1 = ConvNorm(768, 192)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_2(self.branch7x7x3_1(x))
        long = self.branch7x7x3_4(self.branch7x7x3_3(long))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """Branches that end in rows and columns side by side, on the grid of 8 x 8."""

    def __init__(self, before: int, *, pools_maximum: bool) -> None:
        super().__init__()
        row: dict[str, Any] = {"kernel": (1, 3), "padding": (0, 1)}
        column: dict[str, Any] = {"kernel": (3, 1), "padding": (1, 0)}
        self.pools_maximum = pools_maximum
        self.branch1x1 = ConvNorm(before, 320)
        self.branch3x3_1 = ConvNorm(before, 384)
        self.branch3x3_2a, self.branch3x3_2b = (
            ConvNorm(384, 384, **row),
            ConvNorm(384, 384, **column),
        )
        self.branch3x3dbl_1 = ConvNorm(before, 448)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNorm(384, 384, **row)
        self.branch3x3dbl_3b = ConvNorm(384, 384, **column)
        self.branch_pool = ConvNorm(before, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.pools_maximum else mean_pool(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([*parts, self.branch_pool(pooled)], 1)


class Inception2015(nn.Module):
    """The whole network; submodules have the names of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c = BlockA(192, 32), BlockA(256, 64)
        self.Mixed_5d, self.Mixed_6a = BlockA(288, 64), BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d = BlockC(128), BlockC(160), BlockC(160)
        self.Mixed_6e, self.Mixed_7a = BlockC(192), BlockD()
        self.Mixed_7b = BlockE(1280, pools_maximum=False)
        self.Mixed_7c = BlockE(2048, pools_maximum=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, pixels_M3HW: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features [M, 2048], and logits [M, 1008] without their bias, as the Inception
        score takes them.

        Args:
            pixels_M3HW: Pictures of 299 x 299 in -1..1.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pixels_M3HW)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        features_MD = x.mean((2, 3))
        return features_MD, features_MD @ self.fc.weight.T


def inception(weights: Path) -> Inception2015:
    """The network with its weights, in evaluation mode.

    Raises:
        OrthusError: When the file is missing, or holds something else.
    """
    file = f"{INCEPTION_WEIGHTS} ({INCEPTION_SOURCE})"
    hint = f"download {file} and give its path with --inception-weights"
    if not weights.is_file():
        raise OrthusError(
            "the weights of Inception-2015 are missing", where=str(weights), hint=hint
        )
    network = Inception2015()
    counter = ".num_batches_tracked"
    try:
        loaded = torch.load(weights, "cpu", weights_only=True)
        state = {name: value for name, value in loaded.items() if not name.endswith(counter)}
        state |= {k: v for k, v in network.state_dict().items() if k.endswith(counter)}
        network.load_state_dict(state)
    except Exception as error:  # torch.load raises anything on a file that is none of its own
        raise OrthusError(
            "these are no weights of Inception-2015", where=str(weights), hint=hint
        ) from error
    return network.eval().requires_grad_(False)
