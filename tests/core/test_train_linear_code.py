"""An autoencoder that starts from the linear code of patches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from orthus_core.errors import RecipeError
from orthus_core.events import Note, StepDone
from orthus_core.recipe import PretrainRecipe, load
from orthus_core.recipe.training import LogRecipe
from orthus_core.train import autoencoder
from orthus_core.train.autoencoder import DiscreteAutoencoderStage, fresh_autoencoder
from orthus_core.train.linear_code import LinearCode, linear_quality
from orthus_core.train.loop import train
from orthus_core.train.picture_source import PictureSource
from tests.conftest import TINY_AUTOENCODER
from tests.core.toy_data import ToyPictures, pictures_with_words

LINEAR = replace(
    TINY_AUTOENCODER,
    linear_steps=2,
    continuous_steps=3,
    feature_noise=0.0,
    optim=replace(TINY_AUTOENCODER.optim, steps=4),
)


def pictures() -> PictureSource:
    return ToyPictures()


def smooth(count: int) -> torch.Tensor:
    """Pictures whose neighbouring pixels are alike: [count, 3, 8, 8]."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1)


@pytest.fixture
def stage():
    torch.manual_seed(0)
    return DiscreteAutoencoderStage(fresh_autoencoder(LINEAR), LINEAR, pictures(), seed=1)


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


@pytest.mark.parametrize(("step", "follows"), [(0, True), (1, True), (2, False), (3, False)])
def test_the_decoder_is_fed_with_the_code_and_the_encoder_learns_it_in_the_first_steps(
    stage, step, follows, monkeypatch
):
    if step >= LINEAR.continuous_steps:
        stage.begin_step(LINEAR.continuous_steps)  # the codes
    stage.begin_step(step)
    ((pixels,),) = stage.parts(step, 1)
    objective, seen = stage.objective, []
    decode = objective.vq.pixels
    monkeypatch.setattr(objective.vq, "pixels", lambda f_MPC: decode(seen.append(f_MPC) or f_MPC))
    figures = objective(pixels)
    wanted_MPC = objective.linear.features(pixels)
    unsnapped = len(pixels) // 2 if step >= LINEAR.continuous_steps else 0
    fed = torch.equal(seen[0][unsnapped:], wanted_MPC[unsnapped:])
    assert fed == follows and (figures.linear is not None) == follows
    if follows:
        figures.total.backward()
        grads = [p.grad for p in objective.vq.encoder.parameters() if p.grad is not None]
        assert grads and any(grad.abs().max() > 0 for grad in grads)
        rest = figures._replace(total=figures.total - figures.linear)
        assert torch.isfinite(rest.total)
        features_MPC = objective.features(pixels)
        assert torch.isclose(
            figures.linear, torch.nn.functional.mse_loss(features_MPC, wanted_MPC), rtol=0.2
        )


def test_it_is_not_followed_where_held_out_pictures_are_measured(stage):
    stage.begin_step(0)
    stage.objective.eval()
    ((pixels,),) = stage.parts(0, 1)
    assert stage.objective(pixels).linear is None


def test_a_training_that_starts_from_it_resumes_bit_for_bit(tmp_path):
    def run(folder, stop_at=None, **options):
        torch.manual_seed(0)
        stage = DiscreteAutoencoderStage(fresh_autoencoder(LINEAR), LINEAR, pictures(), seed=1)
        steps = []
        log = LogRecipe(sample_every=0, validate_every=0, tensorboard=False)
        for event in train(
            stage,
            optim=LINEAR.optim,
            log=log,
            seed=1,
            folder=folder,
            should_stop=lambda: steps[-1:] == [stop_at],
            **options,
        ):
            if isinstance(event, StepDone):
                steps.append(event.step)
        return stage.objective.state_dict()

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_at=1)
    again = run(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert whole["linear.scale_C"].min() > 0 and not torch.equal(
        whole["linear.mean_D"], torch.zeros_like(whole["linear.mean_D"])
    )


def test_codes_are_not_made_before_there_are_features():
    with pytest.raises(RecipeError, match="continuous_steps 3 end before linear_steps 4"):
        load(
            PretrainRecipe,
            None,
            ["autoencoder.linear_steps=4", "autoencoder.continuous_steps=3"],
        )


def test_a_pretraining_says_what_the_linear_code_reaches(tmp_path, monkeypatch):
    from orthus_core.train.pretrain import pretrain

    monkeypatch.setattr(autoencoder, "KMEANS_PICTURES", 64)
    monkeypatch.setattr(autoencoder, "LINEAR_PICTURES", 64)

    sets = [
        "autoencoder.resolution=16",
        "autoencoder.channel_multiplier=[1,1,1]",
        "autoencoder.embed_dim=8",
        "autoencoder.latent_channels=8",
        "autoencoder.num_embeddings=16",
        "autoencoder.linear_steps=1",
        "autoencoder.continuous_steps=1",
        "autoencoder.optim.steps=2",
        "autoencoder.optim.batch_size=4",
        "tokenizer.vocab_size=320",
        "tokenizer.rows=20",
        f"data.source={pictures_with_words(tmp_path / 'pictures')}",
        "backbone.hidden_size=32",
        "backbone.intermediate_size=32",
        "backbone.num_hidden_layers=1",
        "backbone.num_attention_heads=2",
        "optim.steps=1",
        "optim.batch_size=2",
        "log.sample_every=0",
        "log.validate_every=0",
    ]
    events = pretrain(load(PretrainRecipe, None, sets), tmp_path / "out")
    notes = [event.message for event in events if isinstance(event, Note)]
    assert any("the linear code of 8 channels has" in note and "dB" in note for note in notes)
