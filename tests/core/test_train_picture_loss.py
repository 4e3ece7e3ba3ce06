"""What decoded pictures are judged by: maps of the encoder, a discriminator, and whose gradient
goes where.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from orthus_core.errors import RecipeError
from orthus_core.events import StepDone
from orthus_core.losses.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    augmented_alike,
    discriminator_loss,
    generator_loss,
    relativistic_loss,
    slope_penalty,
)
from orthus_core.losses.perceptual import encoder_maps, frozen_weights, perceptual
from orthus_core.losses.picture_loss import PictureLoss, multi_scale
from orthus_core.recipe import load
from orthus_core.recipe.training import (
    AutoencoderLosses,
    DiscriminatorRecipe,
    FinetuneVaeRecipe,
    LogRecipe,
    OptimRecipe,
)
from orthus_core.train.autoencoder import (
    DecoderStage,
    DiscreteAutoencoderStage,
    fresh_autoencoder,
    picture_loss,
)
from orthus_core.train.loop import train
from orthus_core.train.optim import make_optimizers
from orthus_core.train.picture_source import ReadPictures
from orthus_core.train.trainings import finetune_vae
from tests.conftest import TINY_AUTOENCODER, lines_of_metrics
from tests.core.toy_data import ToyPictures

SHAPE = replace(
    TINY_AUTOENCODER,
    continuous_steps=1,
    losses=AutoencoderLosses(multi_scale=0.5, perceptual=0.5, adversarial=0.3),
    discriminator=DiscriminatorRecipe(start=2, channels=8, levels=1),
)


@pytest.fixture
def vq():
    torch.manual_seed(0)
    return fresh_autoencoder(SHAPE)


@pytest.fixture
def pixels():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.9 - 1


@pytest.fixture
def pictures():
    return ToyPictures()


def test_maps_are_the_encoders_own(vq, pixels):
    seen = []
    hooks = [
        level.block[-1].register_forward_hook(lambda module, given, made: seen.append(made))
        for level in vq.encoder.down
    ]
    vq.encoder(pixels)
    for hook in hooks:
        hook.remove()
    maps = encoder_maps(vq, pixels)
    assert [m.shape[-1] for m in maps] == [16, 8, 4]
    for mine, theirs in zip(maps, seen, strict=True):
        assert torch.equal(mine, theirs)


def test_a_perceptual_distance_is_zero_for_equals_and_four_for_opposites():
    maps = [torch.randn(2, 5, 4, 4), torch.randn(2, 7, 2, 2)]
    assert perceptual(maps, maps) < 1e-9
    assert perceptual(maps, [-m for m in maps]).item() == pytest.approx(4.0, rel=1e-4)
    torch.testing.assert_close(perceptual(maps, [3 * m for m in maps]), torch.tensor(0.0))


def test_multi_scale_forgives_what_averages_out():
    truth = torch.zeros(1, 3, 16, 16)
    checked = truth.clone()
    checked[..., ::2, ::2] = checked[..., 1::2, 1::2] = 0.2
    checked[..., ::2, 1::2] = checked[..., 1::2, ::2] = -0.2
    assert multi_scale(checked, truth) < 1e-7
    assert multi_scale(truth + 0.2, truth).item() == pytest.approx(0.2)


def test_multi_scale_looks_from_three_distances():
    """Bands four pixels wide even out only where eight are averaged."""
    bands = torch.tensor([1.0] * 4 + [-1.0] * 4).repeat(2).expand(1, 3, 16, 16)
    assert multi_scale(bands, torch.zeros_like(bands)) == pytest.approx(2 / 3)


def test_what_is_held_passes_gradients_on_and_takes_none(vq, pixels):
    x = pixels.clone().requires_grad_()
    with frozen_weights(vq.encoder):
        vq.encoder(x).sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in vq.encoder.parameters())


@pytest.mark.parametrize("levels, side", [(1, 14), (2, 6)])
def test_a_discriminator_gives_one_score_a_patch(levels, side):
    scores = PatchDiscriminator(8, levels)(torch.randn(2, 3, 16 * levels, 16 * levels))
    assert scores.shape[:2] == (2, 1)
    assert PatchDiscriminator(8, levels)(torch.randn(1, 3, 32, 32)).shape[-1] == side


def test_a_discriminator_does_not_decay_while_it_waits():
    rival = PatchDiscriminator(8, 1)
    optimizers = make_optimizers(list(rival.parameters()), OptimRecipe(weight_decay=0.5))
    assert {g["weight_decay"] for o in optimizers for g in o.param_groups} == {0.0}


def test_a_score_judges_the_patch_its_level_promises():
    torch.manual_seed(0)
    for levels, reach in ((1, 16), (2, 34), (3, 70)):
        x = torch.randn(1, 3, 96, 96, requires_grad=True)
        plain = PatchDiscriminator(8, levels).double()
        for number, layer in enumerate(plain.layers):
            if isinstance(layer, torch.nn.GroupNorm):  # a norm sees the whole picture
                plain.layers[number] = torch.nn.Identity()
        scores = plain(x.double())
        middle = scores.shape[-1] // 2
        scores[0, 0, middle, middle].backward()
        touched = x.grad[0].abs().sum(0).sum(0).nonzero()
        assert int(touched.max() - touched.min()) + 1 == reach


def test_the_hinge_by_hand():
    true, decoded = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert discriminator_loss(true, decoded).item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert generator_loss(decoded).item() == pytest.approx(1.5)


def test_the_relativistic_loss_by_hand():
    true, decoded = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    wanted = (torch.log1p(torch.exp(torch.tensor(-5.0))) + torch.log(torch.tensor(2.0))) / 2
    torch.testing.assert_close(relativistic_loss(true, decoded), wanted)
    assert relativistic_loss(decoded, true) > relativistic_loss(true, decoded)


def test_the_slope_penalty_of_a_linear_score_is_half_its_squared_weight():
    torch.manual_seed(0)
    linear = torch.nn.Linear(3 * 4 * 4, 2)
    scores = torch.nn.Sequential(torch.nn.Flatten(), linear)
    penalty = slope_penalty(scores, torch.randn(5, 3, 4, 4))
    torch.testing.assert_close(penalty, 0.5 * linear.weight.sum(0).square().sum())
    penalty.backward()
    torch.testing.assert_close(linear.weight.grad, linear.weight.sum(0).expand(2, -1))


def test_pairs_are_changed_alike_and_gradients_pass(pixels):
    torch.manual_seed(0)
    x = pixels.clone().requires_grad_()
    one, other = augmented_alike(x, pixels)
    torch.testing.assert_close(one, other)
    assert one.shape == pixels.shape and not torch.allclose(one, pixels, atol=0.1)
    one.sum().backward()
    assert x.grad.abs().max() > 0
    shifts = set()
    for _ in range(30):
        white, _ = augmented_alike(torch.full((1, 3, 16, 24), 9.0), torch.ones(1, 3, 16, 24))
        filled_HW = white[0, 0] != 0
        shifts.add((int((~filled_HW.any(1)).sum()), int((~filled_HW.any(0)).sum())))
    assert {down for down, _ in shifts} == {0, 1, 2} and {side for _, side in shifts} == {
        0,
        1,
        2,
        3,
    }


@pytest.mark.parametrize("augment", [False, True])
def test_the_relativistic_kind_pays_for_its_slope_every_eighth_step(vq, pixels, augment):
    recipe = replace(SHAPE.discriminator, kind="relativistic", penalty=0.5, augment=augment)
    loss = picture_loss(SHAPE.losses, recipe, 16).train()
    decoded = vq.pixels(vq.features(pixels))

    def own_loss(step):
        loss.begin_step(step)
        torch.manual_seed(7)
        return loss(vq, decoded, pixels)

    plain, with_penalty = own_loss(7), own_loss(8)
    torch.manual_seed(7)
    pair = augmented_alike(decoded, pixels) if augment else (decoded, pixels)
    rival = loss.discriminator
    scores = [rival(each) for each in pair]
    torch.testing.assert_close(plain.discriminator, relativistic_loss(scores[1], scores[0]))
    torch.testing.assert_close(plain.adversarial, relativistic_loss(scores[0], scores[1]))
    slopes = sum(slope_penalty(rival, each) for each in pair)
    torch.testing.assert_close(
        with_penalty.discriminator - plain.discriminator, 0.5 * 8 * slopes, rtol=1e-4, atol=1e-6
    )


def test_the_adaptive_weight_makes_both_gradients_equal():
    last = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    others, adversarial = 3 * last.sum(), 0.5 * last.sum()
    weight = adaptive_weight(others, adversarial, last)
    assert weight.item() == pytest.approx(6.0, rel=1e-3) and not weight.requires_grad
    assert adaptive_weight(others, 0 * last.sum(), last).item() == 1e4


def gradients(vq, loss, pixels):
    """Whether decoder, encoder and discriminator get a gradient from one batch."""
    vq.zero_grad()
    loss.zero_grad()
    features_MPC = vq.features(pixels)
    figures = loss(vq, vq.pixels(features_MPC.detach()), pixels)
    figures.total.backward()

    def reached(module):
        return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())

    return figures, [reached(part) for part in (vq.decoder, vq.encoder, loss.discriminator)]


def test_each_side_learns_from_its_own_aim_alone(vq, pixels):
    loss = picture_loss(SHAPE.losses, SHAPE.discriminator, 16).train()
    figures, reached = gradients(vq, loss, pixels)
    assert reached == [True, False, False] and figures.adversarial is None
    loss.fighting = True
    figures, reached = gradients(vq, loss, pixels)
    assert reached == [True, False, True]

    # The discriminator's gradient is that of its hinge, whatever weighs in the sum besides.
    of_the_sum = [p.grad.clone() for p in loss.discriminator.parameters()]
    loss.zero_grad()
    with torch.no_grad():
        decoded = vq.pixels(vq.features(pixels))
    discriminator_loss(loss.discriminator(pixels), loss.discriminator(decoded)).backward()
    for mine, parameter in zip(of_the_sum, loss.discriminator.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-7)


def test_fooling_pulls_the_last_layer_as_hard_as_the_rest(vq, pixels):
    last = vq.decoder.conv_out.weight

    def pull(adversarial):
        losses = AutoencoderLosses(perceptual=0.5, adversarial=adversarial)
        torch.manual_seed(0)
        loss = picture_loss(losses, SHAPE.discriminator, 16).train()
        loss.fighting = True
        vq.zero_grad()
        loss(vq, vq.pixels(vq.features(pixels)), pixels).total.backward()
        return last.grad.clone()

    plain = picture_loss(AutoencoderLosses(perceptual=0.5), SHAPE.discriminator, 16)
    vq.zero_grad()
    plain(vq, vq.pixels(vq.features(pixels)), pixels).total.backward()
    others = last.grad.clone()
    for share in (0.5, 2.0):
        added = pull(share) - others
        assert added.norm().item() == pytest.approx(share * others.norm().item(), rel=0.01)


def test_the_sum_is_of_every_term_by_its_own_weight(vq, pixels):
    names = ("l1", "mse", "gradient", "chroma", "multi_scale", "perceptual", "features")
    weights = dict(zip(names, (1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5), strict=True))
    figures = PictureLoss(AutoencoderLosses(**weights))(vq, pixels.flip(-1) * 0.9, pixels)
    wanted = sum(weight * getattr(figures, name) for name, weight in weights.items())
    assert all(getattr(figures, name) > 0 for name in names)
    torch.testing.assert_close(figures.total, wanted)


def test_measuring_leaves_the_fight_out(vq, pixels):
    loss = picture_loss(SHAPE.losses, SHAPE.discriminator, 16).eval()
    loss.fighting = True
    with torch.no_grad():
        figures = loss(vq, pixels, pixels)
    assert figures.adversarial is None and figures.discriminator is None
    assert figures.total.item() == pytest.approx(0.0, abs=1e-6)


def test_without_weights_nothing_more_is_computed_or_trained(vq, pixels):
    loss = picture_loss(AutoencoderLosses(), DiscriminatorRecipe(), 16)
    assert isinstance(loss, PictureLoss) and not list(loss.parameters())
    assert loss(vq, pixels, pixels).perceptual is None


def test_levels_that_a_picture_is_too_small_for_are_refused():
    with pytest.raises(RecipeError, match="too small for 3 levels"):
        picture_loss(SHAPE.losses, DiscriminatorRecipe(levels=3), 16)
    with pytest.raises(ValueError, match="multiple of 8"):
        DiscriminatorRecipe(channels=12)


def decoder_stage(vq, pictures):
    recipe = FinetuneVaeRecipe(
        losses=SHAPE.losses, discriminator=SHAPE.discriminator, optim=SHAPE.optim
    )
    return DecoderStage(vq, recipe, pictures)


def autoencoder_stage(vq, pictures):
    return DiscreteAutoencoderStage(vq, SHAPE, pictures, seed=0)


@pytest.mark.parametrize("make", [decoder_stage, autoencoder_stage])
def test_the_fight_begins_at_its_step_and_resumes_bit_for_bit(make, pictures, tmp_path):
    def run(folder, stop_after=None, resume=False):
        torch.manual_seed(0)
        stage, seen = make(fresh_autoencoder(SHAPE), pictures), []
        begin = {n: p.clone() for n, p in stage.objective.named_parameters()}
        events = train(
            stage,
            optim=SHAPE.optim,
            log=LogRecipe(every=1, sample_every=0, validate_every=2, validate_rows=8),
            seed=0,
            folder=folder,
            resume=resume,
            should_stop=lambda: len(seen) == stop_after,
        )
        for event in events:
            if isinstance(event, StepDone):
                seen.append(event)
        return stage.objective, begin, seen

    whole, begin, seen = run(tmp_path / "whole")
    assert ["adversarial" in event.metrics for event in seen] == [False, False, True, True]
    moved = {n for n, p in whole.named_parameters() if not torch.equal(p, begin[n])}
    rivals = {n for n in begin if "discriminator" in n and n.endswith("weight")}
    assert rivals and rivals <= moved
    run(tmp_path / "parts", stop_after=3)
    again, _, rest = run(tmp_path / "parts", resume=True)
    assert [event.step for event in rest] == [4]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    lines = [lines_of_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts")]
    assert lines[0] == lines[1]


def test_the_discriminator_waits_untouched_until_the_start(pictures, tmp_path):
    torch.manual_seed(0)
    stage = decoder_stage(fresh_autoencoder(SHAPE), pictures)
    rival = stage.objective.picture_loss.discriminator
    before = {name: tensor.clone() for name, tensor in rival.state_dict().items()}
    optim = OptimRecipe(steps=3, batch_size=4, weight_decay=0.5, warmup_steps=0)
    log = LogRecipe(sample_every=0, validate_every=0, save_every=0)
    same = {}
    for event in train(stage, optim=optim, log=log, seed=0, folder=tmp_path):
        if isinstance(event, StepDone):
            now = rival.state_dict()
            same[event.step] = all(torch.equal(before[name], now[name]) for name in before)
    assert same == {1: True, 2: True, 3: False}


def test_the_discriminator_of_finetune_vae_starts_from_the_recipes_seed(tmp_path, monkeypatch):
    stages = []

    def keep_stage(stage, *_, **__):
        stages.append(stage)
        return iter(())

    def no_pictures(data, size, rule):
        yield from ()
        return ReadPictures([], [], size)

    monkeypatch.setattr("orthus_core.train.trainings.run", keep_stage)
    monkeypatch.setattr("orthus_core.train.picture_source.read_pictures", no_pictures)
    sets = ["losses.adversarial=0.1", "data.held_out=0"]
    for ambient, seed in ((1, 3), (2, 3), (2, 4)):
        recipe = load(FinetuneVaeRecipe, None, [*sets, f"seed={seed}"])
        torch.manual_seed(ambient)
        list(finetune_vae(recipe, "mini", tmp_path / f"{ambient}-{seed}"))
    first, again, other = (
        torch.cat(
            [p.detach().flatten() for p in stage.objective.picture_loss.discriminator.parameters()]
        )
        for stage in stages
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
