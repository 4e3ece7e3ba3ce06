"""PSNR and SSIM against hand values and against the definitions, written out slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from orthus_core.data.pixels import pack_pixels
from orthus_core.evaluation.reconstruction import (
    psnr,
    reconstruct,
    ssim,
    to_byte_levels,
    window_mean,
)
from tests.conftest import make_tiny_model


def pictures(seed: int, count: int = 2, colours: int = 3, height: int = 19, width: int = 16):
    random = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(count, colours, height, width, generator=random)


def slow_ssim(x_HW: np.ndarray, y_HW: np.ndarray, data_range: float) -> float:
    """Wang et al. (2004), equations 13 to 16, one window at a time."""
    weights = np.array(
        [
            [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)]
            for i in range(11)
        ]
    )
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for row in range(x_HW.shape[0] - 10):
        for column in range(x_HW.shape[1] - 10):
            x = x_HW[row : row + 11, column : column + 11]
            y = y_HW[row : row + 11, column : column + 11]
            mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
            variance_x = (weights * (x - mean_x) ** 2).sum()
            variance_y = (weights * (y - mean_y) ** 2).sum()
            covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
            values.append(
                (2 * mean_x * mean_y + c1)
                * (2 * covariance + c2)
                / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
            )
    return float(np.mean(values))


def test_psnr_by_hand():
    truth = torch.zeros(2, 1, 4, 4)
    off_by_one, one_pixel_off = truth[:1] + 1, truth[1:].clone()
    one_pixel_off[0, 0, 1, 2] = 255.0
    found = psnr(torch.cat([off_by_one, one_pixel_off]), truth, data_range=255.0)
    assert found[0].item() == pytest.approx(48.1308, abs=1e-4)  # 20 log10(255)
    assert found[1].item() == pytest.approx(12.0412, abs=1e-4)  # 10 log10(16)


def test_psnr_of_equal_pictures_is_infinite_and_scale_cancels():
    one, other = pictures(0), pictures(1)
    assert psnr(one, one, data_range=255.0).isinf().all()
    torch.testing.assert_close(
        psnr(one, other, data_range=255.0), psnr(one / 255, other / 255, data_range=1.0)
    )


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_ssim_equals_the_definition_window_by_window(blur):
    truth, other = pictures(0), pictures(1)
    drawn = blur * truth + (1 - blur) * other
    slow = [
        np.mean([slow_ssim(x, y, 255.0) for x, y in zip(a, b, strict=True)])
        for a, b in zip(drawn.double().numpy(), truth.double().numpy(), strict=True)
    ]
    found = ssim(drawn, truth, data_range=255.0)
    np.testing.assert_allclose(found.numpy(), slow, rtol=0, atol=1e-12)


def test_ssim_of_plain_pictures_by_hand():
    dark, light = torch.full((1, 3, 12, 12), 50.0), torch.full((1, 3, 12, 12), 100.0)
    c1 = 2.55**2
    by_hand = (2 * 50 * 100 + c1) / (50**2 + 100**2 + c1)
    assert ssim(dark, light, data_range=255.0).item() == pytest.approx(by_hand, abs=1e-9)


def test_equal_pictures_have_an_ssim_of_one_and_order_does_not_matter():
    one, other = pictures(0), pictures(1)
    torch.testing.assert_close(ssim(one, one, data_range=255.0), torch.ones(2).double())
    torch.testing.assert_close(
        ssim(one, other, data_range=255.0), ssim(other, one, data_range=255.0)
    )
    assert (ssim(one, 255 - one, data_range=255.0) < 0).all()


def test_the_window_is_whole_everywhere():
    assert window_mean(torch.ones(1, 3, 11, 20)).shape == (1, 3, 1, 10)
    torch.testing.assert_close(window_mean(torch.ones(1, 2, 12, 12)), torch.ones(1, 2, 2, 2))
    with pytest.raises(AssertionError, match="10 pixels"):
        ssim(torch.ones(1, 3, 10, 64), torch.ones(1, 3, 10, 64), data_range=1.0)


def test_levels_are_the_bytes_a_picture_came_from():
    bytes_HW3 = np.arange(16 * 16 * 3, dtype=np.uint64).reshape(16, 16, 3).astype(np.uint8)
    found = to_byte_levels(pack_pixels([bytes_HW3]))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, bytes_HW3, atol=1e-4)
    assert to_byte_levels(torch.tensor([[[[-3.0, 3.0]]]])).tolist() == [[[[0.0, 255.0]]]]


@torch.no_grad()
def test_a_reconstruction_measures_codes_and_features_apart():
    vq = make_tiny_model().model.vqmodel
    pixels = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.9 - 1
    found = reconstruct(vq, pixels)
    for path, drawn in (
        (found.codes, vq.pixels_of_codes(vq.codes(pixels))),
        (found.features, vq.pixels(vq.features(pixels))),
    ):
        wanted = psnr(to_byte_levels(drawn), to_byte_levels(pixels), data_range=255.0).mean().item()
        assert path.psnr == pytest.approx(wanted, rel=1e-5)
        wanted = ssim(to_byte_levels(drawn), to_byte_levels(pixels), data_range=255.0).mean().item()
        assert path.ssim == pytest.approx(wanted, rel=1e-4)
    assert found.codes != found.features
    vq.quantize.embedding.weight.copy_(vq.features(pixels).flatten(0, 1)[:32])
    few = reconstruct(vq, pixels[:8])  # every feature is a code now
    assert few.codes.psnr == pytest.approx(few.features.psnr, rel=1e-5)
