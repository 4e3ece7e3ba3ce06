"""Trainings on what is broken, empty or of another stage: named, left out, or refused at once."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.checkpoint.model_folder import open_orthus, save_model
from orthus_core.errors import CheckpointError, DataError, OutputError
from orthus_core.events import Note, StepDone
from orthus_core.recipe import (
    BuildBaseRecipe,
    FinetuneVaeRecipe,
    PosttrainRecipe,
    PretrainRecipe,
    load,
)
from orthus_core.train.pretrain import pretrain
from orthus_core.train.state import training_folder
from orthus_core.train.trainings import build_base, finetune_vae, posttrain
from tests.conftest import make_tiny_model
from tests.core.toy_data import SHORT, interleaved, pictures_with_words, words

TRAININGS = [
    (finetune_vae, FinetuneVaeRecipe),
    (build_base, BuildBaseRecipe),
    (posttrain, PosttrainRecipe),
]


def recipe_for(schema, source: Path, *overrides):
    return load(schema, None, (*SHORT, f"data.source={json.dumps(str(source))}", *overrides))


@pytest.fixture
def spoilt(tmp_path) -> Path:
    """Twenty good pictures with words, one cut short, one that is text, one without words."""
    folder = pictures_with_words(tmp_path / "pictures")
    whole = (folder / "003.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "lie.png").write_text("no picture")
    for name in ("cut", "lie"):
        (folder / f"{name}.txt").write_text("a square")
    (folder / "silent.png").write_bytes(whole)
    return folder


@pytest.mark.parametrize("trainer, schema", TRAININGS)
def test_broken_pictures_among_good_ones_are_counted_named_and_left_out(
    trainer, schema, spoilt, tiny_folder, tmp_path
):
    events = list(trainer(recipe_for(schema, spoilt), tiny_folder, tmp_path / "out"))
    notes = [event.message for event in events if isinstance(event, Note)]
    assert "3 of 23 records are left out" in notes
    for name in ("cut.png", "lie.png", "silent.png"):
        assert any(name in note for note in notes), name
    assert sum(isinstance(event, StepDone) for event in events) == 4
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("trainer, schema", TRAININGS)
def test_a_strict_training_stops_at_the_first_broken_picture(
    trainer, schema, spoilt, tiny_folder, tmp_path
):
    (spoilt / "silent.png").unlink()
    with pytest.raises(DataError) as caught:
        list(trainer(recipe_for(schema, spoilt, "data.strict=true"), tiny_folder, tmp_path / "out"))
    assert "cut.png" in caught.value.where
    assert not (tmp_path / "out").exists()


def test_documents_that_a_stage_cannot_use_are_left_out(tiny_folder, tmp_path):
    path = interleaved(tmp_path / "data", 12)
    texts = [("no picture here", "indeed"), (words(0) * 60, "too long")]
    with path.open("a") as file:
        for number, (question, answer) in enumerate(texts):
            segments = [
                {"type": "text", "role": "user", "value": question},
                {"type": "text", "role": "model", "value": answer},
            ]
            file.write(json.dumps({"segments": segments, "id": f"extra-{number}"}) + "\n")

    def left_out(trainer, schema):
        events = trainer(recipe_for(schema, path), tiny_folder, tmp_path / schema.command)
        return [event.message for event in events if isinstance(event, Note)][:3]

    told = left_out(build_base, BuildBaseRecipe)
    assert told[0] == "2 of 14 records are left out"
    first, second = sorted(told[1:])
    assert first.endswith("extra-0: there is no picture in it") and "extra-1" in second
    told = left_out(posttrain, PosttrainRecipe)
    assert told[0] == "1 of 14 records are left out"
    assert "extra-1: the row has" in told[1] and "the context 256" in told[1]


@pytest.mark.parametrize("trainer, schema", TRAININGS)
@pytest.mark.parametrize("kind", ["empty folder", "empty file", "missing", "all broken"])
def test_data_with_nothing_in_it_is_refused(kind, trainer, schema, tiny_folder, tmp_path):
    source = tmp_path / "data"
    if kind == "empty folder":
        source.mkdir()
    if kind == "empty file":
        source = tmp_path / "data.jsonl"
        source.write_text("\n\n")
    if kind == "all broken":
        source.mkdir()
        (source / "a.png").write_text("no picture")
        (source / "a.txt").write_text("a square")
    with pytest.raises(DataError) as caught:
        list(trainer(recipe_for(schema, source), tiny_folder, tmp_path / "out"))
    assert str(source) in caught.value.where and caught.value.hint
    assert not training_folder(tmp_path / "out").exists()


def test_pretraining_on_nothing_is_refused_before_it_begins(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="no pictures with words"):
        list(pretrain(recipe_for(PretrainRecipe, tmp_path / "data"), tmp_path / "out"))
    assert not training_folder(tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command, other", [("posttrain", "starter/4-build-base"), ("build-base", "starter/1-pretrain")]
)
def test_a_recipe_of_another_stage_is_refused_with_its_command(command, other, tmp_path):
    result = CliRunner().invoke(
        app, [command, other, "--init-from", "mini", "-o", str(tmp_path / "out")]
    )
    right = {"starter/4-build-base": "build-base", "starter/1-pretrain": "pretrain"}[other]
    assert result.exit_code != 0
    assert f"this is a recipe for `orthus {right}`, not for `orthus {command}`" in result.output


@pytest.fixture(scope="module")
def discrete(tmp_path_factory) -> Path:
    """A discrete Chameleon from the shortest pretraining."""
    folder = tmp_path_factory.mktemp("discrete")
    source = interleaved(folder / "data")
    tiny = (
        "tokenizer.vocab_size=320",
        "tokenizer.rows=20",
        "autoencoder.resolution=16",
        "autoencoder.channel_multiplier=[1, 1]",
        "autoencoder.embed_dim=8",
        "autoencoder.latent_channels=8",
        "autoencoder.num_embeddings=16",
        "autoencoder.continuous_steps=1",
        "autoencoder.optim.steps=2",
        "autoencoder.optim.batch_size=4",
        "backbone.hidden_size=16",
        "backbone.intermediate_size=24",
        "backbone.num_hidden_layers=1",
        "backbone.num_attention_heads=2",
    )
    for _ in pretrain(recipe_for(PretrainRecipe, source, *tiny), folder / "chameleon"):
        pass
    return folder / "chameleon"


@pytest.mark.parametrize(
    "trainer, schema", [pair for pair in TRAININGS if pair[1] is not PosttrainRecipe]
)
def test_a_discrete_chameleon_has_to_be_converted_first(trainer, schema, discrete, tmp_path):
    with pytest.raises(CheckpointError, match="discrete Chameleon") as caught:
        list(trainer(recipe_for(schema, tmp_path), discrete, tmp_path / "out"))
    assert caught.value.hint.startswith("orthus convert ")


def test_a_decoder_is_needed_to_be_trained(tiny_folder, tmp_path):
    opened = open_orthus(tiny_folder, device="cpu")
    config = opened.model.config.to_dict()
    blind = make_tiny_model(
        vocab_size=config["vocab_size"], vocabulary_map=config["vocabulary_map"]
    )
    blind.model.vqmodel.decoder = None
    blind.config.vq_config.has_decoder = False
    save_model(blind, opened.processor, tmp_path / "blind")
    with pytest.raises(CheckpointError, match="no pixel decoder") as caught:
        list(
            finetune_vae(
                recipe_for(FinetuneVaeRecipe, tmp_path), tmp_path / "blind", tmp_path / "o"
            )
        )
    assert "--vqgan" in caught.value.hint


def test_a_model_without_a_tokenizer_trains_on_no_words(tmp_path):
    save_model(make_tiny_model(), None, tmp_path / "mute")
    source = pictures_with_words(tmp_path / "pictures", 5)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        list(posttrain(recipe_for(PosttrainRecipe, source), tmp_path / "mute", tmp_path / "out"))


@pytest.mark.parametrize("trainer, schema", TRAININGS)
def test_a_taken_place_is_found_before_anything_is_read(trainer, schema, tiny_folder, tmp_path):
    start = partial(trainer, recipe_for(schema, tmp_path / "missing"), tiny_folder)
    with pytest.raises(OutputError):
        next(start(tiny_folder))
