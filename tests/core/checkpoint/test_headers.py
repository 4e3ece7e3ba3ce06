"""Headers of safetensors, and every way in which a weight file can be broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orthus_core.checkpoint.headers import INDEX, WEIGHTS, read_folder, read_header
from orthus_core.errors import CheckpointError


def sharded(folder: Path) -> Path:
    """Two shards and their index."""
    save_file({"a": torch.ones(2, 3)}, folder / "one.safetensors")
    save_file({"b": torch.ones(4).bfloat16()}, folder / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def test_a_header_says_shape_dtype_and_place(tmp_path: Path):
    save_file({"a": torch.arange(6.0).view(2, 3)}, tmp_path / WEIGHTS)
    header = read_header(tmp_path / WEIGHTS)["a"]
    assert (header.shape, header.dtype, header.numel, header.bytes) == ((2, 3), "F32", 6, 24)
    data = (tmp_path / WEIGHTS).read_bytes()[header.start : header.stop]
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.float32), torch.arange(6.0))


def test_a_sharded_folder_is_read_through_its_index(tmp_path: Path):
    found = read_folder(sharded(tmp_path))
    assert {name: header.file.name for name, header in found.items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
    }


@pytest.mark.parametrize("kept", [0, 4, 20, 90])
def test_a_file_cut_short_is_named(tmp_path: Path, kept: int):
    file = tmp_path / WEIGHTS
    save_file({"a": torch.ones(64)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged or cut short") as caught:
        read_folder(tmp_path)
    assert caught.value.where == str(file) and "again" in caught.value.hint


def test_a_file_that_lost_its_end_says_how_much_is_there(tmp_path: Path):
    file = tmp_path / WEIGHTS
    save_file({"a": torch.ones(64)}, file)
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=f"it has {size - 8} of the {size} bytes"):
        read_header(file)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1]},
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, entry: dict):
    text = json.dumps({"a": entry}).encode()
    file = tmp_path / WEIGHTS
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(CheckpointError, match="damaged"):
        read_header(file)


def test_a_missing_shard_is_named(tmp_path: Path):
    (sharded(tmp_path) / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 2 weight files are missing: two.safetensors"):
        read_folder(tmp_path)


def test_a_shard_without_a_promised_tensor_is_named(tmp_path: Path):
    save_file({"c": torch.ones(1)}, sharded(tmp_path) / "two.safetensors")
    with pytest.raises(CheckpointError, match="two.safetensors does not hold b"):
        read_folder(tmp_path)


def test_an_index_may_not_point_outside_its_folder(tmp_path: Path):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside"):
        read_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', "{"])
def test_an_index_that_does_not_read_is_said_to(tmp_path: Path, text: str):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="index of the weight files does not read"):
        read_folder(tmp_path)


def test_a_folder_without_weights_is_said_to_have_none(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no weights here"):
        read_folder(tmp_path)
