"""The head that regresses features: what it learns, and how it draws."""

from __future__ import annotations

import re
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import ChameleonProcessor

from orthus_core import Orthus
from orthus_core.checkpoint.model_folder import open_orthus, save_model
from orthus_core.errors import CheckpointError, PromptError, RecipeError
from orthus_core.losses.joint import JointLoss
from orthus_core.recipe import BuildBaseRecipe, PosttrainRecipe, load
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import patch_sampler_for
from orthus_core.samplers.reference import image_features, prompt_ids
from orthus_core.train.trainings import build_base, posttrain
from tests.conftest import make_tiny_model
from tests.core.test_samplers_reference import engine_image
from tests.core.toy_data import SHORT, interleaved


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder) -> Path:
    return write_regression_model(tmp_path_factory.mktemp("models") / "mse", tiny_folder)


def write_regression_model(folder: Path, tiny_folder: Path) -> Path:
    """The tiny model with a head that regresses, as a folder with its tokenizer."""
    processor = ChameleonProcessor.from_pretrained(tiny_folder)
    vocabulary = processor.tokenizer.get_vocab()
    model = make_tiny_model(
        image_head="mse",
        vocab_size=len(vocabulary),
        vocabulary_map=vocabulary,
        max_position_embeddings=256,
    )
    with torch.no_grad():  # features of the autoencoder's size, and as different as the prompts
        model.regression_head.layers[-1].weight.mul_(0.3)
    return save_model(model, processor, folder)


@pytest.mark.parametrize("depth, bound", [(0, 1e-3), (1, 0.02)])
def test_it_learns_a_linear_map_and_draws_what_it_learned(depth, bound):
    random = torch.Generator().manual_seed(0)
    model = make_tiny_model(image_head="mse", head_depth=depth, latent_scale=0.5)
    hidden_XD = torch.randn(64, 32, generator=random)
    features_NC = hidden_XD @ torch.randn(32, 8, generator=random) / 32**0.5
    rows = SimpleNamespace(
        features_NC=features_NC, image_index_N=torch.arange(64), image_targets_N=None
    )
    objective, seeds_M = JointLoss(model), torch.arange(16)
    optimizer = torch.optim.Adam(model.mlp_head.parameters(), lr=0.02)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 300)
        loss = objective.image(hidden_XD, rows, seeds_M)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < bound**2
    # The loss is of features times the latent scale; what is drawn is of features.
    sampler = patch_sampler_for(model, SamplingParams.resolve(model.config))
    noise_NX = torch.stack([next(sampler.noise(seed)) for seed in range(64)])
    with torch.no_grad():
        drawn_NC = sampler.draw(hidden_XD, noise_NX, torch.eye(64))
        error = drawn_NC - features_NC
        assert error.square().mean() == pytest.approx(float(loss) / 0.5**2, rel=0.3)
        assert error.abs().max() < 10 * bound
        pair_R = torch.tensor([[3.0, -2.0]])
        guided_NC = sampler.draw(hidden_XD[:2], noise_NX[:1], pair_R)
        torch.testing.assert_close(guided_NC, pair_R @ drawn_NC[:2])


def test_a_chosen_target_alone_counts_and_without_patches_every_weight_has_a_gradient():
    model = make_tiny_model(image_head="mse")
    hidden_XD, features_NC = torch.randn(12, 32), torch.randn(8, 8)
    targets_N, index_N = torch.arange(8) < 4, torch.arange(8) + 2
    rows = SimpleNamespace(
        features_NC=features_NC, image_index_N=index_N, image_targets_N=targets_N
    )
    objective = JointLoss(model)
    found = objective.image(hidden_XD, rows, torch.arange(2))
    predicted_NC = model.mlp_head(hidden_XD[2:6])
    wanted = (predicted_NC - 0.1 * features_NC[:4]).square().mean()
    torch.testing.assert_close(found, wanted)
    nothing = SimpleNamespace(features_NC=None, image_index_N=index_N[:0], image_targets_N=None)
    objective.image(hidden_XD, nothing, torch.arange(0)).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.mlp_head.parameters())


@pytest.mark.parametrize(("guidance", "schedule"), [(1.0, None), (3.0, None), (3.0, "linear")])
def test_the_engine_draws_the_references_image_and_no_seed_another(folder, guidance, schedule):
    orthus = Orthus.open(folder, device="cpu")
    model, builder = orthus.model, orthus.builder
    patches = model.config.patches

    @torch.no_grad()
    def regressed(hidden_BD, noise_1C):
        with_prompt_1C, without_1C = model.regression_head(hidden_BD).chunk(2)
        scale = next(scales)
        return without_1C + scale * (with_prompt_1C - without_1C)

    def drawn(text: str) -> torch.Tensor:
        config = model.config
        words = (text, config.sampling_defaults["unconditional_prompt"])
        prompts = [prompt_ids(config, builder.tokenizer, each) for each in words]
        nothing = torch.zeros(config.patches, 1, config.feature_channels)
        return torch.cat(list(image_features(model, prompts, nothing, regressed)))

    rises = [1 + (guidance - 1) * (patch + 1) / patches for patch in range(patches)]
    of_patches = rises if schedule == "linear" else [guidance] * patches
    scales = cycle(of_patches)
    ours_PC = drawn("a snowman")
    for seed in (1, 2):
        asked = {"guidance": guidance, "guidance_schedule": schedule}
        theirs = engine_image(builder, "a snowman", seed, **asked)
        torch.testing.assert_close(ours_PC, theirs.features_PC, atol=1e-4, rtol=1e-4)
    assert (ours_PC - drawn("a red fox")).abs().max() > 0.01


def test_every_way_to_draw_takes_it_and_tells_no_options_that_it_lacks(folder, tmp_path):
    orthus = Orthus.open(folder, device="cpu")
    drawn = orthus.generate("a snowman", seed=1)
    (image,) = drawn.images
    alone = orthus.generate("a snowman", seed=1, guidance=5.0).images[0]
    assert image.tobytes() == alone.tobytes()
    unlimited = orthus.generate("a snowman", seed=1, patch_norm=()).images[0]
    assert image.tobytes() == unlimited.tobytes()
    assert orthus.edit(image, "make it red", seed=1).images[0].size == image.size
    assert len(orthus.caption([image], max_new_tokens=3).texts) == 1
    params = SamplingParams.resolve(orthus.model.config, guidance=2.0)
    assert params.to_dict().keys() == {
        *("steps", "guidance", "image_guidance", "noise_scale", "negative_prompt")
    }


@pytest.mark.parametrize(
    "name, value",
    [("steps", 5), ("scheduler", "unipc"), ("preset", "fast"), ("step_tolerance", 0.1)]
    + [("noise_scale", 0.5), ("guidance_interval", (200, 800))],
)
def test_options_of_denoising_are_refused_by_name(folder, name, value):
    config = open_orthus(folder, device="cpu").model.config
    with pytest.raises(PromptError, match=f"{re.escape(str(value))}.*regression head") as found:
        SamplingParams.resolve(config, **{name: value})
    assert found.value.where == name
    with pytest.raises(CheckpointError, match="regresses features"):
        _ = open_orthus(folder, device="cpu").model.diffusion_head


def test_it_is_built_and_trained_by_the_recipes_but_for_keys_of_diffusion(folder, tmp_path):
    data = f"data.source={interleaved(tmp_path / 'rows')}"
    heads = []
    for number, (schema, trainer) in enumerate(
        [(BuildBaseRecipe, build_base), (PosttrainRecipe, posttrain)]
    ):
        out = tmp_path / f"model-{number}"
        recipe = load(schema, None, (*SHORT, data, "optim.lr=0.01", "patch_share=0.5"))
        list(trainer(recipe, folder, out))
        head = open_orthus(out, device="cpu").model.mlp_head.state_dict()
        before = open_orthus(folder, device="cpu").model.mlp_head.state_dict()
        assert all(not torch.equal(head[name], before[name]) for name in head)
        heads.append(head)
        wrong = load(schema, None, (*SHORT, data, "repeats=4", "timesteps=logit-normal"))
        with pytest.raises(RecipeError, match="with repeats, timesteps"):
            list(trainer(wrong, folder, tmp_path / "refused"))
