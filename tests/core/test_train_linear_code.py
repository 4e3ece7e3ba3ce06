"""The linear code of patches, the floor of an autoencoder."""

from __future__ import annotations

import pytest
import torch

from orthus_core.train.linear_code import LinearCode, linear_quality


def smooth(count: int) -> torch.Tensor:
    """Pictures whose neighbouring pixels are alike: [count, 3, 8, 8]."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1)


def test_with_all_components_nothing_is_lost():
    code, pixels = LinearCode(48, patch=4), smooth(40)
    code.fit(pixels)
    assert torch.allclose(code.pixels(code.features(pixels)), pixels, atol=1e-4)
    features_MPC = code.features(pixels)
    first_patch = (pixels[:, :, :4, 4:].flatten(1) - code.mean_D) @ code.basis_DC / code.scale_C
    assert torch.allclose(features_MPC[:, 1], first_patch, atol=1e-5)  # reading order


def test_components_are_white_and_the_best_of_their_number():
    code, pixels = LinearCode(6, patch=4), smooth(200)
    code.fit(pixels)
    features_NC = code.features(pixels).flatten(0, 1)
    covariance_CC = features_NC.T @ features_NC / len(features_NC)
    assert torch.allclose(covariance_CC, torch.eye(6), atol=1e-3)
    assert features_NC.mean(0).abs().max() < 1e-4
    patches_ND = torch.nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2).flatten(0, 1)
    lost = torch.linalg.svdvals(patches_ND - patches_ND.mean(0))[6:].square().sum()
    error = (code.pixels(code.features(pixels)) - pixels).square().sum()
    assert torch.isclose(error, lost, rtol=1e-3)


def test_components_are_computed_in_full_precision_among_bf16_products():
    code, pixels = LinearCode(48, patch=4), smooth(40)
    code.fit(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(code.features(pixels), code.features(pixels).float())
        assert code.features(pixels).dtype == torch.float32
        inside = code.features(pixels)
    assert torch.equal(inside, code.features(pixels))


def test_the_quality_is_in_decibels_of_pixels():
    code, pixels = LinearCode(3, patch=4), smooth(40).clamp(-1, 1)
    code.fit(pixels)
    again = code.pixels(code.features(pixels)).clamp(-1, 1)
    per_picture = (again - pixels).square().flatten(1).mean(1)
    assert linear_quality(code, pixels) == pytest.approx(
        float((10 * torch.log10(4 / per_picture)).mean()), abs=1e-3
    )
