"""Every case of the table ends in the right error or a right result; nothing is half-written, and
nothing that was there is touched.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from orthus_cli.app import app
from orthus_core.checkpoint import model_folder as model_folder
from tests.bad_inputs.cases import ANY, CASES, DAMAGED, DAMAGED_RECORDS, Case
from tests.bad_inputs.pictures import BROKEN, GOOD, damaged, damaged_record, with_record

PRECIOUS = b"\x89PNG\r\n\x1a\n a picture that took hours"
SECRET = "secret.png"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


@pytest.fixture(scope="module")
def opened(tiny_folder):
    return model_folder.open_model(tiny_folder, device="cpu")


@pytest.fixture
def place(tmp_path, monkeypatch, opened, tiny_folder) -> Path:
    """A folder to work in, where `mini` is a tiny model that is open already."""
    whole = model_folder.open_model

    def open_model(source, **how):
        return opened if str(source) == "mini" else whole(source, **how)

    monkeypatch.setattr(model_folder, "open_model", open_model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious.png").write_bytes(PRECIOUS)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="orthus", input="")


def typed(case: Case, place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The case's words, the files they name made."""
    return [_file(word, place, monkeypatch) for word in case.words]


def _file(word: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    named = re.fullmatch(r"\{([^{}]+)\}(/.*)?", word)
    if not named:
        return word
    name, rest = named[1], named[2] or ""
    if name in GOOD or name in BROKEN:
        path = place / name
        path.mkdir() if name == "folder.png" else path.write_bytes((GOOD | BROKEN)[name]())
        return str(path)
    if name == SECRET:
        secret = place / SECRET
        secret.write_bytes(GOOD["plain.png"]())
        for opened in ("builtins.open", "io.open"):
            monkeypatch.setattr(opened, keeps(secret))
        return str(secret)
    if name == "closed":
        closed = place / "folder"
        may = names_access(closed)
        monkeypatch.setattr("os.access", may)
        return f"{closed}{rest}"
    if name in ("precious", "folder", "file"):
        return str(place / ("precious.png" if name == "precious" else name)) + rest
    return word


def keeps(secret: Path):
    """`open` on a system where this file may not be read, also not by those who may do anything."""
    whole = open

    def opened(file, mode="r", *args, **kwargs):
        if str(file) == str(secret) and "r" in mode:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return whole(file, mode, *args, **kwargs)

    return opened


def names_access(closed: Path):
    """`os.access` on a system where this folder is closed, also to those who may do anything."""
    return lambda path, mode: Path(path) != closed


def state(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name != SECRET
    }


def judge(done: Result, before: dict[str, bytes], place: Path) -> None:
    """What holds of every command, whatever it was given."""
    told = done.stdout + done.stderr
    assert done.exit_code in (0, 1, 2), told
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in told and not CONTROL.search(told)
    after = state(place)
    assert {name: after.get(name) for name in before} == before, "what was there is as it was"
    made = sorted(set(after) - set(before))
    if done.exit_code:
        assert not made, f"an error leaves nothing, and left {made}"
        assert len(re.findall(r"^error: ", done.stderr, re.MULTILINE)) == (done.exit_code == 1)
        assert not re.search(r"error: \w*Error\b", done.stderr), "each has a sentence of its own"
    for name in made:
        assert not Path(name).name.startswith(".")
        if name.endswith(".png"):
            with Image.open(place / name) as image:
                image.load()


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.words)[:60])
def test_it_ends_in_the_right_error_or_a_right_result(case: Case, place, monkeypatch):
    words = typed(case, place, monkeypatch)
    before = state(place)
    done = run(*words)
    judge(done, before, place)
    if case.says is None:
        assert done.exit_code == 0, done.stderr
    elif case.says != ANY:
        assert done.exit_code == case.code, done.output
        assert case.says in done.stderr, done.stderr


@pytest.mark.parametrize("seed", DAMAGED)
def test_a_damaged_picture_is_read_or_refused(seed, place):
    path = place / "damaged.png"
    path.write_bytes(damaged(seed))
    before = state(place)
    judge(run("edit", str(path), "a red fox", "-o", "out.png"), before, place)


@pytest.mark.parametrize("seed", DAMAGED_RECORDS)
def test_a_damaged_record_is_read_or_refused(seed, place):
    path = place / "damaged.png"
    path.write_bytes(with_record(damaged_record(seed)))
    before = state(place)
    judge(run("info", str(path)), before, place)
    judge(run("generate", "-C", str(path), "-m", "mini", "-o", "out.png"), before, place)


@pytest.mark.parametrize("command", ["generate", "edit", "story"])
@pytest.mark.parametrize("written", [0, 1])
def test_a_full_disk_keeps_what_is_whole_and_leaves_nothing_half(
    command, written, place, monkeypatch
):
    (place / "start.png").write_bytes(GOOD["plain.png"]())
    words = {
        "generate": ["a fox", "-n", "2", "--seed", "1", "-o", "{seed}.png", "--batch-size", "1"],
        "edit": ["start.png", "a fox", "-n", "2", "--seed", "1", "-o", "{seed}.png"],
        "story": ["a fox", "--panels", "1", "--max-new-tokens", "2", "-o", "told"],
    }[command]
    before, whole, count = state(place), Path.write_bytes, 0

    def full(self: Path, content: bytes) -> int:
        nonlocal count
        count += content != b"orthus"  # what outputs are probed with, which there is room for
        if count > written:
            whole(self, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    done = run(command, *words)
    monkeypatch.undo()
    assert done.exit_code == 1 and "the disk is full" in done.stderr, done.output
    made = sorted(set(state(place)) - set(before))
    assert made == (["1.png"] if written and command != "story" else [])
    for name in made:
        with Image.open(place / name) as image:
            image.load()


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_keeps_answers_that_are_whole(before, overwrite, place, monkeypatch):
    (place / "start.png").write_bytes(GOOD["plain.png"]())
    asked = ["caption", "start.png", "-o", "answers.jsonl", "--max-new-tokens", "2"]
    if before:
        assert run(*asked).exit_code == 0
    found, whole = state(place), Path.open

    class Full:
        """A file on a disk that takes ten more bytes."""

        def __init__(self, file) -> None:
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.file.close()

        def __getattr__(self, name: str):
            return getattr(self.file, name)

        def write(self, content: bytes) -> int:
            self.file.write(content[:10])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(self: Path, mode: str = "r", *args, **kwargs):
        file = whole(self, mode, *args, **kwargs)
        return Full(file) if "a" in mode or "w" in mode else file

    monkeypatch.setattr(Path, "open", opened)
    done = run(*asked, "--question", "and now?", *["--overwrite"] * overwrite)
    monkeypatch.setattr(Path, "open", whole)
    assert done.exit_code == 1 and "the disk is full" in done.stderr, done.output
    assert state(place) == found


def test_the_table_is_about_200_and_no_case_is_there_twice():
    count = len(CASES) + len(DAMAGED) + len(DAMAGED_RECORDS)
    assert count > 200
    assert len({case.words for case in CASES}) == len(CASES)
