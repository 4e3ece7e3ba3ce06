"""Conversions keep what a Chameleon computes, and refuse what they cannot keep."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthus_core.checkpoint import chameleon_meta, verify
from orthus_core.checkpoint.convert import plan
from orthus_core.checkpoint.describe import describe
from orthus_core.checkpoint.model_folder import open_model, open_orthus
from orthus_core.errors import CheckpointError, OutputError
from orthus_core.model.config import OrthusConfig
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe import ConvertRecipe, load, shape
from tests.core.checkpoint.conftest import words_only

BOI, EOI = "<racm3:break>", "<eoss>"


def discrete_hidden(chameleon, codes: list[int], text: list[int]) -> torch.Tensor:
    """Last hidden states of transformers' Chameleon for a picture given by its codes, then text."""
    names = chameleon.config.vocabulary_map
    tokens = [names["IMGIMG" + "".join("ABCDEFGHIJ"[int(d)] for d in str(c)) + "Z"] for c in codes]
    ids = torch.tensor([[0, names[BOI], *tokens, names[EOI], *text]])
    with torch.no_grad():
        return chameleon.model(input_ids=ids).last_hidden_state[0]


def orthus_hidden(model: OrthusForConditionalGeneration, codes: list[int], text: list[int]):
    """The same from an Orthus that is fed the codes' vectors."""
    config = model.config
    slots = [config.image_token_id] * len(codes)
    ids = torch.tensor([[0, config.boi_token_id, *slots, config.eoi_token_id, *text]])
    features = model.model.vqmodel.quantize.embedding.weight[codes]
    with torch.no_grad():
        return model(ids, features).hidden_BSD[0]


def assert_equals_discrete(folder: Path, chameleon) -> None:
    """A sharp softmax over exact codebook vectors is Chameleon's lookup."""
    model = open_model(folder, device="cpu").model
    model.config.embedding_temperature = 1e-4
    codes, text = [3, 17, 0, 31, 8], [2, 41, 45]
    hidden = orthus_hidden(model, codes, text)
    torch.testing.assert_close(
        hidden, discrete_hidden(chameleon, codes, text), atol=1e-4, rtol=1e-4
    )
    with torch.no_grad():
        logits = model.text_logits(hidden)
        expected = chameleon.lm_head(hidden)
    is_text = logits[0].isfinite()
    torch.testing.assert_close(logits[:, is_text], expected[:, is_text])


def test_a_converted_chameleon_computes_what_transformers_computes(
    chameleon, chameleon_folder, converted
):
    made = converted(chameleon_folder)
    assert_equals_discrete(made.folder, chameleon)
    assert made.proof is not None and made.proof.relative < 1e-5 and made.proof.codes == 8


def test_sharded_and_pickled_sources_give_the_same_weights(chameleon_folder, converted):
    expected = load_file(converted(chameleon_folder).folder / "model.safetensors")
    weights = load_file(chameleon_folder / "model.safetensors")
    (chameleon_folder / "model.safetensors").unlink()
    torch.save(weights, chameleon_folder / "pytorch_model.bin")
    found = load_file(converted(chameleon_folder, output="two").folder / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("fused", [False, True])
def test_metas_layout_computes_what_transformers_computes(
    make_chameleon, meta_folder, converted, files: int, fused: bool
):
    chameleon = make_chameleon(norms=files)
    made = converted(meta_folder(chameleon, files=files, fused=fused))
    assert_equals_discrete(made.folder, chameleon)
    assert made.proof is not None and made.proof.relative < 1e-5
    assert made.layout == "Meta's own" and made.has_decoder


def test_metas_layout_with_swin_norm_computes_what_transformers_computes(
    make_chameleon, meta_folder, converted
):
    chameleon = make_chameleon(norms=2, swin_norm=True)
    assert_equals_discrete(converted(meta_folder(chameleon, files=2)).folder, chameleon)


def test_the_models_own_folder_inside_metas_download_is_enough(chameleon, meta_folder, converted):
    made = converted(meta_folder(chameleon) / "models" / "7b")
    assert_equals_discrete(made.folder, chameleon)


def test_metas_tokenizer_and_pictures_open_as_a_processor(chameleon, meta_folder, converted):
    from PIL import Image

    made = converted(meta_folder(chameleon))
    model, processor, _ = open_model(made.folder, device="cpu")
    inputs = processor(
        text="a<image>b", images=[Image.new("RGB", (20, 16), "red")], return_tensors="pt"
    )
    config = model.config
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(config.image_token_id) == config.patches
    assert ids[-1] == config.sep_token_id and config.boi_token_id in ids
    assert inputs["pixel_values"].shape == (1, 3, 16, 16)
    # x * 0.0078 - 1 (Chameleon's own scale), red at 255 and green at 0.
    assert inputs["pixel_values"][0, :2, 8, 8].tolist() == pytest.approx([0.989, -1.0])


def test_a_vqgan_checkpoint_brings_the_pixel_decoder(
    chameleon_folder, vqgan_file, decoder, converted
):
    assert not converted(chameleon_folder).has_decoder
    made = converted(chameleon_folder, vqgan=vqgan_file, output="two")
    assert made.has_decoder
    model = open_model(made.folder, device="cpu").model
    found = model.model.vqmodel.decoder.state_dict()
    assert all(torch.equal(found[name[8:]], weight) for name, weight in decoder.items())
    assert model.config.origin["pixel_decoder_from"] == "vqgan.ckpt"


def test_a_vqgan_of_another_codebook_is_refused(
    chameleon_folder, make_chameleon, decoder, tmp_path, converted
):
    weights = {"quantize.embedding.weight": torch.randn(32, 8), **decoder}
    torch.save({"state_dict": weights}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="another codebook"):
        converted(chameleon_folder, vqgan=tmp_path / "other.ckpt")


def test_a_file_that_is_no_vqgan_is_refused(chameleon_folder, tmp_path, converted):
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no VQGAN"):
        converted(chameleon_folder, vqgan=tmp_path / "other.ckpt")


def test_the_codebook_is_copied_and_the_head_starts_as_training_expects(
    chameleon, chameleon_folder, converted
):
    model = open_model(converted(chameleon_folder).folder, device="cpu").model
    codes = chameleon.model.vqmodel.quantize.embedding.weight
    assert torch.equal(model.model.codebook_in.weight, codes)
    weights = model.mlp_head.state_dict()
    zero = {name for name, weight in weights.items() if not weight.any()}
    assert {name for name in weights if "adaLN" in name or "final_layer.linear" in name} <= zero
    assert weights["cond_embed.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(weights["res_blocks.0.in_ln.weight"], torch.ones(32))


def test_the_head_follows_from_its_seed_alone(chameleon_folder, converted):
    def head(*overrides: str, output: str) -> torch.Tensor:
        torch.manual_seed(len(output))  # what went before must not matter
        folder = converted(chameleon_folder, *overrides, output=output).folder
        return load_file(folder / "model.safetensors")["mlp_head.cond_embed.weight"]

    first = head(output="one")
    assert torch.equal(first, head(output="second"))
    assert not torch.equal(first, head("head.seed=1", output="third"))


def test_a_conversion_leaves_the_random_state_alone(chameleon_folder, converted):
    before = torch.get_rng_state()
    converted(chameleon_folder)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["argmin", "linear"])
def test_the_papers_other_embeddings_can_be_asked_for(chameleon_folder, converted, kind: str):
    made = converted(chameleon_folder, f"embedding.kind={kind}")
    model = open_model(made.folder, device="cpu").model
    assert model.config.embedding == kind
    assert model.embed_features(torch.randn(3, 8)).shape == (3, 32)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_head_that_regresses_can_be_asked_for_and_is_kept(chameleon_folder, converted, depth):
    made = converted(chameleon_folder, "head.kind=mse", f"head.depth={depth}")
    assert made.head == "regression head"
    again = converted(made.folder, output="again")  # the recipe's own kind is diffusion
    for folder in (made.folder, again.folder):
        model = open_orthus(folder, device="cpu").model
        assert (model.config.image_head, model.config.head_depth) == ("mse", depth)
        assert model.config.sampling["steps"] == 1
        found = model.regression_head(torch.randn(3, model.config.hidden_size))
        assert found.shape == (3, 8) and not found.any(), "it starts by predicting the mean, 0"
        facts = describe(folder).facts
        assert facts["image_head"] == "mse" and "schedule" not in facts
        assert "regression head" in (folder / "README.md").read_text()
    plain = converted(chameleon_folder, output="plain")
    assert "image_head" not in json.loads((plain.folder / "config.json").read_text())
    kept = converted(plain.folder, "head.kind=mse", output="kept")
    assert open_orthus(kept.folder, device="cpu").model.config.image_head == "diffusion"


def test_weights_are_rounded_when_a_precision_is_asked_for(chameleon_folder, converted):
    made = converted(chameleon_folder, "dtype=bf16")
    found = load_file(made.folder / "model.safetensors")
    source = load_file(chameleon_folder / "model.safetensors")
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[name], weight.bfloat16()) for name, weight in source.items())
    assert made.proof is not None and made.proof.relative < 1e-5
    assert json.loads((made.folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_large_models_are_sharded(make_chameleon, write_chameleon, converted):
    made = converted(write_chameleon(make_chameleon(intermediate_size=1024)), "shard_size_mb=1")
    assert len(list(made.folder.glob("model-*-of-00002.safetensors"))) == 2
    assert open_model(made.folder, device="cpu").model.config.head_width == 32


def test_the_folder_tells_what_it_was_made_from_and_how(chameleon_folder, converted):
    (chameleon_folder / "LICENSE").write_text("terms")
    made = converted(chameleon_folder, name="some/chameleon")
    config = json.loads((made.folder / "config.json").read_text())
    assert config["model_type"] == "orthus" and config["head_width"] == 32
    assert config["origin"]["made_from"] == "some/chameleon"
    assert config["origin"]["largest_difference_to_source"] < 1e-5
    recipe = shape(ConvertRecipe, json.loads((made.folder / "recipe.json").read_text()))
    assert recipe == load(ConvertRecipe, None, ("head.width=32", "head.depth=2", "check.codes=8"))
    assert (made.folder / "LICENSE").read_text() == "terms"
    assert "some/chameleon" in (made.folder / "README.md").read_text()
    tokenizer = (made.folder / "tokenizer.json").read_bytes()
    assert tokenizer == (chameleon_folder / "tokenizer.json").read_bytes()


def test_a_released_orthus_is_normalised_and_keeps_its_head(golden_folder, converted):
    made = converted(golden_folder)
    before = load_file(golden_folder / "model.safetensors")
    after = load_file(made.folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    config = json.loads((made.folder / "config.json").read_text())
    assert (config["model_type"], config["head_width"], config["head_depth"]) == ("orthus", 64, 3)
    assert made.proof is not None and not made.is_new
    assert "max_length" not in config  # what a release's configuration carried along


def test_an_orthus_of_ours_keeps_what_it_says_of_itself(chameleon_folder, converted):
    first = converted(chameleon_folder, "embedding.temperature=0.5", "sampling.steps=7")
    second = converted(first.folder, "head.width=99", output="two")
    config = open_model(second.folder, device="cpu").model.config
    assert (config.embedding_temperature, config.head_width) == (0.5, 32)
    assert config.sampling_defaults["steps"] == 7


def test_a_plan_reads_no_weights(chameleon_folder):
    found = plan(chameleon_folder, load(ConvertRecipe))
    (chameleon_folder / "model.safetensors").unlink()
    width = found.tensors["mlp_head.input_proj.weight"].shape[0]
    assert width == found.config.head_width == 1536


# What the proof finds


def test_the_proof_finds_rows_in_the_wrong_order(chameleon, meta_folder, converted, monkeypatch):
    monkeypatch.setattr(chameleon_meta, "half_split", lambda weight, heads: weight)
    with pytest.raises(CheckpointError, match="not the one it was made from"):
        converted(meta_folder(chameleon))


@pytest.mark.parametrize(
    "name",
    [
        "model.codebook_in.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.2.self_attn.k_norm.bias",
        "model.norm.weight",
        "lm_head.weight",
        "model.vqmodel.encoder.conv_in.weight",
    ],
)
def test_the_proof_finds_a_wrong_tensor_on_disk(
    chameleon_folder, converted, monkeypatch, tmp_path, name: str
):
    def tampered(source, written, config, **how):
        lazy = written[name]
        wrong = lazy._replace(read=lambda: lazy.read().flatten().flip(0).view(lazy.shape))
        yield from prove(source, {**written, name: wrong}, config, **how)

    prove = verify.prove
    monkeypatch.setattr("orthus_core.checkpoint.convert.prove", tampered)
    with pytest.raises(CheckpointError, match="not the one it was made from"):
        converted(chameleon_folder)
    assert sorted(os.listdir(tmp_path)) == ["chameleon"]


def test_codes_that_share_a_place_are_passed_over(chameleon_folder, change_weights, converted):
    def twins(weights):
        weights["model.vqmodel.quantize.embedding.weight"][1::2] = weights[
            "model.vqmodel.quantize.embedding.weight"
        ][0::2]

    change_weights(chameleon_folder / "model.safetensors", twins)
    made = converted(chameleon_folder)
    assert made.proof is not None and made.proof.codes == 0 and made.proof.twins == 16


# What is refused


def test_a_vocabulary_without_image_tokens_is_refused(chameleon_folder, change_json, converted):
    change_json(chameleon_folder / "config.json", words_only)
    with pytest.raises(CheckpointError, match="no token for 32 of 32"):
        converted(chameleon_folder)


def test_a_missing_vocabulary_is_read_from_the_tokenizer(
    chameleon, chameleon_folder, change_json, converted
):
    change_json(chameleon_folder / "config.json", lambda table: table.pop("vocabulary_map"))
    assert_equals_discrete(converted(chameleon_folder).folder, chameleon)


def test_a_tokenizer_that_disagrees_with_the_configuration_is_refused(
    chameleon_folder, change_json, converted
):
    def swap(table):
        names = table["vocabulary_map"]
        names["IMGIMGAZ"], names["IMGIMGBZ"] = names["IMGIMGBZ"], names["IMGIMGAZ"]

    change_json(chameleon_folder / "config.json", swap)
    with pytest.raises(CheckpointError, match="IMGIMG[AB]Z is token"):
        converted(chameleon_folder)


@pytest.mark.parametrize("mark", ["<image>", BOI, EOI, "<reserved08706>"])
def test_a_vocabulary_without_the_marks_of_a_picture_is_refused(
    chameleon_folder, change_json, converted, mark: str
):
    change_json(chameleon_folder / "config.json", lambda t: t["vocabulary_map"].pop(mark))
    with pytest.raises(CheckpointError, match="no token for"):
        converted(chameleon_folder)


def test_a_tensor_of_the_wrong_shape_is_named(chameleon_folder, change_weights, converted):
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(
        chameleon_folder / "model.safetensors", lambda w: w.update({name: w[name][:-1].clone()})
    )
    with pytest.raises(CheckpointError, match=r"up_proj.weight has the shape \[47, 32\]"):
        converted(chameleon_folder)


def test_a_missing_tensor_is_named(chameleon_folder, change_weights, converted):
    change_weights(chameleon_folder / "model.safetensors", lambda w: w.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match="tensors are missing: model.norm.weight"):
        converted(chameleon_folder)


def test_a_tensor_that_has_no_place_is_named(chameleon_folder, change_weights, converted):
    extra = {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2)}
    change_weights(chameleon_folder / "model.safetensors", lambda w: w.update(extra))
    with pytest.raises(CheckpointError, match="no place in an Orthus: .*lora_A"):
        converted(chameleon_folder)


def test_a_truncated_source_is_named(chameleon_folder, converted):
    file = chameleon_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or cut short") as caught:
        converted(chameleon_folder)
    assert caught.value.where == str(file)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, converted):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        converted(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="no such folder"):
        converted(tmp_path / "nowhere")


def test_a_model_of_another_family_is_refused(tmp_path, converted):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="type 'llama'"):
        converted(tmp_path / "llama")


def test_a_missing_part_of_metas_download_is_named(chameleon, meta_folder, converted):
    folder = meta_folder(chameleon)
    (folder / "tokenizer" / "vqgan.yaml").unlink()
    with pytest.raises(CheckpointError, match="vqgan.yaml"):
        converted(folder)
    (folder / "tokenizer").rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match="folder `tokenizer`"):
        converted(folder)


def test_a_gap_between_metas_files_is_named(make_chameleon, meta_folder, converted):
    folder = meta_folder(make_chameleon(norms=2), files=2)
    (folder / "models" / "7b" / "consolidated.00.pth").unlink()
    with pytest.raises(CheckpointError, match="not numbered without gaps"):
        converted(folder)


# What a conversion that stops leaves behind


def test_an_output_that_exists_is_refused_and_replaced_when_asked(chameleon_folder, converted):
    made = converted(chameleon_folder)
    with pytest.raises(OutputError, match="already"):
        converted(chameleon_folder)
    assert converted(chameleon_folder, "head.depth=1", overwrite=True).folder == made.folder
    assert open_model(made.folder, device="cpu").model.config.head_depth == 1


def test_a_disk_that_fills_up_is_said_and_leaves_nothing(chameleon_folder, converted, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OutputError, match="disk is full"):
            converted(chameleon_folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(tmp_path)) == ["chameleon"]


def test_a_killed_conversion_leaves_nothing_that_opens(chameleon_folder, converted, tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from orthus_core.checkpoint.convert import convert
        from orthus_core.recipe import ConvertRecipe, load

        recipe = load(ConvertRecipe, None, ("head.width=32", "check.codes=8"))
        for event in convert(Path(sys.argv[1]), Path(sys.argv[2]), recipe):
            if event.stage == "check":
                os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    words = [sys.executable, "-c", script, str(chameleon_folder), str(tmp_path / "orthus")]
    ended = subprocess.run(words, cwd=Path(__file__).parents[3])
    assert ended.returncode == -signal.SIGKILL
    (left,) = set(os.listdir(tmp_path)) - {"chameleon"}
    assert left.startswith(".orthus.partial-")
    assert (tmp_path / left / "model.safetensors").exists()
    with pytest.raises(CheckpointError, match="no config.json"):
        open_model(tmp_path / left)
    converted(chameleon_folder)
    assert sorted(os.listdir(tmp_path)) == ["chameleon", "orthus"]


def test_a_decoder_that_is_only_half_there_is_refused(
    chameleon_folder, change_weights, converted, decoder
):
    some = {f"model.vqmodel.{name}": weight for name, weight in list(decoder.items())[:3]}
    change_weights(chameleon_folder / "model.safetensors", lambda w: w.update(some))
    with pytest.raises(CheckpointError, match="tensors are missing: model.vqmodel.decoder"):
        converted(chameleon_folder)


def test_anoles_layout_with_its_decoder_inside_is_read(
    chameleon, chameleon_folder, change_weights, converted, decoder
):
    inside = {f"model.vqmodel.{name}": weight for name, weight in decoder.items()}
    change_weights(chameleon_folder / "model.safetensors", lambda w: w.update(inside))
    made = converted(chameleon_folder)
    assert made.has_decoder
    assert_equals_discrete(made.folder, chameleon)


def test_wrappers_of_training_frameworks_are_seen_through(chameleon, chameleon_folder, converted):
    file = chameleon_folder / "model.safetensors"
    weights = {f"module._orig_mod.{name}": w for name, w in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    assert_equals_discrete(converted(chameleon_folder).folder, chameleon)


def test_a_configuration_value_of_the_wrong_kind_is_named(chameleon_folder, change_json, converted):
    change_json(chameleon_folder / "config.json", lambda t: t.update(hidden_size="wide"))
    with pytest.raises(CheckpointError, match="hidden_size"):
        converted(chameleon_folder)


def test_transformers_opens_the_folder_by_its_own_means(chameleon_folder, converted):
    from transformers import AutoConfig, AutoModel

    folder = converted(chameleon_folder).folder
    assert isinstance(AutoConfig.from_pretrained(folder), OrthusConfig)
    assert isinstance(AutoModel.from_pretrained(folder), OrthusForConditionalGeneration)


def test_a_picture_processor_of_the_source_is_kept_and_a_missing_one_is_made(
    chameleon_folder, converted
):
    made = converted(chameleon_folder, output="one").folder
    settings = json.loads((made / "preprocessor_config.json").read_text())
    assert settings["crop_size"] == {"height": 16, "width": 16}
    settings["rescale_factor"] = 0.5
    (chameleon_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    kept = open_model(converted(chameleon_folder, output="two").folder, device="cpu")
    assert kept.processor is not None and kept.processor.image_processor.rescale_factor == 0.5
