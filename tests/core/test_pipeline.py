"""The whole line at toy size: from nothing to a discrete Chameleon, to an Orthus, to a picture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthus_core.checkpoint.convert import convert
from orthus_core.checkpoint.model_folder import open_model
from orthus_core.errors import CheckpointError, OutputError, RecipeError, TrainingError
from orthus_core.events import ImageDone, StepDone
from orthus_core.recipe import (
    BuildBaseRecipe,
    ConvertRecipe,
    FinetuneVaeRecipe,
    PosttrainRecipe,
    PretrainRecipe,
    load,
)
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.train import autoencoder
from orthus_core.train.pretrain import pretrain, states_of
from orthus_core.train.state import state_path, training_folder
from orthus_core.train.trainings import build_base, finetune_vae, posttrain
from tests.conftest import lines_of_metrics

SHORT = (
    "optim.steps=2",
    "optim.batch_size=3",
    "log.sample_every=0",
    "log.every=1",
    "log.validate_rows=6",
)
TINY = (
    "tokenizer.vocab_size=400",
    "tokenizer.rows=200",
    "autoencoder.resolution=16",
    "autoencoder.channel_multiplier=[1, 1, 1]",
    "autoencoder.embed_dim=8",
    "autoencoder.latent_channels=8",
    "autoencoder.num_embeddings=32",
    "autoencoder.continuous_steps=1",
    "autoencoder.optim.steps=3",
    "autoencoder.optim.batch_size=4",
    "backbone.hidden_size=32",
    "backbone.intermediate_size=48",
    "backbone.num_hidden_layers=2",
    "backbone.num_attention_heads=2",
)


def run(events) -> list:
    return [event for event in events if isinstance(event, StepDone)]


@pytest.fixture(scope="module", autouse=True)
def few_pictures_to_begin_codes_on() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "KMEANS_PICTURES", 64)
        yield


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Path:
    """A folder with every stage's model in it."""
    runs = tmp_path_factory.mktemp("runs")
    assert len(run(pretrain(load(PretrainRecipe, None, SHORT + TINY), runs / "chameleon"))) == 5
    head = ("head.width=16", "head.depth=2", "diffusion.latent_scale=1.0", "check.codes=8")
    for _ in convert(runs / "chameleon", runs / "start", load(ConvertRecipe, None, head)):
        pass
    stages = [
        (finetune_vae, FinetuneVaeRecipe, "start", "vae", ()),
        (build_base, BuildBaseRecipe, "vae", "base", ("temperature.end=16.0",)),
        (posttrain, PosttrainRecipe, "base", "mini", ("sampling.steps=3", "prefix_noise=0.1")),
    ]
    for trainer, schema, before, after, more in stages:
        assert len(run(trainer(load(schema, None, SHORT + more), runs / before, runs / after))) == 2
    return runs


def changed(one: Path, other: Path) -> set[str]:
    """Names of tensors that differ between two model folders."""
    before, after = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_discrete_model_opens_in_transformers(line):
    from transformers import ChameleonForConditionalGeneration

    model = ChameleonForConditionalGeneration.from_pretrained(line / "chameleon")
    assert model.config.vocabulary_map["IMGIMGAZ"] == 4


def test_a_trained_autoencoder_is_taken_as_it_is(line, tmp_path):
    own, second = tmp_path / "own", tmp_path / "second"
    shutil.copytree(line / "chameleon", own)
    taken = f"autoencoder.taken_from={own}"
    words = (*SHORT, *TINY, "seed=3", "autoencoder.optim.steps=9", taken)
    recipe = load(PretrainRecipe, None, words)
    assert len(run(pretrain(recipe, second))) == 2, "the transformer's steps alone"
    moved = changed(line / "chameleon", second)
    assert "lm_head.weight" in moved and not any("vqmodel" in name for name in moved)

    # A state does not hold it, so it must be the same when the training goes on.
    (part,) = training_folder(second).glob("transformer/states/*/part-*")
    stored = load_file(part)
    assert any("lm_head" in name for name in stored)
    assert not any("vqmodel" in name for name in stored)
    weights = load_file(own / "model.safetensors")
    next(weight for name, weight in weights.items() if "vqmodel" in name).add_(1)
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    longer = load(PretrainRecipe, None, (*words, "optim.steps=3"))
    with pytest.raises(TrainingError, match="the saved state was made with codes_of"):
        run(pretrain(longer, second, resume=True))


def test_a_discrete_model_goes_on_from_another(line, tmp_path):
    """With lr 0 nothing moves: words, codes and weights are those of the model it began with."""
    start, out = line / "chameleon", tmp_path / "further"
    recipe = load(
        PretrainRecipe, None, (*SHORT, "optim.lr=0.0")
    )  # not TINY: shapes are the start's
    still = run(pretrain(recipe, out, init_from=start))
    assert len(still) == 2 and changed(start, out) == set()
    for name in ("tokenizer.json", "vocabulary.txt"):
        assert (out / name).read_text() == (start / name).read_text()
    shape = [open_model(folder).model.config for folder in (start, out)]
    assert shape[0].vocabulary_map == shape[1].vocabulary_map

    further = load(PretrainRecipe, None, (*SHORT, "optim.lr=0.01", "optim.warmup_steps=0"))
    with pytest.raises(TrainingError, match="optim.lr = 0.0, now 0.01"):
        run(pretrain(further, out, init_from=start, resume=True))
    moved = (
        changed(start, out) if run(pretrain(further, out, init_from=start, overwrite=True)) else {}
    )
    assert "lm_head.weight" in moved and not any("vqmodel" in name for name in moved)
    assert run(pretrain(further, out, init_from=start, resume=True)) == [], "it is finished"
    with pytest.raises(TrainingError, match="init_from"):
        run(pretrain(further, out, init_from=out, resume=True))


def test_a_discrete_model_does_not_go_on_from_an_orthus(line, tmp_path):
    recipe = load(PretrainRecipe, None, SHORT)
    with pytest.raises(CheckpointError, match="this is an Orthus"):
        run(pretrain(recipe, tmp_path / "out", init_from=line / "mini"))
    assert not (tmp_path / "out").exists()


def test_an_autoencoder_that_cannot_draw_is_not_taken(line, tmp_path, monkeypatch):
    def without_decoder(source, **how):
        opened = open_model(source, **how)
        opened.model.model.vqmodel.decoder = None
        return opened

    monkeypatch.setattr("orthus_core.train.pretrain.open_model", without_decoder)
    taken = f"autoencoder.taken_from={line / 'chameleon'}"
    recipe = load(PretrainRecipe, None, (*SHORT, *TINY, taken))
    with pytest.raises(CheckpointError, match="no pixel decoder"):
        run(pretrain(recipe, tmp_path / "second"))
    assert not (tmp_path / "second").exists()


def test_each_stage_moves_its_own_part(line):
    decoder = ("model.vqmodel.decoder.", "model.vqmodel.post_quant_conv.")
    assert all(name.startswith(decoder) for name in changed(line / "start", line / "vae"))
    image = ("mlp_head.", "model.codebook_in.", "model.embed_tokens.")
    assert all(name.startswith(image) for name in changed(line / "vae", line / "base"))
    assert not any("vqmodel" in name for name in changed(line / "base", line / "mini"))
    assert "lm_head.weight" in changed(line / "base", line / "mini")


def test_the_result_draws_with_its_own_settings(line):
    model, processor, _ = open_model(line / "mini")
    assert model.config.embedding_temperature == 16.0
    sampling = SamplingParams.resolve(model.config)
    assert sampling.steps == 3
    prompt = PromptBuilder(model, processor.tokenizer).picture("a snowman", sampling)
    settings = SamplingParams(steps=sampling.steps)
    (image,) = [e for e in generate(model, [prompt], settings) if isinstance(e, ImageDone)]
    assert image.pixels_3HW.shape == (3, 16, 16) and image.pixels_3HW.isfinite().all()


def test_a_finished_base_resumes_to_the_same_folder(line, tmp_path):
    recipe = load(BuildBaseRecipe, None, (*SHORT, "temperature.end=16.0"))
    run(build_base(recipe, line / "vae", tmp_path / "base"))
    run(build_base(recipe, line / "vae", tmp_path / "base", resume=True, overwrite=True))
    assert changed(line / "base", tmp_path / "base") == set()
    assert open_model(tmp_path / "base").model.config.embedding_temperature == 16.0


def test_a_stopped_posttrain_resumes_to_the_same_file(line, tmp_path):
    recipe = load(PosttrainRecipe, None, SHORT + ("optim.steps=4",))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(posttrain(recipe, line / "base", whole))
    seen = []
    stopped = posttrain(recipe, line / "base", parts, should_stop=lambda: len(seen) >= 1)
    for event in stopped:
        seen.append(event)
    assert not parts.exists() and training_folder(parts).exists()
    run(posttrain(recipe, line / "base", parts, resume=True))
    assert changed(whole, parts) == set()


def test_a_posttrain_goes_on_from_another_runs_state(line, tmp_path):
    recipe = load(PosttrainRecipe, None, SHORT + ("optim.steps=4",))
    whole, parts, branch = tmp_path / "whole", tmp_path / "parts", tmp_path / "branch"
    run(posttrain(recipe, line / "base", whole))
    run(posttrain(recipe, line / "base", parts, should_stop=lambda: True))
    steps = run(posttrain(recipe, line / "base", branch, resume=parts))
    assert [event.step for event in steps] == [2, 3, 4]
    assert changed(whole, branch) == set()
    assert lines_of_metrics(whole / "metrics.jsonl") == lines_of_metrics(branch / "metrics.jsonl")
    with pytest.raises(TrainingError, match=r"optim.lr = \S+, now 0.5"):
        other = load(PosttrainRecipe, None, (*SHORT, "optim.steps=4", "optim.lr=0.5"))
        run(posttrain(other, line / "base", tmp_path / "other", resume=parts))


@pytest.mark.parametrize("by", ["run", "transformer"])
def test_a_pretrain_goes_on_from_another_runs_states(line, tmp_path, by):
    recipe = load(PretrainRecipe, None, (*SHORT, *TINY))
    parts, branch, seen = tmp_path / "parts", tmp_path / "branch", []
    for event in pretrain(recipe, parts, should_stop=lambda: len(seen) == 4):
        if isinstance(event, StepDone):
            seen.append(event)
    assert not parts.exists()
    folder = training_folder(parts)
    place = {"run": parts, "transformer": state_path(folder / "transformer", 1)}
    steps = run(pretrain(recipe, branch, resume=place[by]))
    assert [event.step for event in steps] == [2], "the autoencoder was through"
    assert changed(line / "chameleon", branch) == set()


def test_a_path_names_the_states_of_both_trainings_of_a_pretrain(tmp_path):
    output = tmp_path / "out"
    folder = training_folder(output)
    for name, step in (("autoencoder", 3), ("autoencoder", 5), ("transformer", 2)):
        state_path(folder / name, step).mkdir(parents=True)
        (state_path(folder / name, step) / "about.json").touch()
    both = (folder / "autoencoder", folder / "transformer")
    assert states_of(output) == states_of(folder) == both
    of_autoencoder = state_path(folder / "autoencoder", 3)
    assert states_of(of_autoencoder) == (of_autoencoder, False)
    of_transformer = state_path(folder / "transformer", 2)
    assert states_of(of_transformer) == (folder / "autoencoder", of_transformer)
    assert states_of(True) == (True, True) and states_of(False) == (False, False)
    of_transformer.rename(tmp_path / "alone")
    assert states_of(output) == (folder / "autoencoder", False)
    with pytest.raises(TrainingError, match="none of a pretrain run"):
        states_of(tmp_path / "alone")


def test_a_taken_output_is_found_before_the_training(line):
    trainer = partial(posttrain, load(PosttrainRecipe, None, SHORT), line / "base")
    with pytest.raises(OutputError):
        next(trainer(line / "mini"))


def test_a_recipe_of_another_stage_is_refused(line):
    with pytest.raises(RecipeError, match="posttrain"):
        load(BuildBaseRecipe, "starter/5-posttrain")
