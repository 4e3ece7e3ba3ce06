"""An encoder that computes a linear code of patches, written rather than trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from orthus_core.errors import RecipeError
from orthus_core.evaluation.reconstruction import psnr
from orthus_core.events import Note, StepDone
from orthus_core.losses.picture_loss import PictureLoss
from orthus_core.losses.quantisation import quantise
from orthus_core.recipe import PretrainRecipe, load
from orthus_core.recipe.training import AutoencoderLosses, LogRecipe
from orthus_core.train import autoencoder
from orthus_core.train.autoencoder import (
    DecoderObjective,
    DiscreteAutoencoderStage,
    fresh_autoencoder,
)
from orthus_core.train.features import linear_code_of
from orthus_core.train.flops import counter_of, vision_flops
from orthus_core.train.linear_code import LinearCode, linear_quality
from orthus_core.train.linear_encoder import linear_encoder
from orthus_core.train.loop import train
from orthus_core.train.state_saver import state_bytes
from tests.conftest import TINY_AUTOENCODER
from tests.core.toy_data import ToyPictures, pictures_with_words, tiny_pretrain

SAME_WIDTHS = replace(
    TINY_AUTOENCODER, encoder="linear", norm_num_groups=8, feature_noise=0.0, continuous_steps=0
)
# The last level is wider than the one before, so that a 1x1 convolution leads into it.
WIDER = replace(SAME_WIDTHS, channel_multiplier=(1, 1, 2), embed_dim=32, latent_channels=32)
SHAPES = pytest.mark.parametrize("shape", [SAME_WIDTHS, WIDER], ids=["same widths", "wider"])


def smooth(count: int, seed: int = 1) -> torch.Tensor:
    """Pictures whose neighbouring pixels are alike, with a mean: [count, 3, 16, 16]."""
    noise = torch.randn(count, 3, 22, 22, generator=torch.Generator().manual_seed(seed))
    return (3 * torch.nn.functional.avg_pool2d(noise, 7, stride=1) + 0.3).clamp(-1, 1)


def written(shape, whitening=0.5):
    torch.manual_seed(0)
    vq = fresh_autoencoder(shape)
    return vq, linear_encoder(vq, smooth(300), whitening)


@SHAPES
@torch.no_grad()
def test_the_encoder_gives_the_features_of_its_linear_code(shape):
    vq, code = written(shape)
    pixels = smooth(40, seed=2)
    features, wanted = vq.features(pixels), code.features(pixels)
    error = (features - wanted).square().mean((0, 1)).sqrt() / wanted.std((0, 1))
    assert error.max() < 0.01
    assert wanted.std((0, 1)).min() > 0.05


@SHAPES
@torch.no_grad()
def test_it_loses_nothing_in_the_precision_of_stored_models(shape):
    vq, code = written(shape)
    pixels = smooth(40, seed=2)

    def quality(features_MPC):
        return float(psnr(code.pixels(features_MPC).clamp(-1, 1), pixels, data_range=2.0).mean())

    assert quality(vq.bfloat16().float().features(pixels)) > quality(code.features(pixels)) - 0.2


@SHAPES
def test_its_components_are_nearly_the_best_of_their_number(shape):
    _, code = written(shape)
    best = LinearCode(shape.embed_dim, patch=4)
    best.fit(smooth(300))
    pixels = smooth(40, seed=2)
    assert linear_quality(code, pixels) > linear_quality(best, pixels) - 0.1


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_whitening_makes_variances_alike_and_leaves_a_mean_of_one(whitening):
    _, plain = written(WIDER, 0.0)
    vq, code = written(WIDER, whitening)
    with torch.no_grad():
        variance = vq.features(smooth(300)).var((0, 1))
    assert torch.isclose(variance.mean(), torch.tensor(1.0), rtol=0.02)
    own = plain.features(smooth(300)).var((0, 1))
    ratio = (variance[0] / variance[-1]).log() / (own[0] / own[-1]).log()
    assert ratio == pytest.approx(1 - whitening, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_multiplier": (1, 1, 1)}, "needs 56 in its last level, not 32"),
        ({"embed_dim": 40, "latent_channels": 40}, "needs 40 in its last but one level, not 32"),
        ({"latent_channels": 16}, "needs 32 in latent_channels, not 16"),
        (
            {"channel_multiplier": (2, 2, 4), "embed_dim": 64, "latent_channels": 64},
            "needs 64 in the values of a patch, not 48",
        ),
        ({"channel_multiplier": (1, 4, 1, 4)}, "needs 48 in its level 3, not 32"),
    ],
)
def test_an_encoder_without_room_is_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        written(replace(WIDER, **change))


@pytest.mark.parametrize("whitening", [0.0, 1.0])
def test_the_recipe_says_how_far_features_are_whitened(whitening):
    shape = replace(WIDER, whitening=whitening)
    stage = DiscreteAutoencoderStage(fresh_autoencoder(shape), shape, ToyPictures(), seed=1)
    fitted = ToyPictures().draw(autoencoder.LINEAR_PICTURES, torch.Generator().manual_seed(1))
    variance = stage.objective.features(fitted[:512]).var((0, 1))
    assert (variance.max() < 1.5 * variance.min()) == (whitening == 1)


def test_codes_that_do_not_learn_add_nothing_to_the_loss():
    stage = DiscreteAutoencoderStage(fresh_autoencoder(WIDER), WIDER, ToyPictures(), seed=1)
    stage.begin_step(0)
    ((pixels, _),) = stage.parts(0, 1)
    figures = stage.objective(pixels)
    assert figures.codes_used and figures.commitment == figures.codebook == 0
    figures.total.backward()
    assert stage.objective.vq.quantize.embedding.weight.grad is None
    assert all(p.grad is None for p in stage.objective.vq.encoder.parameters())


def test_a_step_takes_features_from_the_linear_code_without_the_encoder(monkeypatch):
    stage = DiscreteAutoencoderStage(fresh_autoencoder(WIDER), WIDER, ToyPictures(), seed=1)
    objective = stage.objective
    ((pixels, _),) = stage.parts(0, 1)
    torch.testing.assert_close(
        objective.features(pixels), objective.vq.features(pixels), rtol=0, atol=0.02
    )
    monkeypatch.setattr(objective.vq.encoder, "forward", None)  # cannot be called
    stage.begin_step(0)
    assert torch.isfinite(objective(pixels).total)


def test_the_encoder_that_does_not_run_is_no_work():
    stage = DiscreteAutoencoderStage(fresh_autoencoder(WIDER), WIDER, ToyPictures(), seed=1)
    ((pixels, _),) = stage.parts(0, 1)
    _, back = vision_flops(stage.objective.vq.config)
    assert counter_of(stage.objective)(pixels).flops == 3 * back * len(pixels)


def trained(folder, steps=3, stop_at=None, **options):
    torch.manual_seed(0)
    stage = DiscreteAutoencoderStage(fresh_autoencoder(WIDER), WIDER, ToyPictures(), seed=1)
    before = {name: tensor.clone() for name, tensor in stage.objective.state_dict().items()}
    done: list[int] = []
    for event in train(
        stage,
        optim=replace(WIDER.optim, steps=steps),
        log=LogRecipe(sample_every=0, validate_every=0, tensorboard=False),
        seed=1,
        folder=folder,
        should_stop=lambda: done[-1:] == [stop_at],
        **options,
    ):
        if isinstance(event, StepDone):
            done.append(event.step)
    return before, stage.objective.state_dict(), stage


def test_only_the_decoder_is_trained_and_codes_are_made_of_the_features(tmp_path):
    before, after, stage = trained(tmp_path)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert all(name.startswith(("vq.decoder.", "vq.post_quant_conv.", "last_")) for name in moved)
    assert any(name.startswith("vq.decoder.") for name in moved)
    vq = stage.objective.vq
    features_NC = vq.features(ToyPictures().draw(64, torch.Generator().manual_seed(5)))
    features_NC = features_NC.flatten(0, 1)
    found = quantise(features_NC, vq.quantize.embedding.weight)
    assert found.codebook < 0.9 * features_NC.var(0).mean()


def test_a_longer_training_has_the_same_features_and_codes_and_a_resumed_one_the_same_all(tmp_path):
    _, whole, _ = trained(tmp_path / "whole")
    _, longer, _ = trained(tmp_path / "longer", steps=5)
    trained(tmp_path / "parts", stop_at=1)
    _, again, _ = trained(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    kept = ("vq.encoder.", "vq.quant_conv.", "vq.quantize.")
    assert all(torch.equal(whole[name], longer[name]) for name in whole if name.startswith(kept))


def test_a_state_holds_the_encoder_which_another_processor_might_write_otherwise(
    tmp_path, monkeypatch
):
    _, whole, _ = trained(tmp_path / "whole")
    trained(tmp_path / "parts", stop_at=1)
    monkeypatch.setattr(
        autoencoder, "linear_encoder", lambda vq, pixels, _: linear_encoder(vq, -pixels, 0.1)
    )
    before, again, _ = trained(tmp_path / "parts", resume=True)
    name = "vq.encoder.conv_out.weight"
    assert not torch.equal(before[name], whole[name])
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_pretraining_says_what_the_linear_code_reaches(tmp_path, monkeypatch):
    from orthus_core.train.pretrain import pretrain

    monkeypatch.setattr(autoencoder, "LINEAR_PICTURES", 64)
    source = pictures_with_words(tmp_path / "pictures")
    sets = (*tiny_pretrain(source), 'autoencoder.encoder="linear"')
    events = pretrain(load(PretrainRecipe, None, sets), tmp_path / "out")
    notes = [event.message for event in events if isinstance(event, Note)]
    assert any("the linear code of 8 channels has" in note and "dB" in note for note in notes)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_room_is_asked_for_moments_of_the_decoder_alone(tmp_path, monkeypatch, kind):
    from orthus_core.train import pretrain as pretraining

    monkeypatch.setattr(autoencoder, "LINEAR_PICTURES", 64)
    asked = []
    monkeypatch.setattr(pretraining, "check_disk", lambda _, *of: asked.append(state_bytes(*of)))
    sets = (*tiny_pretrain(pictures_with_words(tmp_path / "pictures")),)
    sets = (*sets, 'autoencoder.encoder="linear"', f'autoencoder.optim.kind="{kind}"')
    recipe = load(PretrainRecipe, None, sets)
    list(pretraining.pretrain(recipe, tmp_path / "out"))
    (state, *_) = (tmp_path / "out.training" / "autoencoder" / "states").glob("*/*.safetensors")
    stored = load_file(state)
    # The linear code, some counters and numbers of steps are left out.
    of_vq = [t for name, t in stored.items() if ".vq." in name and t.ndim]
    assert asked[0] == sum(tensor.nbytes for tensor in of_vq)


@SHAPES
@torch.no_grad()
def test_the_linear_code_is_read_from_a_stored_encoder(shape):
    vq, code = written(shape)
    pixels = smooth(40, seed=2)
    vq.bfloat16().float()  # as models are stored
    read = linear_code_of(vq)
    features, found, wanted = vq.features(pixels), read.features(pixels), code.features(pixels)
    spread = features.std((0, 1))
    assert ((found - features).square().mean((0, 1)).sqrt() / spread).max() < 0.01
    assert ((found.mean((0, 1)) - features.mean((0, 1))).abs() / spread).max() < 0.01
    # It is that of the rounded weights, not the one that was written.
    assert (found - features).square().mean() < 0.5 * (wanted - features).square().mean()
    assert not read.state_dict()  # states need not hold it
    encoder = vq.encoder.mid.block_1.conv1.weight
    encoder[0, 0, 0, 0] = 1e-3
    assert linear_code_of(vq) is None


def test_a_decoder_learns_from_the_linear_code_without_the_encoder(monkeypatch):
    vq, _ = written(WIDER)
    objective = DecoderObjective(vq, PictureLoss(AutoencoderLosses()), feature_noise=0.0)
    pixels = smooth(4, seed=2)
    wanted = objective(pixels).total
    monkeypatch.setattr(vq.encoder, "forward", None)  # cannot be called
    assert torch.equal(objective(pixels).total, wanted)
    _, back = vision_flops(vq.config)
    assert counter_of(objective)(pixels).flops == 3 * back * len(pixels)
    assert not [name for name in objective.state_dict() if name.startswith("linear")]
