"""`posttrain` of a discrete Chameleon: the paper's baseline, on the rows of an Orthus."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import ChameleonForConditionalGeneration

from orthus_core import Orthus
from orthus_core.checkpoint.model_folder import open_model
from orthus_core.errors import RecipeError
from orthus_core.events import StepDone
from orthus_core.losses.joint import counts_of
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.config import IGNORE
from orthus_core.recipe import PosttrainRecipe, load
from orthus_core.train.batches import discrete_batch_builder, orthus_batch_builder, read_rows
from orthus_core.train.data_encode import cache_for
from orthus_core.train.state import training_folder
from orthus_core.train.trainings import posttrain
from tests.core.test_train_rows import finished
from tests.core.toy_data import SHORT, interleaved, pictures_with_words
from tests.discrete import write_tiny_chameleon


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory, tiny_folder) -> Path:
    folder = tmp_path_factory.mktemp("source") / "chameleon"
    write_tiny_chameleon(folder, tiny_folder)
    (folder / "vocabulary.txt").write_text("snowman\n")
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[str, ...]:
    """Two data sets, as `--set` names them."""
    folder = tmp_path_factory.mktemp("data")
    rows, pictures = interleaved(folder / "rows"), pictures_with_words(folder / "pictures")
    return (
        f'data.sources=[{{path="{rows}", weight=2}}, {{path="{pictures}", also_captions=true}}]',
        "data.packing=true",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chameleon, sources) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("models") / "dagger"
    recipe = load(
        PosttrainRecipe,
        None,
        (*SHORT, *sources, "optim.lr=0.003", "log.sample_every=4", "sampling.guidance=1.5"),
    )
    return folder, list(posttrain(recipe, chameleon, folder))


def test_it_learns_by_its_own_tokens_and_keeps_its_autoencoder(chameleon, trained):
    folder, events = trained
    steps = [event.metrics for event in events if isinstance(event, StepDone)]
    assert len(steps) == 4 and steps[-1]["total"] < steps[0]["total"]
    assert all("validation_total" in steps[at] for at in (1, 3))
    assert not {"image", "text"} & steps[0].keys(), "one loss"
    before, after = (load_file(f / "model.safetensors") for f in (chameleon, folder))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= moved
    assert not any(name.startswith("model.vqmodel.") for name in moved)
    assert (training_folder(folder) / "samples" / "step-000004.png").is_file()
    assert "A discrete Chameleon" in (folder / "README.md").read_text()
    words = (folder / "vocabulary.txt").read_text().split()
    assert {"snowman", "square"} <= set(words)


def test_it_draws_answers_and_opens_in_transformers(trained):
    folder, _ = trained
    orthus = Orthus.open(folder, device="cpu")
    assert isinstance(orthus.model, DiscreteChameleon)
    assert orthus.model.config.sampling_defaults["guidance"] == 1.5
    (image,) = orthus.generate("a red square", seed=1).images
    assert image.size == (16, 16)
    assert len(orthus.caption([image], max_new_tokens=3).texts) == 1
    theirs = ChameleonForConditionalGeneration.from_pretrained(folder)
    ours = load_file(folder / "model.safetensors")
    assert torch.equal(
        theirs.lm_head.weight.to(ours["lm_head.weight"].dtype), ours["lm_head.weight"]
    )
    assert theirs.config.vq_config.embed_dim == 8
    assert theirs.config.architectures == ["ChameleonForConditionalGeneration"]


def test_a_stopped_training_goes_on_to_the_same_model(chameleon, sources, tmp_path):
    recipe = load(PosttrainRecipe, None, (*SHORT, *sources))
    whole, parts, seen = tmp_path / "whole", tmp_path / "parts", []
    list(posttrain(recipe, chameleon, whole))
    for event in posttrain(recipe, chameleon, parts, should_stop=lambda: len(seen) == 2):
        if isinstance(event, StepDone):
            seen.append(event)
    assert not parts.exists()
    steps = [e for e in posttrain(recipe, chameleon, parts, resume=True) if isinstance(e, StepDone)]
    assert [event.step for event in steps] == [3, 4]
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_interpolated_training_ends_on_the_way(chameleon, trained, sources, tmp_path):
    recipe = load(PosttrainRecipe, None, (*SHORT, *sources, "optim.lr=0.003", "interpolation=0.5"))
    list(posttrain(recipe, chameleon, tmp_path / "half"))
    start, whole, half = (
        {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}
        for folder in (chameleon, trained[0], tmp_path / "half")
    )
    for name, weight in half.items():
        torch.testing.assert_close(weight, (start[name] + whole[name]) / 2, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(whole[name], half[name]) for name in half)
    # And so does the whole training, when its last state is written anew.
    state = training_folder(trained[0])
    list(posttrain(recipe, chameleon, tmp_path / "again", resume=state))
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(weight.float(), half[name]) for name, weight in again.items())


def test_the_objective_and_own_pictures_say_which_tokens_are_learned(chameleon, tmp_path):
    opened = open_model(chameleon, device="cpu")
    data = load(PosttrainRecipe, None, (f"data.source={interleaved(tmp_path / 'rows')}",)).data
    rows = finished(read_rows(data)).train

    def learned(**how) -> torch.Tensor:
        """Targets of each position [B, S] of six rows."""
        codes = lambda pictures: torch.arange(4).repeat(len(pictures), 1)  # noqa: E731
        tokenizer = opened.processor.tokenizer
        builder = discrete_batch_builder(data, opened.model.config, tokenizer, codes, **how)
        encoded = [builder.encode(rows(number)) for number in range(6)]
        assert {drawn for row in encoded for drawn in row.from_model} == {True, False}
        return builder.collate(encoded).text_targets_BS

    is_code = torch.isin(torch.arange(10_000), torch.tensor(opened.model.code_token_ids))
    both, text, image = learned(), learned(pictures=False), learned(words=False)
    assert (is_code[text.clamp(0)] & (text != IGNORE)).sum() == 0 < (text != IGNORE).sum()
    assert is_code[image[image != IGNORE]].all() and (image != IGNORE).any()
    assert torch.equal(both, torch.where(text != IGNORE, text, image))
    own = learned(words=False, own_pictures=True)
    assert torch.equal(own[own != IGNORE], image[own != IGNORE])
    assert 0 < (own != IGNORE).sum() < (image != IGNORE).sum()


def test_it_is_trained_on_the_rows_and_tokens_of_an_orthus(chameleon, tiny_folder, sources):
    """The paper compares the two at equal tokens: with one recipe, batch by batch, they differ in
    what is in the slots of patches alone."""
    recipe = load(PosttrainRecipe, None, (*SHORT, *sources, "data.condition_dropout=0.3"))
    codes = lambda pictures: torch.arange(4).repeat(len(pictures), 1)  # noqa: E731
    features = lambda pictures: torch.zeros(len(pictures), 4, 8)  # noqa: E731
    builders = {
        chameleon: partial(discrete_batch_builder, codes=codes),
        tiny_folder: partial(orthus_batch_builder, features=features),
    }
    found = []
    for folder, builder in builders.items():
        opened = open_model(folder, device="cpu")
        rows = finished(read_rows(recipe.data))
        made = builder(recipe.data, opened.model.config, opened.processor.tokenizer)
        batches = made.batches(rows, recipe.data, 5, 4)
        found.append([*(batches.train(step) for step in range(4)), *batches.held_out()])
    slot = opened.model.config.image_token_id
    assert sum(int((batch.ids_BS == slot).sum()) for batch in found[1]) > 0
    for discrete, continuous in zip(*found, strict=True):
        slots_BS = continuous.ids_BS == slot
        assert torch.equal(discrete.ids_BS.masked_fill(slots_BS, slot), continuous.ids_BS)
        assert torch.equal(discrete.attention_mask_BS, continuous.attention_mask_BS)
        # Each predicts the same words, and a code where the other predicts a feature.
        is_word_BS = continuous.text_targets_BS != IGNORE
        words, others = discrete.text_targets_BS[is_word_BS], discrete.text_targets_BS[~is_word_BS]
        assert torch.equal(words, continuous.text_targets_BS[is_word_BS])
        assert int((others != IGNORE).sum()) == counts_of(continuous).image


def test_what_only_an_orthus_can_be_trained_with_is_refused_by_name(chameleon, tmp_path):
    def begin(*changes: str) -> None:
        list(
            posttrain(load(PosttrainRecipe, None, (*SHORT, *changes)), chameleon, tmp_path / "out")
        )

    with pytest.raises(RecipeError, match="with lambda_image, repeats, prefix_noise, lora") as all_:
        begin("lambda_image=1", "repeats=4", "prefix_noise=0.1", "lora.rank=4")
    assert "orthus convert" in all_.value.hint
    with pytest.raises(RecipeError, match="sampling.patch_norm"):
        begin('sampling.patch_norm="measured"')
    with pytest.raises(RecipeError, match="sampling.guidance_interval"):
        begin("sampling.guidance_interval=[200, 800]")
    with pytest.raises(RecipeError, match="sampling.steps = 20: 20 steps a patch"):
        begin("sampling.steps=20")
    assert not (tmp_path / "out.training").exists()


def test_codes_that_a_training_kept_are_those_that_are_encoded_beforehand(
    chameleon, sources, tmp_path
):
    recipe = load(PosttrainRecipe, None, (*SHORT, *sources, f"data.cache={tmp_path / 'codes'}"))
    list(posttrain(recipe, chameleon, tmp_path / "out"))
    cache = cache_for(recipe, str(chameleon), tmp_path / "codes")
    assert cache.path is not None and cache.path.name.startswith("codes-") and len(cache) > 5
