"""Files and folders are there whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orthus_core.atomic import staged_file, write_text
from orthus_core.atomic_folder import check_folder, staged_folder
from orthus_core.errors import OutputError
from orthus_core.output_checks import check_room


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("old")
    return folder


def test_the_folder_appears_when_the_block_ends(tmp_path: Path):
    target = tmp_path / "deep" / "out"
    with staged_folder(target, mark="config.json") as staged:
        (staged / "config.json").write_text("new")
        assert not target.exists() and staged.parent == target.parent
    assert (target / "config.json").read_text() == "new"
    assert os.listdir(target.parent) == ["out"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_that_a_library_made_private_are_as_open_as_the_folder(tmp_path: Path, umask, mode):
    before = os.umask(umask)
    try:
        with staged_folder(tmp_path / "model", mark=None) as staged:
            (staged / "weights").write_text("private")
            (staged / "weights").chmod(0o600)
            (staged / "run").write_text("script")
            (staged / "run").chmod(0o700)
    finally:
        os.umask(before)
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == mode
    assert (tmp_path / "model" / "run").stat().st_mode & 0o777 == mode | 0o700


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), staged_folder(tmp_path / "out", mark="config.json") as staged:
        (staged / "half").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path):
    with (
        pytest.raises(OutputError, match="disk is full") as caught,
        staged_folder(tmp_path / "out", mark="config.json"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.where == str(tmp_path / "out") and "room" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path):
    target = model_folder(tmp_path / "out")
    with (
        pytest.raises(OutputError, match="already") as caught,
        staged_folder(target, mark="config.json"),
    ):
        raise AssertionError("the block must not be entered")
    assert "--overwrite" in caught.value.hint
    assert (target / "config.json").read_text() == "old"


def test_a_model_folder_is_replaced_when_asked_and_stays_when_that_fails(tmp_path: Path):
    target = model_folder(tmp_path / "out")
    with pytest.raises(ValueError), staged_folder(target, mark="config.json", overwrite=True):
        raise ValueError
    assert (target / "config.json").read_text() == "old"
    with staged_folder(target, mark="config.json", overwrite=True) as staged:
        (staged / "config.json").write_text("new")
    assert (target / "config.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_holds_no_model_is_never_replaced(tmp_path: Path):
    (tmp_path / "letters.txt").write_text("dear reader")
    with pytest.raises(OutputError, match="holds no config.json"):
        with staged_folder(tmp_path, mark="config.json", overwrite=True):
            raise AssertionError("the block must not be entered")
    assert (tmp_path / "letters.txt").exists()


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with staged_folder(tmp_path / "out", mark="config.json") as staged:
        (staged / "config.json").write_text("new")
    assert (tmp_path / "out" / "config.json").exists()


def test_what_a_killed_process_left_is_cleared_and_a_running_one_is_let_be(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".out.partial-{ended.pid}").mkdir()
    (tmp_path / f".out.partial-{os.getppid()}").mkdir()
    with staged_folder(tmp_path / "out", mark="config.json"):
        pass
    assert sorted(os.listdir(tmp_path)) == [f".out.partial-{os.getppid()}", "out"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        with staged_folder(tmp_path / "file" / "out", mark="config.json"):
            raise AssertionError("the block must not be entered")


def test_too_little_room_is_found_before_anything_is_written(tmp_path: Path):
    check_room(tmp_path / "not" / "yet", 1)
    with pytest.raises(OutputError, match="not enough room"):
        check_room(tmp_path / "not" / "yet", 10**18)


def test_a_folder_of_any_kind_is_replaced_where_no_mark_is_asked_for(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "half").write_text("half")
    with staged_folder(tmp_path / "out", mark=None, overwrite=True) as staged:
        (staged / "whole").write_text("whole")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["whole"]


def test_a_file_is_never_taken_for_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("dear reader")
    with pytest.raises(OutputError, match="this is a file"):
        check_folder(tmp_path / "file", mark=None, overwrite=True)


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target, rename = model_folder(tmp_path / "out"), Path.rename

    def failing(self: Path, place: Path) -> Path:
        if (self / "config.json").read_text() == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="could not be written"):
        with staged_folder(target, mark="config.json", overwrite=True) as staged:
            (staged / "config.json").write_text("new")
    assert os.listdir(tmp_path) == ["out"] and (target / "config.json").read_text() == "old"


def test_a_file_appears_when_the_block_ends_and_an_error_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "out.txt"
    with staged_file(target) as staged:
        staged.write_text("one")
        assert not target.exists() and staged.parent == target.parent
    with pytest.raises(ValueError), staged_file(target) as staged:
        staged.write_text("half")
        raise ValueError
    assert target.read_text() == "one" and os.listdir(tmp_path) == ["out.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path):
    write_text(tmp_path / "out.txt", "one")
    with pytest.raises(OutputError, match="the disk is full") as caught:
        with staged_file(tmp_path / "out.txt", hint="make room") as staged:
            staged.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (caught.value.where, caught.value.hint) == (str(tmp_path / "out.txt"), "make room")
    assert (tmp_path / "out.txt").read_text() == "one" and os.listdir(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("name", ["out.txt", "[a] * ?.txt", "ä" * 120 + ".txt"])
def test_a_file_that_a_killed_process_left_is_cleared_by_the_next(tmp_path: Path, name: str):
    killed = (
        "import os, signal, sys, pathlib, orthus_core.atomic as atomic\n"
        "with atomic.staged_file(pathlib.Path(sys.argv[1])) as staged:\n"
        "    staged.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / name)], cwd=root)
    (left,) = os.listdir(tmp_path)
    assert ".partial-" in left
    write_text(tmp_path / name, "whole")
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "whole"


def test_what_is_renamed_has_been_flushed_to_disk_before(tmp_path, monkeypatch):
    done, fsync, replace, rename = [], os.fsync, os.replace, Path.rename

    def note(what, act):
        return lambda *args: (done.append(what), act(*args))[1]

    monkeypatch.setattr(os, "fsync", note("flush", fsync))
    monkeypatch.setattr(os, "replace", note("rename", replace))
    monkeypatch.setattr(Path, "rename", note("rename", rename))
    write_text(tmp_path / "out.txt", "text")
    assert done == ["flush", "rename", "flush"]
    done.clear()
    with staged_folder(tmp_path / "out", mark=None) as staged:
        (staged / "deep").mkdir()
        (staged / "deep" / "file").write_text("text")
    assert done == ["flush", "flush", "flush", "rename", "flush"]
