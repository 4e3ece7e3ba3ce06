"""How near a picture is to the true one: PSNR and SSIM.

Legend: M pictures, c colours, H W pixels. `data_range` is the distance between the blackest and the
whitest value a pixel can have: 255 for bytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural
# similarity. IEEE Transactions on Image Processing 13 (4), 2004, section III-C.
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def psnr(pictures_McHW: Tensor, truth_McHW: Tensor, *, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio in decibels, 10 log10(range^2 / MSE) over all pixels and colours:
    fp64 [M], infinite for equal pictures.
    """
    error_McHW = pictures_McHW.double() - truth_McHW.double()
    return 10 * torch.log10(data_range**2 / error_McHW.square().flatten(1).mean(1))


def ssim(pictures_McHW: Tensor, truth_McHW: Tensor, *, data_range: float) -> Tensor:
    """Structural similarity by Wang et al.: fp64 [M], 1 for equal pictures.

    Means, variances and the covariance are weighed by an 11x11 Gaussian of sigma 1.5, only where
    the whole window lies inside the picture; the map is averaged over positions and colours.
    """
    side = min(pictures_McHW.shape[-2:])
    assert side >= WINDOW, f"a picture of {side} pixels has no place for the window"
    x, y = pictures_McHW.double(), truth_McHW.double()
    mean_x, mean_y = window_mean(x), window_mean(y)
    variance_x = window_mean(x * x) - mean_x**2
    variance_y = window_mean(y * y) - mean_y**2
    covariance = window_mean(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def window_mean(x_McHW: Tensor) -> Tensor:
    """Gaussian mean around each pixel whose window is whole: [M, c, H - 10, W - 10]."""
    offsets = torch.arange(WINDOW, dtype=x_McHW.dtype, device=x_McHW.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights = weights / weights.sum()
    colours = x_McHW.shape[1]
    across = weights.view(1, 1, 1, -1).expand(colours, -1, -1, -1)
    down = weights.view(1, 1, -1, 1).expand(colours, -1, -1, -1)
    return F.conv2d(F.conv2d(x_McHW, across, groups=colours), down, groups=colours)
