"""What each stage trains, and that it trains nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from orthus_core.errors import TrainingError
from orthus_core.losses.picture_loss import reconstruction
from orthus_core.losses.quantisation import kmeans, quantise
from orthus_core.recipe.training import OptimRecipe, TemperatureRecipe
from orthus_core.train.autoencoder import DiscreteAutoencoderStage, fresh_autoencoder
from orthus_core.train.freeze import (
    all_but_autoencoder,
    check_text_untouched,
    only_image_parts,
    text_fingerprint,
)
from orthus_core.train.optim import make_optimizers
from orthus_core.train.stages import temperature_at
from orthus_core.world.augment import random_pictures
from orthus_core.world.world_pictures import SpritePictures
from tests.conftest import TINY_AUTOENCODER, make_tiny_model

SHAPE = replace(
    TINY_AUTOENCODER,
    continuous_steps=2,
    revive_every=3,
    optim=replace(TINY_AUTOENCODER.optim, steps=6),
)


@pytest.fixture
def stage():
    torch.manual_seed(0)
    sprites_M4HW = torch.randint(0, 256, (6, 4, 16, 16), dtype=torch.uint8)
    pictures = SpritePictures(sprites_M4HW[1:], sprites_M4HW[:1])
    return DiscreteAutoencoderStage(fresh_autoencoder(SHAPE), SHAPE, pictures, seed=1)


def batch(stage, step=0):
    ((pixels_M3HW,),) = stage.parts(step, 1)
    return pixels_M3HW


def test_build_base_moves_the_image_parts_and_nothing_text_depends_on():
    model = make_tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fingerprint = text_fingerprint(model)
    recipe = OptimRecipe(lr=1e-2, weight_decay=0.1)
    (optimizer,) = make_optimizers(only_image_parts(model), recipe)
    ids_BS = torch.tensor([[0, 41, 37, *[39] * 4]])
    hidden_BSD = model(ids_BS, torch.randn(4, 8)).hidden_BSD
    (
        hidden_BSD.sum()
        + model.mlp_head(torch.randn(4, 8), torch.arange(4), hidden_BSD[0, :4]).sum()
    ).backward()
    optimizer.step()
    check_text_untouched(fingerprint, model)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert {n.split(".")[0] for n in moved - {"model.codebook_in.weight"}} == {"mlp_head", "model"}
    assert "model.embed_tokens.weight" in moved and "model.codebook_in.weight" in moved
    assert all(n.startswith(("mlp_head", "model.embed_tokens", "model.codebook_in")) for n in moved)
    with pytest.raises(TrainingError, match="text depends on"):
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1
        check_text_untouched(fingerprint, model)


def test_posttrain_leaves_the_autoencoder():
    model = make_tiny_model()
    trained = {id(p) for p in all_but_autoencoder(model)}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in trained) == (not name.startswith("model.vqmodel."))


def test_muon_takes_the_maps_of_an_orthus_and_none_of_its_tables():
    model = make_tiny_model()
    muon, _ = make_optimizers(all_but_autoencoder(model), OptimRecipe(kind="muon"))
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    maps = {name for name, p in model.named_parameters() if id(p) in taken}
    assert "model.layers.0.self_attn.q_proj.weight" in maps
    assert all(name.startswith(("model.layers.", "mlp_head.")) for name in maps)


def test_the_temperature_opens_geometrically():
    recipe = TemperatureRecipe(start=0.01, end=1.0)
    assert temperature_at(recipe, 0, 101) == pytest.approx(0.01)
    assert temperature_at(recipe, 50, 101) == pytest.approx(0.1)
    assert temperature_at(recipe, 100, 101) == pytest.approx(1.0)


def test_a_perfect_picture_has_no_loss_and_each_fault_its_own_term():
    truth = torch.rand(2, 3, 8, 8) * 2 - 1
    assert all(term == 0 for term in reconstruction(truth, truth))
    brighter = reconstruction(truth + 0.1, truth)
    assert brighter.l1 == pytest.approx(0.1, abs=1e-5)
    assert brighter.mse == pytest.approx(0.01, abs=1e-5)
    assert brighter.gradient < 1e-6 and brighter.chroma < 1e-6
    redder = truth.clone()
    redder[:, 0] += 0.3
    assert reconstruction(redder, truth).chroma > 0.1


def test_quantising_snaps_forward_and_passes_gradients_through():
    codes_KC = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    z_NC = torch.tensor([[0.9, 0.8], [0.1, -0.2]], requires_grad=True)
    snapped = quantise(z_NC, codes_KC)
    assert snapped.codes_N.tolist() == [1, 0]
    torch.testing.assert_close(snapped.features_NC, codes_KC[snapped.codes_N])
    snapped.features_NC.sum().backward()
    assert torch.equal(z_NC.grad, torch.ones_like(z_NC))
    assert snapped.commitment.item() == pytest.approx((0.01 + 0.04 + 0.01 + 0.04) / 4)


def test_kmeans_covers_the_clusters_that_are_there():
    random = torch.Generator().manual_seed(0)
    centres_KC = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    z_NC = centres_KC.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=random)
    found_KC = kmeans(z_NC, 12, rounds=20, generator=random)
    assert torch.cdist(centres_KC, found_KC).min(-1).values.max() < 0.5


def test_folding_the_norm_keeps_the_features(stage):
    pixels = batch(stage)
    objective = stage.objective
    for _ in range(5):
        objective(pixels)
    objective.eval()
    with torch.no_grad():
        before_MPC = objective.features(pixels)
        objective.fold_norm()
        torch.testing.assert_close(objective.vq.features(pixels), before_MPC, rtol=1e-4, atol=1e-4)


def test_codes_begin_on_features_and_dead_ones_are_revived(stage):
    assert stage.begin_step(0) == [] and not stage.objective.snapping
    (codes_KC,) = stage.begin_step(2)
    assert stage.objective.snapping and codes_KC.abs().max() < 10
    objective = stage.objective
    with torch.no_grad():
        codes_KC[:8] = 100.0  # nowhere near a feature
    objective.last_used_K[:8] = SHAPE.revive_every
    assert objective.revive(batch(stage), torch.Generator().manual_seed(0)) >= 8
    assert codes_KC.abs().max() < 10


def test_snapping_reports_the_codes_it_used(stage):
    assert stage.objective(batch(stage)).codes_used == 0
    stage.begin_step(2)
    figures = stage.objective(batch(stage, 2))
    assert figures.codes_used >= 1 and figures.commitment > 0


def test_random_pictures_are_a_function_of_their_generator():
    sprites = torch.randint(0, 256, (3, 4, 8, 8), dtype=torch.uint8)
    one, same, other = (
        random_pictures(sprites, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.min() >= -1 and one.max() <= 0.99
