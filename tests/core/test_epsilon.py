"""A model that predicts noise, as in the paper's eq. 3, on a plain linear schedule: it is made,
trained and drawn from.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from orthus_core import Orthus
from orthus_core.checkpoint.convert import convert
from orthus_core.errors import CheckpointError, RecipeError
from orthus_core.events import ImageDone, StepDone
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe import ConvertRecipe, load
from orthus_core.recipe.training import BuildBaseRecipe, PosttrainRecipe
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.reference import image_features, prompt_ids
from orthus_core.train.trainings import build_base, posttrain
from tests.core.toy_data import SHORT, interleaved
from tests.discrete import write_tiny_chameleon

LINEAR = (
    "diffusion.prediction=epsilon",
    "diffusion.beta_schedule=linear",
    "diffusion.beta_start=1e-4",
    "diffusion.beta_end=0.02",
    "diffusion.zero_terminal_snr=false",
)
SMALL = ("head.width=24", "head.depth=2", "check.codes=8")


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory, tiny_folder) -> Path:
    return write_tiny_chameleon(tmp_path_factory.mktemp("source") / "chameleon", tiny_folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chameleon) -> Path:
    """Converted, then trained by both of the stages that have a diffusion loss."""
    folder = tmp_path_factory.mktemp("epsilon")
    data = f"data.source={interleaved(folder / 'rows')}"
    list(convert(chameleon, folder / "new", load(ConvertRecipe, None, (*SMALL, *LINEAR))))
    short = (*SHORT, data, "repeats=1", "optim.lr=0.01")
    base = load(BuildBaseRecipe, None, short)
    steps = [
        e for e in build_base(base, folder / "new", folder / "base") if isinstance(e, StepDone)
    ]
    # The noise has variance 1 in each channel, and an untrained head predicts 0.
    assert steps[0].metrics["image"] == pytest.approx(1, rel=0.2)
    list(posttrain(load(PosttrainRecipe, None, short), folder / "base", folder / "trained"))
    return folder / "trained"


def drawn_by_diffusers(
    model, tokenizer, text: str, seed: int, steps: int, guidance: float
) -> Tensor:
    """The features [P, C] of an image, denoised by diffusers' scheduler with guidance."""
    scheduler = DDIMScheduler(  # its own betas are linear, 0.0001 to 0.02
        prediction_type="epsilon", timestep_spacing="trailing", clip_sample=False
    )

    def denoise(hidden_BD: Tensor, noise_1C: Tensor) -> Tensor:
        scheduler.set_timesteps(steps)
        for timestep in scheduler.timesteps:
            twice_BC = noise_1C.expand(2, -1)
            with_prompt_1C, without_1C = model.mlp_head(
                twice_BC, timestep.expand(2), hidden_BD
            ).chunk(2)
            noise = without_1C + guidance * (with_prompt_1C - without_1C)
            noise_1C = scheduler.step(noise, timestep, noise_1C).prev_sample
        return noise_1C

    random = torch.Generator().manual_seed(seed)
    config = model.config
    prompts = [prompt_ids(config, tokenizer, words) for words in (text, "Generate an image.")]
    noise = (
        torch.randn(1, config.feature_channels, generator=random) for _ in range(config.patches)
    )
    return torch.cat(list(islice(image_features(model, prompts, noise, denoise), config.patches)))


def test_it_draws_what_diffusers_draws(trained):
    builder = Orthus.open(trained, device="cpu").builder
    model = builder.model
    assert isinstance(model, OrthusForConditionalGeneration)
    assert model.mlp_head.final_layer.linear.weight.any(), "the head was trained"
    asked = {"steps": 20, "guidance": 2.0, "noise_scale": 1.0}
    sampling = SamplingParams.resolve(model.config, **asked)
    for seed in (1, 2):
        prompt = builder.picture("a red square", sampling)._replace(seed=seed)
        events = generate(model, [prompt], sampling)
        ours = next(event for event in events if isinstance(event, ImageDone)).features_PC
        theirs = drawn_by_diffusers(model, builder.tokenizer, "a red square", seed, 20, 2.0)
        assert theirs.std() > 0.1
        # The first step divides by the signal that is left, 0.006, and rounding with it.
        torch.testing.assert_close(ours, theirs, atol=2e-3 * float(theirs.std()), rtol=1e-3)


def test_what_could_not_be_drawn_from_is_neither_made_nor_trained(trained, tmp_path):
    for wrong, said in (
        ((LINEAR[0],), "set zero_terminal_snr = false"),
        (("diffusion.beta_start=0.1",), "beta_start 0.1 is above beta_end 0.012"),
    ):
        with pytest.raises(RecipeError, match=said):
            load(ConvertRecipe, None, wrong)
    # A folder of a version that did convert it.
    folder = tmp_path / "old"
    folder.mkdir()
    for file in trained.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"zero_terminal_snr": True}))
    for training, schema in ((build_base, BuildBaseRecipe), (posttrain, PosttrainRecipe)):
        recipe = load(schema, None, SHORT)
        with pytest.raises(CheckpointError, match="without any signal") as caught:
            list(training(recipe, folder, tmp_path / "made"))
        assert "diffusion.zero_terminal_snr=false" in caught.value.hint
    assert not (tmp_path / "made.training").exists()
