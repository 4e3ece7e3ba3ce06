"""An error names the cause: variants of a checkpoint are none, and a file is called what it is.

Numbers in the names are those of users' reports: 07 tied embeddings, 16 the image token's older
name, 23 Git LFS pointers.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.checkpoint.convert import Converted, convert
from orthus_core.checkpoint.describe import describe
from orthus_core.checkpoint.layout import read_json, tokenizer_vocabulary
from orthus_core.checkpoint.lazy import safetensors_folder
from orthus_core.checkpoint.model_folder import open_model, read_config
from orthus_core.checkpoint.parameter_names import EMBEDDINGS, LM_HEAD
from orthus_core.data.formats.sniff import read
from orthus_core.data.known_words import KnownWords
from orthus_core.data.pixels import open_image
from orthus_core.errors import CheckpointError, DataError, OrthusError, TrainingError
from orthus_core.recipe import ConvertRecipe, load
from orthus_core.results.metadata import read_record
from orthus_core.train.loop import check_finite
from orthus_core.train.runs import TrainingRun
from orthus_core.world.sprites import SpritePack
from orthus_core.wrong_content import wrong_content
from tests.core.checkpoint.conftest import random_chameleon, write_hugging_face

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>"
RESERVED = "<reserved08707>"
PROCESSOR = json.dumps({"image_processor_type": "ChameleonImageProcessor"})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Chameleon in Hugging Face's layout. Copy it before a change."""
    return write_hugging_face(random_chameleon(), tmp_path_factory.mktemp("made") / "chameleon")


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "chameleon"))


def weights_of(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> dict[str, Tensor]:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


def change(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    table = json.loads(file.read_text())
    change(table)
    file.write_text(json.dumps(table))


def rename(file: Path, before: str, after: str) -> None:
    file.write_text(file.read_text().replace(json.dumps(before), json.dumps(after)))


def converted(folder: Path) -> Path:
    recipe = load(ConvertRecipe, None, ("head.width=32", "head.depth=2", "check.codes=8"))
    *_, last = convert(folder, folder.parent / "orthus", recipe)
    assert isinstance(last, Converted) and last.proof is not None
    assert last.proof.relative == 0 and last.proof.logits == 0
    return last.folder


def tie(folder: Path, missing: str = LM_HEAD) -> None:
    """Says that the embeddings are tied, and leaves one of the two tables out."""
    change(folder / "config.json", lambda t: t.update(tie_word_embeddings=True))
    weights_of(folder, lambda w: w.pop(missing))


# Kind 6: tied embeddings (07).


@pytest.mark.parametrize("missing", [LM_HEAD, EMBEDDINGS])
def test_07_a_tied_table_is_written_out_and_proven(folder: Path, missing: str):
    kept = EMBEDDINGS if missing == LM_HEAD else LM_HEAD
    tie(folder, missing)
    expected = load_file(folder / "model.safetensors")[kept]
    out = converted(folder)
    written = safetensors_folder(out)
    assert torch.equal(written[LM_HEAD].read(), expected)
    assert torch.equal(written[EMBEDDINGS].read(), expected)
    assert read_json(out / "config.json").get("tie_word_embeddings") is not True


def test_07_without_a_word_of_tying_the_head_is_missing(folder: Path):
    weights_of(folder, lambda w: w.pop(LM_HEAD))
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors are missing: lm_head.weight"):
        converted(folder)


def test_07_tying_may_be_said_in_a_nested_text_configuration(folder: Path):
    def nest(table: dict[str, Any]) -> None:
        table["text_config"] = {
            name: table.pop(name) for name in ("hidden_size", "intermediate_size", "vocab_size")
        } | {"tie_word_embeddings": True}
        table.pop("tie_word_embeddings", None)

    weights_of(folder, lambda w: w.pop(LM_HEAD))
    change(folder / "config.json", nest)
    assert read_config(folder).hidden_size == 32
    converted(folder)


def test_07_two_tables_that_differ_stay_two_although_said_to_be_tied(folder: Path):
    change(folder / "config.json", lambda t: t.update(tie_word_embeddings=True))
    before = load_file(folder / "model.safetensors")
    (folder / "preprocessor_config.json").write_text(PROCESSOR)
    model = open_model(folder, device="cpu").model
    written = safetensors_folder(converted(folder))
    for head in (model.lm_head.weight, written[LM_HEAD].read()):
        assert torch.equal(head, before[LM_HEAD])
    assert not torch.equal(before[LM_HEAD], before[EMBEDDINGS])


@pytest.mark.parametrize("lists_the_head", [True, False])
def test_07_an_index_may_list_the_head_that_no_file_holds(folder: Path, lists_the_head: bool):
    tie(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    file_of = {name: file for file, part in shards.items() for name in part}
    if lists_the_head:
        file_of[LM_HEAD] = "model-2-of-2.safetensors"
    index = {"weight_map": file_of}  # older ones have no metadata
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert describe(folder).kind == "discrete Chameleon"
    converted(folder)


def test_07_a_tied_pickle_converts(folder: Path):
    tie(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    converted(folder)


@pytest.mark.parametrize("how", [{}, {"low_memory": True}, {"quantize": 8}])
def test_07_a_tied_folder_opens_as_it_is(tiny_folder: Path, tmp_path: Path, how: dict[str, Any]):
    tied = Path(shutil.copytree(tiny_folder, tmp_path / "tied"))
    tie(tied)
    model = open_model(tied, device="cpu", dtype="fp32", **how).model
    stored = load_file(tied / "model.safetensors")[EMBEDDINGS].float()
    assert torch.equal(model.lm_head.weight, stored)
    assert torch.equal(model.model.embed_tokens.weight, stored)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert model.config.tie_word_embeddings is False
    assert describe(tied).kind == "Orthus"


# Kind 6: names of earlier versions (16).


def call_it(folder: Path, name: str) -> None:
    """Gives the image token another name, everywhere."""
    for file in ("config.json", "tokenizer.json"):
        rename(folder / file, "<image>", name)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": [name]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "processor_config.json").write_text(json.dumps({"image_token": name}))


@pytest.mark.parametrize("name", [RESERVED, "<img>"])
def test_16_the_image_token_of_an_earlier_name_becomes_image(folder: Path, name: str):
    slot = read_json(folder / "config.json")["vocabulary_map"]["<image>"]
    call_it(folder, name)
    change(folder / "config.json", lambda t: t.update(image_token_id=slot))
    assert read_config(folder).image_token_id == slot
    out = converted(folder)
    assert (tokenizer_vocabulary(out) or {})["<image>"] == slot
    assert read_config(out).image_token_id == slot
    left = [f.name for f in out.glob("*.json") if json.dumps(name) in f.read_text()]
    assert not left
    processor = open_model(out, device="cpu").processor
    assert processor is not None and processor.image_token_id == slot
    assert read_json(out / "processor_config.json")["image_token"] == "<image>"


def test_16_reserved08707_needs_no_id_in_the_configuration(folder: Path):
    call_it(folder, RESERVED)
    change(folder / "config.json", lambda t: t.pop("image_token_id", None))
    converted(folder)


def test_16_a_processor_opened_as_it_is_knows_the_earlier_name(folder: Path):
    slot = read_json(folder / "config.json")["vocabulary_map"]["<image>"]
    call_it(folder, RESERVED)
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(PROCESSOR)
    processor = open_model(folder, device="cpu").processor
    assert processor is not None
    assert (processor.image_token, processor.image_token_id) == (RESERVED, slot)


@pytest.mark.parametrize(
    ("stated", "why"), [(4, "that token is IMGIMGAZ"), ("39", "whole number"), (0, "bos_token_id")]
)
def test_16_a_stated_token_that_means_something_else_is_named(folder: Path, stated, why: str):
    call_it(folder, "<img>")
    change(folder / "config.json", lambda t: t.update(image_token_id=stated))
    with pytest.raises(CheckpointError, match=why):
        converted(folder)


def test_16_tokens_may_be_listed_beside_the_tokenizer(folder: Path):
    """In tokenizer_config.json, where the configuration has no vocabulary."""

    def without(table: dict[str, Any]) -> None:
        table["added_tokens"] = [t for t in table["added_tokens"] if t["content"] != "<image>"]
        table["model"]["vocab"].pop("<image>")

    slot = read_json(folder / "config.json")["vocabulary_map"]["<image>"]
    change(folder / "config.json", lambda t: t.pop("vocabulary_map"))
    change(folder / "tokenizer.json", without)
    added = {str(slot): {"content": "<image>", "special": True}}
    change(folder / "tokenizer_config.json", lambda t: t.update(added_tokens_decoder=added))
    assert read_config(folder).image_token_id == slot


@pytest.mark.parametrize("prefix", ["module.", "language_model.", "bare"])
def test_names_of_other_programs_are_converted_and_said_to_be_convertible(
    folder: Path, prefix: str
):
    def other(weights: dict[str, Tensor]) -> None:
        for name in list(weights):
            new = name.removeprefix("model.") if prefix == "bare" else prefix + name
            weights[new] = weights.pop(name)
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        weights["model.position_ids"] = torch.arange(4)

    weights_of(folder, other)
    with pytest.raises(CheckpointError, match="names of another program") as caught:
        read_config(folder)
    assert "orthus convert" in caught.value.hint
    converted(folder)


# Kind 6: files that are not what their name says (23).


@pytest.mark.parametrize("content", [POINTER, PAGE])
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_23_a_pointer_in_a_folder_is_named(folder: Path, file: str, content: bytes):
    (folder / file).write_bytes(content)
    what = "Git LFS pointer" if content == POINTER else r"web page \(Sign in\)"
    for attempt in (converted, describe, read_config):
        with pytest.raises(CheckpointError, match=f"this is a {what}") as caught:
            attempt(folder)
        assert Path(caught.value.where) == folder / file
        assert ("git lfs pull" in caught.value.hint) == (content == POINTER)


def test_23_a_pointer_is_named_wherever_a_file_is_opened(tmp_path: Path):
    def orthus(*words: str) -> str:
        done = CliRunner().invoke(app, list(words), prog_name="orthus")
        assert done.exit_code == 1
        return done.output

    for name in ("cup.png", "vqgan.ckpt", "vae.safetensors", "asked.toml", "asked.json"):
        (tmp_path / name).write_bytes(POINTER)
        assert "Git LFS pointer" in orthus("info", str(tmp_path / name))
    picture, recipe = str(tmp_path / "cup.png"), str(tmp_path / "asked.toml")
    assert "Git LFS pointer" in orthus("caption", picture)
    assert "Git LFS pointer" in orthus("edit", picture, "a hat", "-o", str(tmp_path / "out.png"))
    assert "Git LFS pointer" in orthus("generate", "a cat", "--recipe", recipe)
    (tmp_path / "rows.jsonl").write_bytes(POINTER)
    assert "Git LFS pointer" in orthus("data", "check", str(tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match="Git LFS pointer"):
        SpritePack.open(tmp_path / "cup.png")


def test_23_a_pointer_is_no_caption(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(POINTER)
    reading = read(tmp_path)
    assert not reading.documents and "Git LFS pointer" in reading.faults[0].problem


def test_23_the_processors_file_that_is_a_pointer_is_named(tiny_folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    (copy / "processor_config.json").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="Git LFS pointer") as caught:
        open_model(copy, device="cpu")
    assert caught.value.where.endswith("processor_config.json")


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.png", gzip.compress(b"x", mtime=0), r"an archive \(gzip\)"),
        ("a.png", zipped("a.png"), r"an archive \(zip\)"),
        ("a.safetensors", zipped("archive/data.pkl"), "torch.save wrote"),
        ("a.png", b"", "an empty file"),
        ("a.png.crdownload", b"\x89PNG", "a download that has not ended"),
        ("a.png", b"# xet version 0\nsize 9\n", "a Xet pointer"),
        ("a.png", b"<html lang='en'><body>404</body></html>", "a web page"),
    ],
)
def test_what_a_file_is_instead(tmp_path: Path, name: str, content: bytes, says: str):
    (tmp_path / name).write_bytes(content)
    if name.endswith("safetensors"):
        with pytest.raises(CheckpointError, match=says):
            describe(tmp_path / name)
    else:
        with pytest.raises(DataError, match=says):
            open_image(tmp_path / name)


def test_text_about_pages_and_pointers_is_neither():
    assert wrong_content(b"a cat on a <html> page") is None
    assert wrong_content(b"a note: version https://git-lfs.github.com/spec/v1") is None
    assert wrong_content(b"{}") is None


def test_a_folder_whose_download_has_not_ended_says_so(folder: Path):
    (folder / "model.safetensors").rename(folder / "model.safetensors.incomplete")
    with pytest.raises(CheckpointError, match="no weights here") as caught:
        converted(folder)
    assert "model.safetensors.incomplete" in caught.value.hint


# Kind 6: what is wrong with a source is said of the source.


@pytest.mark.parametrize("part", ["mlp_head.input_proj", "vqmodel.decoder.conv_in", "layers.0.mlp"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_weights_that_are_no_numbers_are_named(
    tiny_folder: Path, tmp_path: Path, part: str, low_memory: bool
):
    broken = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    name = next(n for n in load_file(broken / "model.safetensors") if part in n)
    weights_of(broken, lambda w: w[name].view(-1)[:1].fill_(float("nan")))
    for attempt in (
        lambda: open_model(broken, device="cpu", low_memory=low_memory),
        lambda: converted(broken),
    ):
        with pytest.raises(CheckpointError, match="no numbers") as caught:
            attempt()
        assert name in caught.value.message and "optim" not in str(caught.value)


def test_a_quantised_model_names_them_too(tiny_folder: Path, tmp_path: Path):
    broken = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    name = "model.layers.0.mlp.up_proj.weight"
    weights_of(broken, lambda w: w[name].view(-1)[:1].fill_(float("inf")))
    with pytest.raises(CheckpointError, match=name):
        open_model(broken, device="cpu", quantize=8)


def test_values_too_large_for_a_precision_are_said_of_the_precision(folder: Path):
    weights_of(folder, lambda w: w[LM_HEAD].view(-1)[:1].fill_(1e6))
    recipe = load(ConvertRecipe, None, ("head.width=32", "check.codes=0", "dtype=fp16"))
    with pytest.raises(CheckpointError, match="lm_head.weight holds values .* too large for fp16"):
        list(convert(folder, folder.parent / "orthus", recipe))


def test_a_configuration_with_nan_is_named(folder: Path):
    change(folder / "config.json", lambda t: t.update(rms_norm_eps=float("nan")))
    with pytest.raises(CheckpointError, match="rms_norm_eps is nan"):
        read_config(folder)


def test_before_the_first_update_the_learning_rate_is_not_the_cause(tmp_path: Path):
    layer, run = nn.Linear(2, 2), TrainingRun(tmp_path)
    nan = torch.tensor(float("nan"))
    with pytest.raises(TrainingError) as caught:
        check_finite(nan, "loss", 0, 0, run, layer)
    assert "lower" not in caught.value.hint
    with torch.no_grad():
        layer.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="weights are no numbers: weight") as caught:
        check_finite(nan, "loss", 0, 0, run, layer)
    assert "optim.lr" not in caught.value.hint
    with pytest.raises(TrainingError) as caught:
        check_finite(nan, "loss", 5, 5, run)
    assert "lower optim.lr" in caught.value.hint


PICTURE = Image.radial_gradient("L").convert("RGB").resize((24, 16))
BOMB = zlib.compress(b"\0" * 70_000_000)


def png(*side: tuple[bytes, bytes], wrong_checksum: bool = False) -> bytes:
    """`PICTURE` with these chunks before its pixels."""
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    content = file.getvalue()
    chunks = [
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data) ^ wrong_checksum)
        for kind, data in side
    ]
    return content[:33] + b"".join(chunks) + content[33:]


@pytest.mark.parametrize(
    "content",
    [
        png((b"zTXt", b"Comment\0\0" + BOMB)),
        png((b"iTXt", b"Comment\0\1\0\0\0" + BOMB)),
        png((b"iCCP", b"profile\0\0" + BOMB)),
        png((b"tRNS", b"\0")),
        png((b"pHYs", b"\0")),
        png((b"eXIf", b"no exif")),
        png((b"tEXt", b"Comment\0a"), wrong_checksum=True),
        png((b"tIME", b"\0" * 7), wrong_checksum=True),
    ],
    ids=["zTXt bomb", "iTXt bomb", "iCCP bomb", "tRNS", "pHYs", "eXIf", "tEXt crc", "tIME crc"],
)
def test_a_side_chunk_does_not_spoil_a_picture(content: bytes):
    assert np.array_equal(np.asarray(open_image(content)), np.asarray(PICTURE))


def test_a_wrong_checksum_of_the_palette_is_still_damage():
    file = io.BytesIO()
    PICTURE.convert("P").save(file, "PNG")
    content = bytearray(file.getvalue())
    content[content.index(b"IDAT") - 5] ^= 255  # the last byte of the palette's checksum
    with pytest.raises(DataError, match="begins as a PNG file, and is damaged"):
        open_image(bytes(content))


def test_the_cameras_rotation_survives_other_damage():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = png((b"eXIf", exif.tobytes()[6:]), (b"zTXt", b"Comment\0\0" + BOMB))
    assert open_image(content).size == (16, 24)


def test_a_broken_record_is_said_of_the_record_only(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(png((b"iTXt", b"orthus\0\0\0\0\0{}"), wrong_checksum=True))
    assert open_image(path).size == PICTURE.size
    with pytest.raises(DataError, match="'orthus' does not read: its checksum") as caught:
        read_record(path)
    assert "can be used" in caught.value.hint
    path.write_bytes(png((b"tEXt", b"parameters\0a cat"), wrong_checksum=True))
    done = CliRunner().invoke(app, ["info", str(path)], prog_name="orthus")
    assert done.exit_code == 1 and "'parameters' does not read" in done.output
    text = json.dumps({"prompt": "a cat"}).encode()
    path.write_bytes(png((b"zTXt", b"Comment\0\0" + BOMB), (b"iTXt", b"orthus\0\0\0\0\0" + text)))
    assert read_record(path) == {"prompt": "a cat"}


def test_a_picture_cut_short_says_so():
    for kind in ("JPEG", "PNG"):
        file = io.BytesIO()
        PICTURE.resize((240, 160)).save(file, kind)
        with pytest.raises(DataError, match="cut short"):
            open_image(file.getvalue()[: file.tell() // 2])


@pytest.mark.parametrize(
    ("error", "says"),
    [(OSError(errno.EIO, "Input/output error"), "Input/output error"), (MemoryError(), "memory")],
)
def test_the_disk_and_the_memory_are_not_the_files_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, says: str
):
    def fail(*_: object, **__: object):
        raise error

    for file in ("a.json", "a.png"):
        (tmp_path / file).write_bytes(b"{}")
    monkeypatch.setattr(Path, "read_bytes", fail)
    monkeypatch.setattr(Image, "open", fail)
    for attempt in (lambda: read_json(tmp_path / "a.json"), lambda: open_image(tmp_path / "a.png")):
        with pytest.raises(OrthusError, match=says) as caught:
            attempt()
        assert "download" not in caught.value.hint and "PNG" not in caught.value.hint


def test_23_a_pointer_is_neither_prompts_nor_a_vocabulary(tiny_folder: Path, tmp_path: Path):
    (tmp_path / "prompts.txt").write_bytes(POINTER)
    out = str(tmp_path / "out")
    words = ("generate", "--model", str(tiny_folder), "--device", "cpu", "-o", out)
    told = CliRunner().invoke(app, [*words, "--prompt-file", str(tmp_path / "prompts.txt")])
    assert told.exit_code == 1 and "Git LFS pointer" in told.stderr
    told = CliRunner().invoke(app, [*words, "-"], input=POINTER)
    assert told.exit_code == 1 and "Git LFS pointer" in told.stderr
    (tmp_path / "vocabulary.txt").write_bytes(POINTER)
    with pytest.raises(DataError, match="Git LFS pointer"):
        KnownWords.of(tmp_path)
