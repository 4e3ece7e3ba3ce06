"""The linear code of pictures: the principal components of their patches.

A linear encoder computes it (`linear_encoder.py`). It is also the floor that a trained autoencoder
has to pass: one that reconstructs worse has failed to optimise (2410.10733).

Legend: M images, P patches an image, C feature channels, D values of a patch, s its side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Eigenvalues below this, of pixels in [-1, 1], belong to directions in which patches do not vary.
SMALLEST_VARIANCE = 1e-6


class LinearCode(nn.Module):
    """Principal components of square patches, white unless `set` says otherwise.

    Args:
        channels: Components C that are kept, at most the D = 3 s^2 values of a patch.
        patch: Side s of a patch in pixels.
        stored: Whether states of a training hold it.
    """

    mean_D: Tensor
    basis_DC: Tensor  # orthonormal columns
    scale_C: Tensor  # what components are divided by

    def __init__(self, channels: int, patch: int, *, stored: bool = True) -> None:
        super().__init__()
        values = 3 * patch * patch
        assert channels <= values, "more components than values"
        self.patch = patch
        self.register_buffer("mean_D", torch.zeros(values), persistent=stored)
        self.register_buffer("basis_DC", torch.eye(values, channels), persistent=stored)
        self.register_buffer("scale_C", torch.ones(channels), persistent=stored)

    @torch.no_grad()
    def fit(self, pixels_M3HW: Tensor) -> None:
        """Set the components to those of these pictures' patches."""
        mean_D, covariance_DD = patch_moments(pixels_M3HW, self.patch)
        variance_D, basis_DD = torch.linalg.eigh(covariance_DD)  # in ascending order
        channels = len(self.scale_C)
        self.set(mean_D, basis_DD[:, -channels:].flip(1), variance_D[-channels:].flip(0))

    def set(
        self, mean_D: Tensor, basis_DC: Tensor, variance_C: Tensor, whitening: float = 1.0
    ) -> None:
        """Set the components.

        Args:
            mean_D: Mean of patches.
            basis_DC: Orthonormal columns.
            variance_C: Variance of each component.
            whitening: variance^(1 - whitening) is left of each, times a number that makes their
                mean one.
        """
        variance_C = variance_C.clamp_min(SMALLEST_VARIANCE)
        left_C = variance_C ** (1 - whitening)
        self.mean_D.copy_(mean_D)
        self.basis_DC.copy_(basis_DC)
        self.scale_C.copy_((variance_C / left_C * left_C.mean()).sqrt())

    def features(self, pixels_M3HW: Tensor) -> Tensor:
        """Scaled components, patches in reading order: fp32 [M, P, C]."""
        with torch.autocast(pixels_M3HW.device.type, enabled=False):  # bf16 loses the small ones
            centred_MPD = patches(pixels_M3HW.float(), self.patch) - self.mean_D
            return centred_MPD @ self.basis_DC / self.scale_C

    def pixels(self, features_MPC: Tensor) -> Tensor:
        """The pictures that these components describe, squares: [M, 3, H, W]."""
        patches_MPD = (features_MPC * self.scale_C) @ self.basis_DC.T + self.mean_D
        side = round(patches_MPD.shape[1] ** 0.5) * self.patch
        return F.fold(patches_MPD.transpose(1, 2), (side, side), self.patch, stride=self.patch)


def patches(pixels_M3HW: Tensor, side: int) -> Tensor:
    """Square patches in reading order: [M, P, D]."""
    return F.unfold(pixels_M3HW, side, stride=side).transpose(1, 2)


def patch_moments(pixels_M3HW: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the pictures' patches: fp64 [D] and [D, D]."""
    patches_ND = patches(pixels_M3HW, side).flatten(0, 1).double()
    mean_D = patches_ND.mean(0)
    patches_ND = patches_ND - mean_D
    return mean_D, patches_ND.T @ patches_ND / len(patches_ND)


@torch.no_grad()
def linear_quality(code: LinearCode, pixels_M3HW: Tensor) -> float:
    """Mean PSNR in decibels of pictures that the linear code reconstructs; pixels in [-1, 1]."""
    # Imported here, because trainings take features from the code and measure nothing with it.
    from orthus_core.evaluation.reconstruction import psnr

    again_M3HW = code.pixels(code.features(pixels_M3HW)).clamp(-1, 1)
    return float(psnr(again_M3HW, pixels_M3HW, data_range=2.0).mean())
