"""Pickled checkpoints: tensors come out, code does not run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from orthus_core.checkpoint import pickled
from orthus_core.checkpoint.pickled import PICKLED_INDEX, pickled_file, pickled_folder
from orthus_core.errors import CheckpointError


class Malicious:
    """Runs a shell command when an ordinary pickle reader meets it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_out_as_they_went_in(tmp_path: Path, zipped: bool):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4).bfloat16()}
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = pickled_file(tmp_path / "w.pth")
    for name, tensor in tensors.items():
        assert torch.equal(found[name].read(), tensor)
        assert (found[name].shape, found[name].dtype) == (tuple(tensor.shape), tensor.dtype)


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_a_state_dict_is_found_inside_a_training_checkpoint(tmp_path: Path, wrap: str):
    torch.save({wrap: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "w.ckpt")
    assert list(pickled_file(tmp_path / "w.ckpt")) == ["a"]


def test_values_that_are_no_tensors_are_left_out(tmp_path: Path):
    torch.save({"a": torch.ones(2), "rope.freqs": None}, tmp_path / "w.pth")
    assert list(pickled_file(tmp_path / "w.pth")) == ["a"]


def test_reading_again_after_the_map_was_closed_gives_the_same(tmp_path: Path, monkeypatch):
    tensors = {f"t{index}": torch.randn(8) for index in range(4)}
    torch.save(tensors, tmp_path / "w.pth")
    monkeypatch.setattr(pickled, "_REOPEN_AFTER_BYTES", 40)
    found = pickled_file(tmp_path / "w.pth")
    kept = {name: lazy.read() for name, lazy in found.items()}
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("write", ["torch", "plain"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, write: str):
    witness = tmp_path / "it-ran"
    content = {"a": torch.ones(1), "b": Malicious(f"touch {witness}")}
    if write == "torch":
        torch.save(content, tmp_path / "w.pth")
    else:
        (tmp_path / "w.pth").write_bytes(pickle.dumps(content["b"], protocol=2))
    with pytest.raises(CheckpointError, match="refused: loading this pickle would call") as caught:
        pickled_file(tmp_path / "w.pth")
    assert "system" in caught.value.message
    assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_said_to_be_damaged(tmp_path: Path, content: bytes):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        pickled_file(tmp_path / "w.pth")


def test_a_truncated_checkpoint_is_said_to_be_damaged(tmp_path: Path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        pickled_file(tmp_path / "w.pth")


def test_a_checkpoint_without_tensors_is_said_to_have_none(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match="no tensors"):
        pickled_file(tmp_path / "w.ckpt")


def test_a_folder_of_pickled_shards_is_read_through_its_index(tmp_path: Path):
    torch.save({"a": torch.ones(2)}, tmp_path / "one.bin")
    torch.save({"b": torch.zeros(2)}, tmp_path / "two.bin")
    (tmp_path / PICKLED_INDEX).write_text('{"weight_map": {"a": "one.bin", "b": "two.bin"}}')
    assert sorted(pickled_folder(tmp_path)) == ["a", "b"]
