"""`finetune-vae` opens the autoencoder alone; everything else goes from file to file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthus_core.checkpoint import lazy
from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.checkpoint.writer import split_into_shards, write_weights
from orthus_core.errors import CheckpointError
from orthus_core.events import StepDone
from orthus_core.recipe import FinetuneVaeRecipe, load
from orthus_core.train.state import saved_steps, training_folder
from orthus_core.train.trainings import finetune_vae
from tests.core.toy_data import SHORT, pictures_with_words

VQ = "model.vqmodel."
TRAINED = (VQ + "decoder.", VQ + "post_quant_conv.")


@pytest.fixture
def start(tiny_folder, tmp_path) -> Path:
    """Sharded, the decoder in fp32 and everything else in bf16, with a tensor that no model has."""
    folder = tmp_path / "start"
    shutil.copytree(tiny_folder, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    file.unlink()
    for name, weight in weights.items():
        if not name.startswith(TRAINED):
            weights[name] = weight.bfloat16()
    weights["another.tensor"] = torch.zeros(3)
    sources = {name: lazy.in_memory(weight, "") for name, weight in weights.items()}
    list(write_weights(folder, sources, 200_000))
    assert len(split_into_shards(sources, 200_000)) > 1
    (folder / "vocabulary.txt").write_text("red\nsquare\n")
    return folder


@pytest.fixture
def recipe(tmp_path) -> FinetuneVaeRecipe:
    source = json.dumps(str(pictures_with_words(tmp_path / "pictures")))
    return load(FinetuneVaeRecipe, None, (*SHORT, f"data.source={source}", "optim.lr=0.01"))


def test_only_the_autoencoder_is_read_and_the_rest_is_copied(start, recipe, tmp_path, monkeypatch):
    read: list[str] = []

    def noted(name, header, original=lazy._in_file):
        tensor = original(name, header)
        return tensor._replace(read=lambda: read.append(name) or tensor.read())

    monkeypatch.setattr(lazy, "_in_file", noted)
    before = lazy.safetensors_folder(start)
    for event in finetune_vae(recipe, start, tmp_path / "out"):
        if isinstance(event, StepDone) and event.step == 1:
            assert read and all(name.startswith(VQ) for name in read)
            read.clear()
    rest = {name for name in before if not name.startswith(TRAINED)} - {"another.tensor"}
    assert sorted(read) == sorted(rest), "each once, and not what was trained"

    after = lazy.safetensors_folder(tmp_path / "out")
    assert after.keys() == before.keys() - {"another.tensor"}
    assert all(after[name].dtype == before[name].dtype for name in after)
    same = {name for name in after if torch.equal(after[name].read(), before[name].read())}
    assert rest <= same and len(after) - len(same) > 10
    model = open_orthus(tmp_path / "out", device="cpu").model
    assert model.config.dtype == torch.float32 and model.config.origin["made_from"] == "start"
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stored["dtype"] == "bfloat16" and stored["architectures"]
    for name in ("vocabulary.txt", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_text() == (start / name).read_text()


def test_a_model_that_is_replaced_while_its_decoder_is_trained_costs_nothing(
    start, recipe, tmp_path
):
    recipe = replace(recipe, data=replace(recipe.data, held_out=0.0))
    (shard, *_) = sorted(start.glob("*.safetensors"))
    kept, out = shard.read_bytes(), tmp_path / "out"
    with pytest.raises(CheckpointError, match="it holds another model now") as caught:
        for event in finetune_vae(recipe, start, out):
            if isinstance(event, StepDone) and event.step == 4:
                weights = load_file(shard)
                save_file({name: weight + 1 for name, weight in weights.items()}, shard)
    assert "--resume auto" in caught.value.hint and not out.exists()
    assert saved_steps(training_folder(out)) == [4]
    shard.write_bytes(kept)
    assert not [e for e in finetune_vae(recipe, start, out, resume=True) if isinstance(e, StepDone)]
    assert open_orthus(out, device="cpu").model.model.vqmodel.decoder is not None
    assert (out / "vocabulary.txt").read_text() == "red\nsquare\n"
    assert not (out / "quality.json").exists(), "nothing was held out to measure"
