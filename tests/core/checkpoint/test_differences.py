"""Models stored as their differences from another, and put together in the cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from orthus_core import cache_folder
from orthus_core.checkpoint import hub
from orthus_core.checkpoint.differences import whole_of, write_differences
from orthus_core.checkpoint.hub import DIFFERENCES
from orthus_core.checkpoint.model_folder import open_model, save_model
from orthus_core.errors import OutputError


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "starter" / "mini"))


@pytest.fixture
def student(base: Path, tmp_path: Path) -> Path:
    """A model that differs from the base in one tensor."""
    opened = open_model(base, device="cpu")
    with torch.no_grad():
        opened.model.lm_head.weight += 1
    return save_model(opened.model, opened.processor, tmp_path / "student")


@pytest.fixture
def stored(base: Path, student: Path) -> Path:
    folder = base.parent / "mini-fast"
    folder.mkdir()
    write_differences(student, base, folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache_folder.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def check_equal(folder: Path, student: Path) -> None:
    ours = open_model(folder, device="cpu").model.state_dict()
    theirs = open_model(student, device="cpu").model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_whole_is_put_together_once(stored: Path, base: Path, student: Path, cache: Path):
    assert not (stored / "tokenizer.json").exists()  # as in the base
    files = [*stored.glob(DIFFERENCES)]
    assert len(files) == 1
    assert files[0].stat().st_size < (student / "model.safetensors").stat().st_size
    whole = whole_of(stored, base)
    assert whole.is_relative_to(cache) and not [*whole.glob(DIFFERENCES)]
    check_equal(whole, student)
    for name in ("tokenizer.json", "README.md"):  # the base's, and its own
        assert (whole / name).read_bytes() == (student / name).read_bytes()
    before = (whole / "model.safetensors").stat().st_mtime_ns
    assert whole_of(stored, base) == whole
    assert (whole / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]  # nothing half-made


def test_large_differences_are_several_files(stored: Path, base: Path, tmp_path: Path):
    opened = open_model(stored.parent / "mini", device="cpu")
    with torch.no_grad():
        for weight in opened.model.model.parameters():
            weight += 1
    student = save_model(opened.model, opened.processor, tmp_path / "another")
    for file in stored.glob(DIFFERENCES):
        file.unlink()
    write_differences(student, base, stored, largest=50_000)
    assert len([*stored.glob(DIFFERENCES)]) > 1
    check_equal(whole_of(stored, base), student)


def test_other_files_make_another_whole(stored: Path, base: Path):
    first = whole_of(stored, base)
    os.utime(base / "config.json", ns=(1, 1))
    assert whole_of(stored, base) != first


def test_without_a_cache_the_whole_lives_as_long_as_the_process(
    stored: Path, base: Path, student: Path, cache: Path
):
    cache.write_text("a file is in the way")
    check_equal(whole_of(stored, base), student)


def test_no_room_at_all_is_an_error(stored: Path, base: Path, cache: Path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="mini-fast cannot be put together: No space left"):
        whole_of(stored, base)
    assert not [*(cache / "models").iterdir()]


def test_a_bundled_name_means_the_whole(stored: Path, base: Path, student: Path, monkeypatch):
    monkeypatch.setattr(hub, "_STARTER", base.parent)
    monkeypatch.setattr(hub, "BUNDLED", ("mini", "mini-fast"))
    monkeypatch.chdir(base.parent.parent)
    check_equal(hub.resolve("mini-fast"), student)
    assert hub.resolve("mini") == base


def test_a_tensor_that_only_the_base_has_is_an_error(base: Path, student: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(student / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, student / "model.safetensors")
    with pytest.raises(ValueError, match=r"mini has lm_head.weight, and student has not"):
        write_differences(student, base, tmp_path)
