"""The reference draws what the engine draws: the file to read first says how an image is made."""

from __future__ import annotations

import pytest
import torch

from orthus_core import Orthus
from orthus_core.events import ImageDone
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.schedule import make_schedule
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.reference import ddim_steps, generate_image, prompt_ids
from orthus_core.samplers.solvers import ddim_plan
from tests.conftest import make_tiny_model


def engine_image(builder: PromptBuilder, text: str, seed: int, **asked) -> ImageDone:
    """The image that the engine draws: also beside another, whose prompt is longer."""
    sampling = SamplingParams.resolve(builder.model.config, **asked)
    prompts = [
        builder.picture(words, sampling)._replace(seed=number)
        for words, number in ((text, seed), (f"{text} and a red fox", seed + 1))
    ]
    events = generate(builder.model, prompts, sampling)
    return next(event for event in events if isinstance(event, ImageDone) and event.row == 0)


@pytest.fixture
def float64_throughout(monkeypatch):
    """Both sides keep features in fp32 by `.float()`. With that in float64 as well, two ways to the
    same image differ only if one is wrong."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("changes", [{}, {"prediction": "epsilon", "zero_terminal_snr": False}])
def test_in_float64_it_is_the_engines_image(tiny_folder, float64_throughout, changes, guidance):
    builder = Orthus.open(tiny_folder).builder
    vocabulary = builder.tokenizer.get_vocab()
    model = make_tiny_model(
        vocab_size=len(vocabulary), vocabulary_map=vocabulary, **changes
    ).double()
    builder = PromptBuilder(model, builder.tokenizer)
    asked = {"steps": 20, "guidance": guidance, "noise_scale": 0.8}
    for seed in (1, 2):
        ours = generate_image(model, builder.tokenizer, "a snowman", seed=seed, **asked)
        theirs = engine_image(builder, "a snowman", seed, **asked)
        assert ours.features_PC.dtype == torch.float64 and ours.features_PC.std() > 0.1
        torch.testing.assert_close(ours.features_PC, theirs.features_PC, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(ours.pixels_3HW, theirs.pixels_3HW, atol=1e-9, rtol=1e-9)


def test_of_the_bundled_model_it_is_the_engines_image_but_for_rounding():
    builder = Orthus.open("mini", device="cpu").builder
    model, tokenizer = builder.model, builder.tokenizer
    assert isinstance(model, OrthusForConditionalGeneration)
    few = {"steps": 8}  # a third of the model's own, which draw the same patches
    images = [generate_image(model, tokenizer, "a snowman", seed=seed, **few) for seed in (1, 2)]
    for seed, ours in enumerate(images, start=1):
        theirs = engine_image(builder, "a snowman", seed, **few)
        torch.testing.assert_close(ours.features_PC, theirs.features_PC, atol=2e-4, rtol=0)
        torch.testing.assert_close(ours.pixels_3HW, theirs.pixels_3HW, atol=2e-4, rtol=0)
    assert (images[0].pixels_3HW - images[1].pixels_3HW).abs().max() > 0.1


@pytest.mark.parametrize("text", ["a snowman", "A red FOX, twice", "an <image> of </s> words"])
def test_its_ids_are_those_of_the_prompt_builder(tiny_folder, text):
    builder = Orthus.open(tiny_folder).builder
    ids = prompt_ids(builder.model.config, builder.tokenizer, text)  # type: ignore[arg-type]
    assert ids == [*builder.context(text).ids, builder.model.config.boi_token_id]


@pytest.mark.parametrize(
    "schedule", [make_schedule(), make_schedule(prediction="epsilon", zero_terminal_snr=False)]
)
def test_its_numbers_are_those_of_the_solver(schedule):
    for steps in (1, 2, 3, 7, 25, 64, 100, 333, 999, 1000):
        plan = ddim_plan(schedule, steps)
        ours = ddim_steps(schedule, steps)
        assert [step.timestep for step in ours] == plan.timesteps_T.tolist()
        assert [step.keep for step in ours] == pytest.approx(plan.keep, rel=1e-9, abs=1e-12)
        assert [step.push for step in ours] == pytest.approx(plan.push, rel=1e-9, abs=1e-12)
