"""What each stage trains, and that it trains nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from orthus_core.errors import TrainingError
from orthus_core.evaluation.reconstruction import HELD_OUT_IMAGES
from orthus_core.losses.picture_loss import PictureLoss, reconstruction
from orthus_core.losses.quantisation import kmeans, quantise
from orthus_core.model.config import OrthusVQConfig
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe.training import (
    AutoencoderLosses,
    DataRecipe,
    OptimRecipe,
    PretrainRecipe,
    SourceRecipe,
    TaskWeights,
    TemperatureRecipe,
)
from orthus_core.train.autoencoder import (
    DecoderObjective,
    DiscreteAutoencoderStage,
    fresh_autoencoder,
)
from orthus_core.train.distributed import Rank
from orthus_core.train.freeze import (
    all_but_autoencoder,
    check_text_untouched,
    only_image_parts,
    text_fingerprint,
)
from orthus_core.train.optim import make_optimizers
from orthus_core.train.pretrain import OF_AUTOENCODER
from orthus_core.train.stages import temperature_at
from orthus_core.train.state import check_same, origins
from orthus_core.world.scene import SceneImage
from orthus_core.world.world import World
from orthus_core.world.world_pictures import WorldPictures
from tests.conftest import TINY_AUTOENCODER, make_tiny_model
from tests.core.toy_data import ToyPictures

SHAPE = replace(
    TINY_AUTOENCODER,
    continuous_steps=2,
    revive_every=3,
    optim=replace(TINY_AUTOENCODER.optim, steps=6),
)


@pytest.fixture
def stage():
    torch.manual_seed(0)
    return DiscreteAutoencoderStage(fresh_autoencoder(SHAPE), SHAPE, ToyPictures(), seed=1)


def batch(stage, step=0):
    ((pixels_M3HW, *_),) = stage.parts(step, 1)
    return pixels_M3HW


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_build_base_moves_the_image_parts_and_nothing_text_depends_on(kind):
    model = make_tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fingerprint = text_fingerprint(model)
    recipe = OptimRecipe(kind=kind, lr=1e-2, weight_decay=0.1)
    optimizers = make_optimizers(only_image_parts(model), recipe)
    ids_BS = torch.tensor([[0, 41, 37, *[39] * 4]])
    hidden_BSD = model.run_backbone(ids_BS, torch.randn(4, 8)).hidden_BSD
    (
        hidden_BSD.sum()
        + model.mlp_head(torch.randn(4, 8), torch.arange(4), hidden_BSD[0, :4]).sum()
    ).backward()
    for optimizer in optimizers:
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


@torch.no_grad()
def test_the_text_depends_on_backbone_norm_head_and_words_and_on_nothing_else():
    model = make_tiny_model()
    before = text_fingerprint(model)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table_VD, code = model.model.embed_tokens.weight, model.code_token_ids[0]
    places = {name: p.flatten()[:1] for name, p in model.named_parameters()}
    places |= {"word": table_VD[0, :1], "code": table_VD[code, :1]}
    del places["model.embed_tokens.weight"]
    for name, place_1 in places.items():
        place_1 += 1
        depends = name.startswith(("model.layers.", "model.norm.", "lm_head.", "word"))
        assert (text_fingerprint(model) != before) == depends, name
        place_1 -= 1
        model.load_state_dict(weights)


def test_a_linear_embedding_is_built_with_the_base():
    model = make_tiny_model(embedding="linear")
    trained = {id(p) for p in only_image_parts(model)}
    assert all(id(p) in trained for p in model.model.feature_in.parameters())


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


def test_a_temperature_may_rise_from_0_by_a_constant_amount_alone():
    recipe = TemperatureRecipe(start=0.0, end=2.0, schedule="linear")
    assert [temperature_at(recipe, step, 5) for step in range(5)] == [0, 0.5, 1, 1.5, 2]
    with pytest.raises(ValueError, match="no factor leads away from 0"):
        TemperatureRecipe(start=0.0)


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


def test_edges_count_in_both_directions():
    truth = torch.zeros(1, 3, 8, 8)
    falling = torch.arange(8.0)[:, None].expand(1, 3, 8, 8)
    # Each pixel differs from the one below by 1, and from the one on the right not at all.
    assert reconstruction(falling, truth).gradient == 1
    assert reconstruction(falling.mT, truth).gradient == 1


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


def decoded_by(objective, pixels, monkeypatch):
    """The features that the objective has decoded, and the ones it made of the pictures."""
    given, pixels_of = [], objective.vq.pixels
    monkeypatch.setattr(
        objective.vq, "pixels", lambda features: given.append(features) or pixels_of(features)
    )
    torch.manual_seed(0)
    objective(pixels)
    return given[0].detach(), objective.features(pixels).detach()


def test_the_recipes_share_of_a_batch_is_decoded_from_codes_each_in_its_place(stage, monkeypatch):
    stage.begin_step(2)
    objective = stage.objective
    objective.recipe = replace(SHAPE, quantised_share=0.25, feature_noise=0.0)
    decoded_MPC, features_MPC = decoded_by(objective, batch(stage, 2), monkeypatch)
    torch.testing.assert_close(decoded_MPC[1:], features_MPC[1:])
    distance_PK = torch.cdist(decoded_MPC[0], objective.vq.quantize.embedding.weight)
    assert distance_PK.min(1).values.max() < 1e-4
    nearest_P = torch.cdist(features_MPC[0], objective.vq.quantize.embedding.weight).argmin(1)
    assert torch.equal(distance_PK.argmin(1), nearest_P), "of the first picture's own features"


def test_features_are_decoded_with_the_recipes_noise_each_picture_with_its_own_amount(
    stage, monkeypatch
):
    def of_half_a_normal(decoded_MPC, features_MPC) -> bool:
        amounts_M = (decoded_MPC - features_MPC).flatten(1).std(1)
        assert amounts_M.square().mean().sqrt() == pytest.approx(0.5, rel=0.15)
        return bool((amounts_M < 0.17).sum() > 20 and (amounts_M > 0.8).sum() > 5)  # 27%, 11%

    stage.objective.recipe = replace(SHAPE, feature_noise=0.5)
    pixels = batch(stage).repeat(25, 1, 1, 1)
    assert len(pixels) >= 100
    assert of_half_a_normal(*decoded_by(stage.objective, pixels, monkeypatch))
    vq = fresh_autoencoder(SHAPE)
    decoder = DecoderObjective(vq, PictureLoss(AutoencoderLosses()), feature_noise=0.5)
    decoder.features = vq.features
    assert of_half_a_normal(*decoded_by(decoder, pixels, monkeypatch))


@pytest.mark.parametrize("weight, moves_codes", [("commitment", False), ("codebook", True)])
def test_features_are_drawn_to_codes_and_codes_to_features_by_their_own_weights(
    stage, weight, moves_codes
):
    stage.begin_step(2)
    objective = stage.objective
    nothing = {field.name: 0.0 for field in fields(AutoencoderLosses)}
    objective.recipe = replace(SHAPE, losses=AutoencoderLosses(**(nothing | {weight: 1.0})))
    objective.picture_loss = PictureLoss(objective.recipe.losses)
    objective(batch(stage, 2)).total.backward()

    def moved(parameter):
        return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)

    assert moved(objective.vq.quantize.embedding.weight) == moves_codes
    assert moved(objective.vq.quant_conv.weight) != moves_codes


def test_a_code_counts_the_steps_since_it_was_chosen(stage):
    stage.begin_step(2)
    objective = stage.objective
    objective(batch(stage, 2))
    unused = objective.last_used_K == 1
    assert 0 < unused.sum() < len(unused) and (objective.last_used_K[~unused] == 0).all()
    before_K = objective.last_used_K.clone()
    objective.eval()(batch(stage, 3))
    assert torch.equal(objective.last_used_K, before_K), "measuring chooses nothing"
    objective.last_used_K[:3] = SHAPE.revive_every
    objective.last_used_K[3:] = SHAPE.revive_every - 1
    assert objective.revive(batch(stage), torch.Generator().manual_seed(0)) == 3
    assert objective.last_used_K.tolist() == [0] * 3 + [SHAPE.revive_every - 1] * 13


def test_codes_begin_once_and_are_revived_every_so_often(stage, monkeypatch):
    begun, revived = [], []
    for step in range(12):
        with monkeypatch.context() as patched:
            patched.setattr(stage.objective, "start_codebook", lambda *_, n=step: begun.append(n))
            patched.setattr(stage.objective, "revive", lambda *_, n=step: revived.append(n))
            stage.begin_step(step)
    assert begun == [2] and revived == [5, 8, 11]


def test_every_batch_of_every_device_and_seed_has_pictures_of_its_own(stage):
    def batches(seed: int, shard: int):
        stage.seed, stage.place = seed, Rank(shard, 2)
        return [
            pixels.numpy().tobytes() for step in range(3) for (pixels, *_) in stage.parts(step, 2)
        ]

    found = [part for seed in (0, 1) for shard in (0, 1) for part in batches(seed, shard)]
    assert len(set(found)) == len(found) == 24
    assert batches(0, 0) == found[:6]


def test_as_many_held_out_pictures_are_measured_as_asked_for(stage):
    stage.validate_rows = 10
    parts = [part for part, _ in stage.held_out()]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), stage.pictures.held_out_M3HW[:10])


def test_sprites_that_an_autoencoder_is_measured_with_are_never_drawn(monkeypatch):
    shown: list[str] = []
    load = SceneImage.load

    def remember(picture: SceneImage, size: int):
        shown.extend(thing.sprite for thing in picture.scene.things)
        return load(picture, size)

    monkeypatch.setattr(SceneImage, "load", remember)
    world = World.open(held_out=0.2)
    pictures = WorldPictures(world, 16)
    cast = {s.key for noun in world.cast for s in world.things[noun].sprites}
    apart = set(shown[: HELD_OUT_IMAGES // 2])
    assert not apart & cast and len(apart) > 80
    assert set(shown[HELD_OUT_IMAGES // 2 :]) <= cast, "then scenes of the cast"
    assert pictures.held_out_M3HW.shape == (HELD_OUT_IMAGES, 3, 16, 16)
    shown.clear()
    drawn_M3HW = pictures.draw(1500, torch.Generator().manual_seed(1))
    assert not apart & set(shown) and len(set(shown)) > 800
    assert not cast - set(shown) and drawn_M3HW.shape == (1500, 3, 16, 16)
    one_M3HW, same_M3HW = (pictures.draw(64, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one_M3HW, same_M3HW)


def test_every_normalisation_has_the_groups_of_the_recipe():
    vq = fresh_autoencoder(replace(SHAPE, norm_num_groups=8))
    norms = [module for module in vq.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {8}
    again = OrthusVQ(OrthusVQConfig(**vq.config.to_dict()))
    assert again.decoder.norm_out.num_groups == again.encoder.norm_out.num_groups == 8
    assert OrthusVQ(fresh_autoencoder(SHAPE).config).decoder.norm_out.num_groups == 32
    with pytest.raises(ValueError, match="no divisor of 32"):
        replace(SHAPE, norm_num_groups=12)


def test_an_autoencoder_depends_on_no_mixture_of_rows():
    recipe = PretrainRecipe(autoencoder=SHAPE)
    other = replace(recipe, data=replace(recipe.data, tasks=TaskWeights(scene=3.0), rows=7))
    assert origins(recipe, *OF_AUTOENCODER) == origins(other, *OF_AUTOENCODER)
    for key, value in (("source", "elsewhere"), ("held_out", 0.25), ("seed", 9)):
        other = replace(recipe, data=replace(recipe.data, **{key: value}))
        assert origins(recipe, *OF_AUTOENCODER) != origins(other, *OF_AUTOENCODER)


def test_a_key_that_an_earlier_state_lacks_had_its_default(tmp_path):
    now = origins(PretrainRecipe(autoencoder=SHAPE), *OF_AUTOENCODER)
    key = "autoencoder.discriminator.kind"
    before = {name: value for name, value in now.items() if name != key}
    check_same(before, now, tmp_path, length="steps")
    with pytest.raises(TrainingError, match="discriminator.kind = not set, now 'relativistic'"):
        check_same(before, now | {key: "relativistic"}, tmp_path, length="steps")
    # So had a key of a source of data.
    source = {"path": "a", "name": "b"}
    now = origins(PretrainRecipe(data=DataRecipe(sources=(SourceRecipe(**source),))))
    check_same(now | {"data.sources": [source]}, now, tmp_path, length="steps")
    with pytest.raises(TrainingError, match=r"data\.sources = "):
        check_same(now | {"data.sources": [source | {"first": 7}]}, now, tmp_path, length="steps")
