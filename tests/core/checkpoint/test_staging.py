"""A staged folder is there whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orthus_core.atomic import check_room, staged_folder
from orthus_core.errors import OutputError


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("old")
    return folder


def test_the_folder_appears_when_the_block_ends(tmp_path: Path):
    target = tmp_path / "deep" / "out"
    with staged_folder(target) as staged:
        (staged / "config.json").write_text("new")
        assert not target.exists() and staged.parent == target.parent
    assert (target / "config.json").read_text() == "new"
    assert os.listdir(target.parent) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), staged_folder(tmp_path / "out") as staged:
        (staged / "half").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path):
    with (
        pytest.raises(OutputError, match="disk is full") as caught,
        staged_folder(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.where == str(tmp_path / "out") and "room" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path):
    target = model_folder(tmp_path / "out")
    with pytest.raises(OutputError, match="already") as caught, staged_folder(target):
        raise AssertionError("the block must not be entered")
    assert "--overwrite" in caught.value.hint
    assert (target / "config.json").read_text() == "old"


def test_a_model_folder_is_replaced_when_asked_and_stays_when_that_fails(tmp_path: Path):
    target = model_folder(tmp_path / "out")
    with pytest.raises(ValueError), staged_folder(target, overwrite=True):
        raise ValueError
    assert (target / "config.json").read_text() == "old"
    with staged_folder(target, overwrite=True) as staged:
        (staged / "config.json").write_text("new")
    assert (target / "config.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_holds_no_model_is_never_replaced(tmp_path: Path):
    (tmp_path / "letters.txt").write_text("dear reader")
    with pytest.raises(OutputError, match="no model folder"):
        with staged_folder(tmp_path, overwrite=True):
            raise AssertionError("the block must not be entered")
    assert (tmp_path / "letters.txt").exists()


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with staged_folder(tmp_path / "out") as staged:
        (staged / "config.json").write_text("new")
    assert (tmp_path / "out" / "config.json").exists()


def test_what_a_killed_process_left_is_cleared_and_a_running_one_is_let_be(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".out.partial-{ended.pid}").mkdir()
    (tmp_path / f".out.partial-{os.getppid()}").mkdir()
    with staged_folder(tmp_path / "out"):
        pass
    assert sorted(os.listdir(tmp_path)) == [f".out.partial-{os.getppid()}", "out"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        with staged_folder(tmp_path / "file" / "out"):
            raise AssertionError("the block must not be entered")


def test_too_little_room_is_found_before_anything_is_written(tmp_path: Path):
    check_room(tmp_path / "not" / "yet", 1)
    with pytest.raises(OutputError, match="not enough room"):
        check_room(tmp_path / "not" / "yet", 10**18)
