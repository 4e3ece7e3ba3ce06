"""Features are the same to the bit in whatever company they are computed, and never another
autoencoder's.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from orthus_core import device
from orthus_core.data.pictures import FilePicture
from orthus_core.data.pixels import pack_pixels
from orthus_core.device import has_bf16
from orthus_core.errors import OrthusError
from orthus_core.train.autoencoder import fresh_autoencoder
from orthus_core.train.features import TOGETHER, always_together, feature_cache, save_on_exit
from orthus_core.train.linear_encoder import linear_encoder
from tests.conftest import TINY_AUTOENCODER, make_tiny_model
from tests.core.toy_data import pictures_with_words


@torch.no_grad()
def test_a_picture_has_the_same_features_in_any_company():
    vq = make_tiny_model().model.vqmodel
    encode = always_together(vq.features)
    pixels = torch.rand(2 * TOGETHER + 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = encode(pixels)
    assert len(whole) == len(pixels)
    torch.testing.assert_close(whole, vq.features(pixels), rtol=1e-4, atol=1e-5)
    for some in (slice(0, 1), slice(3, 20), slice(30, 33), slice(4, 37)):
        assert torch.equal(encode(pixels[some]), whole[some])


def test_every_batch_is_of_one_size():
    sizes = []

    def encode(pixels):
        sizes.append(len(pixels))
        return pixels

    for count in (1, TOGETHER, TOGETHER + 1):
        always_together(encode)(torch.zeros(count, 3, 4, 4))
    assert sizes == [TOGETHER] * 4


def test_features_of_another_autoencoder_are_not_used(tmp_path):
    folder = pictures_with_words(tmp_path / "pictures", 3)
    pictures = [FilePicture(path) for path in sorted(folder.glob("*.png"))]
    one, other = make_tiny_model(seed=0).model.vqmodel, make_tiny_model(seed=1).model.vqmodel

    def features(vq):
        cache = feature_cache(vq, vq.features, tmp_path / "training")
        found = len(cache)
        with save_on_exit(cache):
            return cache(pictures), found

    first, found = features(one)
    assert found == 0
    again, found = features(one)
    assert found == 3 and torch.equal(again, first)
    others, found = features(other)
    assert found == 0 and not torch.allclose(others, first)
    assert len(list((tmp_path / "training").glob("features-*"))) == 2

    # A trained decoder changes no feature, a trained encoder does.
    with torch.no_grad():
        one.decoder.conv_out.weight.add_(1)
        assert features(one)[1] == 3
        one.encoder.conv_in.weight.add_(1e-3)
        assert features(one)[1] == 0


@torch.no_grad()
def test_features_in_sixteen_bits_are_near_and_kept_apart(tmp_path, monkeypatch):
    folder = pictures_with_words(tmp_path / "pictures", 3)
    pictures = [FilePicture(path) for path in sorted(folder.glob("*.png"))]
    vq = make_tiny_model().model.vqmodel

    def features(**options):
        cache = feature_cache(vq, vq.features, tmp_path / "training", **options)
        found = len(cache)
        with save_on_exit(cache):
            return cache(pictures), found

    exact, _ = features()
    monkeypatch.setattr("orthus_core.train.features.has_bf16", lambda place: True)
    rough, found = features(sixteen_bit=True)
    assert found == 0 and rough.dtype == torch.float32
    # Weights at random magnify rounding; a trained encoder's features move by half a percent.
    assert 0 < (rough - exact).norm() / exact.norm() < 0.15
    assert features()[1] == features(sixteen_bit=True)[1] == 3

    # Where bf16 is slow they are only kept in 16 bits.
    monkeypatch.setattr("orthus_core.train.features.has_bf16", lambda place: False)
    assert torch.equal(features(sixteen_bit=True)[0], exact.bfloat16().float())


@torch.no_grad()
def test_a_linear_encoders_features_and_codes_come_from_one_product(tmp_path, monkeypatch):
    folder = pictures_with_words(tmp_path / "pictures", 3)
    pictures = [FilePicture(path) for path in sorted(folder.glob("*.png"))]
    shape = replace(TINY_AUTOENCODER, encoder="linear", norm_num_groups=8)
    torch.manual_seed(0)
    vq = fresh_autoencoder(shape)
    linear_encoder(vq, torch.rand(300, 3, 16, 16) * 2 - 1, shape.whitening)
    pixels = pack_pixels([picture.load(16) for picture in pictures])
    wanted, codes = vq.features(pixels), vq.codes(pixels)
    caches = [
        feature_cache(vq, encode, tmp_path / "training", kind=kind)
        for encode, kind in ((vq.features, "features"), (vq.codes, "codes"))
    ]
    monkeypatch.setattr(vq.encoder, "forward", None)  # cannot be called
    found, found_codes = (cache(pictures) for cache in caches)
    assert (found - wanted).square().mean() < 1e-3 * wanted.var()
    assert (found_codes == codes).float().mean() > 0.9
    assert all("-linear-" in cache.path.name for cache in caches)


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "ratio", "expected"),
    [
        (True, True, 0.6, True),
        (False, True, 2.1, True),
        (False, True, 0.6, False),
        (False, True, 1.1, False),
        (False, False, 2.1, False),
    ],
)
def test_a_processor_trains_in_sixteen_bits_where_its_products_are_faster(
    amx, avx512_bf16, ratio, expected, monkeypatch
):
    """With AVX-512 alone, some processors are faster in bf16, and some in fp32."""
    monkeypatch.delenv("ORTHUS_CPU_BF16")
    says = {"_is_amx_tile_supported": amx, "_is_avx512_bf16_supported": avx512_bf16}
    for name, answer in says.items():
        monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)
    monkeypatch.setattr("orthus_core.device.products_in_bf16", lambda: ratio)
    assert has_bf16(torch.device("cpu")) == expected
    assert not has_bf16(torch.device("mps"))
    for name in says:
        monkeypatch.delattr(torch.cpu, name)
    assert not has_bf16(torch.device("cpu")), "an earlier torch cannot tell"
    for chosen in ("1", "0"):
        monkeypatch.setenv("ORTHUS_CPU_BF16", chosen)
        assert has_bf16(torch.device("cpu")) == (chosen == "1")
    monkeypatch.setenv("ORTHUS_CPU_BF16", "yes")
    with pytest.raises(OrthusError, match="'yes'"):
        has_bf16(torch.device("cpu"))


def test_products_are_timed_in_both_precisions_and_the_fastest_of_each_counts(monkeypatch):
    """One slow product, of a machine that is busy for a moment, decides nothing."""
    seconds = {torch.float32: [9.0, 4.0, 5.0], torch.bfloat16: [8.0, 7.0, 2.0]}
    clock, waiting = [0.0], {dtype: iter(taken) for dtype, taken in seconds.items()}

    def product(x, y):
        clock[0] += next(waiting[x.dtype])

    monkeypatch.setattr("orthus_core.device.PRODUCTS", 3)
    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr("orthus_core.device.time.perf_counter", lambda: clock[0])
    assert device.products_in_bf16.__wrapped__() == pytest.approx(2.0)
