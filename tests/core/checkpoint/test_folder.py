"""Opening and saving model folders, and every way in which one can be wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthus_core.checkpoint import hub
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import open_model, open_orthus, save_model
from orthus_core.device import pick_dtype
from orthus_core.errors import CheckpointError, HubError, OutputError
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.orthus import OrthusForConditionalGeneration
from tests.core.checkpoint.conftest import words_only
from tests.discrete import write_tiny_chameleon


@pytest.fixture
def orthus_folder(chameleon_folder: Path, converted) -> Path:
    """A converted model, the test's own."""
    return converted(chameleon_folder).folder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no connection."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def cached(cache: Path, hub_id: str, folder: Path) -> Path:
    """Puts a folder into a hub cache as a download would have."""
    repository = cache / ("models--" + hub_id.replace("/", "--"))
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


# Opening


def test_a_released_folder_opens_as_it_is(golden_folder: Path, golden_model):
    model, processor, path = open_model(golden_folder, device="cpu")
    assert (path, processor) == (golden_folder, None)
    assert (model.config.head_width, model.config.head_depth) == (64, 3)
    assert model.config.vq_config.has_decoder and not model.training
    ours = model.state_dict()
    assert all(torch.equal(ours[n], w) for n, w in golden_model.state_dict().items())


def test_a_folder_of_ours_opens_with_its_tokenizer(orthus_folder: Path):
    opened = open_model(orthus_folder, device="cpu")
    assert opened.model.config.vq_config.has_decoder is False
    assert opened.model.dtype == torch.float32


def test_a_discrete_chameleon_opens_as_what_transformers_makes_of_it(chameleon_folder, chameleon):
    (chameleon_folder / "tokenizer.json").unlink()
    model = open_model(chameleon_folder, device="cpu").model
    assert isinstance(model, DiscreteChameleon) and model.model.vqmodel.decoder is None
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config, patches = model.config, model.config.patches
    ids_BS = torch.tensor(
        [[0, config.boi_token_id, *[config.image_token_id] * patches, config.eoi_token_id, 41, 42]]
    )
    with torch.no_grad():
        hidden_SD = model.run_backbone(ids_BS, model.encode_images(pixels)).hidden_BSD[0]
        theirs = chameleon.model(input_ids=ids_BS, pixel_values=pixels).last_hidden_state[0]
        logits_SV = chameleon.lm_head(theirs)
    torch.testing.assert_close(hidden_SD, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model.image_logits(hidden_SD), logits_SV[:, config.code_token_ids], atol=1e-5, rtol=1e-5
    )


def test_a_chameleon_with_a_decoder_opens_with_it(tiny_folder, tmp_path: Path):
    folder = write_tiny_chameleon(tmp_path / "anole", tiny_folder, sampling={"guidance": 2.0})
    opened = open_model(folder, device="cpu")
    assert isinstance(opened.model, DiscreteChameleon) and opened.processor is not None
    assert opened.model.model.vqmodel.decoder is not None
    assert opened.model.config.sampling_defaults["guidance"] == 2.0


def test_an_orthus_opens_where_one_is_needed(orthus_folder: Path):
    opened = open_orthus(orthus_folder, device="cpu", dtype="bf16")
    assert isinstance(opened.model, OrthusForConditionalGeneration)
    assert opened.model.dtype == torch.bfloat16 and opened.path == orthus_folder


@pytest.mark.parametrize("dtype", ["bf16", torch.bfloat16])
def test_the_precision_can_be_asked_for(orthus_folder: Path, dtype):
    assert open_model(orthus_folder, device="cpu", dtype=dtype).model.dtype == torch.bfloat16


def test_the_precision_is_bf16_on_cuda_and_fp32_elsewhere():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert pick_dtype("auto", cuda) == pick_dtype(None, cuda) == torch.bfloat16
    assert pick_dtype("auto", cpu) == torch.float32 and pick_dtype("fp16", cpu) == torch.float16


def test_a_device_map_goes_through(orthus_folder: Path, monkeypatch):
    given = []
    opens = OrthusForConditionalGeneration.from_pretrained

    def listen(*args, **options):
        given.append(options["device_map"])
        return opens(*args, **options)

    monkeypatch.setattr(OrthusForConditionalGeneration, "from_pretrained", listen)
    model = open_model(orthus_folder, device_map="auto").model
    open_model(orthus_folder, device="cpu")
    assert given == ["auto", {"": torch.device("cpu")}]
    assert all(weight.device.type != "meta" for weight in model.parameters())


def test_a_saved_model_opens_equal(golden_folder: Path, golden_model, tmp_path: Path):
    folder = save_model(golden_model, None, tmp_path / "saved", texts={"recipe.json": "{}"})
    again = open_model(folder, device="cpu").model.state_dict()
    assert all(torch.equal(again[n], w) for n, w in golden_model.state_dict().items())
    assert (folder / "recipe.json").read_text() == "{}"
    assert "# saved" in (folder / "README.md").read_text()


def test_a_saved_model_takes_no_ones_place(golden_model, tmp_path: Path):
    save_model(golden_model, None, tmp_path / "saved")
    with pytest.raises(OutputError, match="already"):
        save_model(golden_model, None, tmp_path / "saved")
    save_model(golden_model, None, tmp_path / "saved", overwrite=True)
    assert os.listdir(tmp_path) == ["saved"]


def test_opening_and_saving_say_nothing(golden_folder: Path, tmp_path: Path, capfd):
    save_model(open_model(golden_folder, device="cpu").model, None, tmp_path / "saved")
    assert capfd.readouterr() == ("", "")


# What is wrong with a folder


def test_a_folder_without_config_is_said_to_be_no_model(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no config.json"):
        open_model(tmp_path)


def test_where_an_orthus_is_needed_a_chameleon_is_told_how_to_become_one(chameleon_folder: Path):
    with pytest.raises(CheckpointError, match="discrete Chameleon") as caught:
        open_orthus(chameleon_folder)
    assert caught.value.hint == f"orthus convert {chameleon_folder} -o DIR"


def test_metas_layout_is_told_how_to_become_an_orthus(chameleon, meta_folder):
    folder = meta_folder(chameleon)
    with pytest.raises(CheckpointError, match="Meta's own layout") as caught:
        open_model(folder)
    assert caught.value.hint.startswith("orthus convert")


def test_a_slip_in_a_key_of_the_configuration_is_named(orthus_folder: Path, change_json):
    change_json(orthus_folder / "config.json", lambda t: t.update(head_widht=t.pop("head_width")))
    with pytest.raises(CheckpointError, match="'head_widht', did you mean 'head_width'"):
        open_model(orthus_folder)


def test_a_slip_in_the_autoencoders_configuration_is_named(orthus_folder: Path, change_json):
    def slip(table):
        table["vq_config"]["resolutoin"] = table["vq_config"].pop("resolution")

    change_json(orthus_folder / "config.json", slip)
    with pytest.raises(CheckpointError, match="did you mean 'resolution'"):
        open_model(orthus_folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prediction", "w", "prediction is 'w'"),
        ("embedding_temperature", 0.0, "embedding_temperature is 0.0"),
        ("head_width", "wide", "head_width"),
        ("beta_end", -1.0, "the noise schedule goes from"),
        ("num_train_timesteps", 0, "num_train_timesteps = 0"),
        ("boi_token_id", "first", "the beginning of a picture is 'first'"),
        ("sep_token_id", 10**9, "the end of a prompt is 1000000000"),
        ("num_key_value_heads", None, "no model can be built with the values"),
        ("hidden_act", "swish!", "'swish!' is unknown"),
        ("vq_config", 1, "no model can be built with the values"),
    ],
)
def test_a_value_that_cannot_be_is_named(orthus_folder, change_json, key, value, message):
    change_json(orthus_folder / "config.json", lambda table: table.update({key: value}))
    with pytest.raises(CheckpointError, match=message):
        open_model(orthus_folder)


def test_a_tokenizer_of_another_shape_is_named(tiny_folder: Path, tmp_path: Path, change_json):
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    change_json(folder / "tokenizer.json", lambda table: table.update(added_tokens=0.5))
    with pytest.raises(CheckpointError, match="the tokenizer does not read") as caught:
        open_model(folder, device="cpu")
    assert caught.value.where == str(folder / "tokenizer.json")


def test_a_configuration_that_is_no_json_is_named(orthus_folder: Path):
    (orthus_folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json does not read"):
        open_model(orthus_folder)


def test_a_truncated_weight_file_is_named(orthus_folder: Path):
    file = orthus_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged or cut short") as caught:
        open_model(orthus_folder)
    assert caught.value.where == str(file)


def test_a_missing_shard_is_named(make_chameleon, write_chameleon, converted):
    source = write_chameleon(make_chameleon(intermediate_size=1024))
    folder = converted(source, "shard_size_mb=1").folder
    next(folder.glob("model-00001-*")).unlink()
    with pytest.raises(CheckpointError, match="weight files are missing: model-00001"):
        open_model(folder)


def test_a_tensor_of_the_wrong_shape_is_named(orthus_folder: Path, change_weights):
    def narrower(weights):
        weights["mlp_head.cond_embed.weight"] = torch.zeros(32, 3)

    change_weights(orthus_folder / "model.safetensors", narrower)
    with pytest.raises(CheckpointError, match=r"cond_embed.weight has the shape \[32, 3\]"):
        open_model(orthus_folder)


def test_missing_tensors_are_named(orthus_folder: Path, change_weights):
    change_weights(orthus_folder / "model.safetensors", lambda w: w.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match="tensors are missing: lm_head.weight"):
        open_model(orthus_folder)


def test_a_vocabulary_without_image_tokens_is_refused(orthus_folder: Path, change_json):
    change_json(orthus_folder / "config.json", words_only)
    with pytest.raises(CheckpointError, match="names no token"):
        open_model(orthus_folder)


def test_a_tokenizer_that_does_not_open_is_said_to(orthus_folder: Path, change_json):
    change_json(orthus_folder / "tokenizer.json", lambda table: table["model"].pop("merges"))
    with pytest.raises(CheckpointError, match="tokenizer or picture processor do not open"):
        open_model(orthus_folder, device="cpu")


# Names


def test_a_folder_that_exists_goes_before_an_alias(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert resolve("base") == Path("base")


def test_bundled_models_are_found_beside_the_code(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(hub, "_STARTER", tmp_path)
    with pytest.raises(CheckpointError, match="came without the model 'mini'"):
        resolve("mini")
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "config.json").write_text("{}")
    assert resolve("mini") == tmp_path / "mini"


@pytest.mark.parametrize(
    ("name", "hub_id"), [("base", "SJTU-Deng-Lab/Orthus-7B-base"), ("some/orthus", "some/orthus")]
)
def test_a_hub_id_is_found_in_the_cache(hub_cache, orthus_folder, name: str, hub_id: str):
    snapshot = cached(hub_cache, hub_id, orthus_folder)
    assert resolve(name) == snapshot
    assert open_model(name, device="cpu").path == snapshot


def test_a_hub_model_that_is_not_here_says_where_it_lives_and_how_to_get_it(hub_cache):
    with pytest.raises(HubError, match="hub cannot be reached") as caught:
        open_model("instruct")
    assert caught.value.where == "https://huggingface.co/SJTU-Deng-Lab/Orthus-7B-instruct"
    assert "hf download SJTU-Deng-Lab/Orthus-7B-instruct" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "message", "next_step"),
    [
        ("GatedRepoError", "is gated", "hf auth login"),
        ("RepositoryNotFoundError", "no public model of that name", "spelling"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_next_step(monkeypatch, kind, message, next_step):
    from huggingface_hub import errors

    def refuse(*_, **__):
        response = SimpleNamespace(headers={}, request=None, status_code=401)
        raise getattr(errors, kind)("no", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(HubError, match=message) as caught:
        resolve("chameleon-7b")
    assert next_step in caught.value.hint
    assert caught.value.where == "https://huggingface.co/facebook/chameleon-7b"


def test_a_name_that_is_nothing_is_answered_with_what_there_is():
    with pytest.raises(CheckpointError, match="did you mean 'instruct'") as caught:
        resolve("instrukt")
    assert "chameleon-7b" in caught.value.hint


def test_a_file_is_no_model(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="a model is a folder"):
        resolve(tmp_path / "model.safetensors")


def test_pickled_weights_are_sent_to_the_converter(orthus_folder: Path):
    file = orthus_folder / "model.safetensors"
    torch.save(load_file(file), orthus_folder / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(CheckpointError, match="pickled") as caught:
        open_model(orthus_folder)
    assert caught.value.hint == f"orthus convert {orthus_folder} -o DIR"


def test_extra_tensors_of_a_released_folder_do_no_harm(golden_folder: Path, tmp_path: Path):
    folder = tmp_path / "released"
    folder.mkdir()
    weights = load_file(golden_folder / "model.safetensors")
    save_file({**weights, "extra": torch.ones(1)}, folder / "model.safetensors")
    (folder / "config.json").write_bytes((golden_folder / "config.json").read_bytes())
    assert json.loads((folder / "config.json").read_text())["model_type"] == "chameleon"
    assert open_model(folder, device="cpu").model.config.head_width == 64
