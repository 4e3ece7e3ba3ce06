"""Results are put where they were asked for, or it is said first; what is finished is never lost.

An output may be the folder that the shell stands in, a mount point, a link, or a place that cannot
be written to.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from orthus_cli.app import app
from orthus_core.atomic import staged_file, write_text
from orthus_core.atomic_folder import check_folder, staged_folder
from orthus_core.checkpoint.headers import CONFIG, MODEL_FILES
from orthus_core.checkpoint.model_folder import open_model
from orthus_core.errors import OutputError, UnplacedError
from orthus_core.events import Event, Note, StepDone
from orthus_core.output_checks import check_room
from orthus_core.recipe import load
from orthus_core.recipe.training import PosttrainRecipe
from orthus_core.results.output_names import Named, check_free, picture_paths
from orthus_core.train.state import state_at, training_folder
from orthus_core.train.trainings import posttrain
from orthus_core.world.export import export
from orthus_core.world.world import World
from tests.core.toy_data import SHORT, interleaved

STORY = ["story", "a fox", "--steps", "2", "--seed", "1", "--device", "cpu"]
QUICK = [*(each for each in SHORT if "optim.steps" not in each), "optim.steps=2"]


def orthus(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the shell stands in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interleaved(tmp_path_factory.mktemp("rows") / "data")


def quick_recipe(rows: Path) -> PosttrainRecipe:
    return load(PosttrainRecipe, None, [*QUICK, f"data.source={json.dumps(str(rows))}"])


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def fail_renames(monkeypatch: pytest.MonkeyPatch, code: int, when: Callable[[str], bool]) -> None:
    """Makes the system refuse to rename paths, as it does for mount points."""
    for name in ("rename", "replace"):
        real = getattr(os, name)

        def failing(source, goal, *, real=real, **more):
            if when(os.fspath(source)):
                raise OSError(code, os.strerror(code))
            return real(source, goal, **more)

        monkeypatch.setattr(os, name, failing)


# The shell's working directory


def test_a_story_is_told_into_the_folder_that_the_shell_stands_in(here, tiny_folder):
    before = os.stat(".").st_ino
    done = orthus(*STORY, "--panels", "3", "--model", tiny_folder, "-o", ".")
    assert done.exit_code == 0, done.stderr
    assert os.stat(here).st_ino == before == os.stat(".").st_ino
    assert "story.json" in names(Path.cwd()) and "03.png" in names(Path.cwd())
    # Another one in its place removes what belongs to the first, and nothing else.
    (here / "notes.txt").write_text("mine")
    refused = orthus(*STORY, "--panels", "1", "--model", tiny_folder, "-o", "./")
    assert refused.exit_code == 1 and "not empty" in refused.stderr
    done = orthus(*STORY, "--panels", "1", "--model", tiny_folder, "-o", ".", "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert os.stat(here).st_ino == before and (here / "notes.txt").read_text() == "mine"
    assert "03.png" not in names(here) and len(json.loads(Path("story.json").read_text())["panels"])
    assert not [name for name in names(here) if name.startswith(".")]


def test_answers_do_not_go_to_a_file_called_as_a_folder(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = orthus("caption", "any.png", "-o", "answers/", "--model", tiny_folder)
    assert done.exit_code == 1 and "-o answers/captions.jsonl" in done.stderr
    assert not names(tmp_path)


@pytest.mark.parametrize("output", [".", "../here", "../link"])
def test_a_conversion_fills_the_folder_that_the_shell_stands_in(here, tiny_folder, output):
    before = os.stat(".").st_ino
    (here.parent / "link").symlink_to("here")
    done = orthus("convert", tiny_folder, "-o", output, "--set", "check.codes=0")
    assert done.exit_code == 0, done.stderr
    assert os.stat(here).st_ino == before and CONFIG in os.listdir(".")
    assert (here.parent / "link").is_symlink() and names(here.parent) == ["here", "link"]
    assert (here / "README.md").read_text().count("here")


def test_a_training_fills_the_folder_that_the_shell_stands_in(here, tiny_folder, rows):
    before = os.stat(".").st_ino
    sets = [f"--set={key}" for key in (*QUICK, f"data.source={json.dumps(str(rows))}")]
    words = ["posttrain", "--init-from", tiny_folder, "-o", ".", *sets]
    done = orthus(*words)
    assert done.exit_code == 0, done.stderr
    assert os.stat(here).st_ino == before
    assert CONFIG in os.listdir(".") and open_model(here, device="cpu").path == here
    assert names(here.parent) == ["here", "here.training"]
    assert state_at(Path(".")) == here.parent / "here.training" / "states" / "step-000002"


def test_a_data_set_fills_a_folder_and_a_half_one_is_none(here):
    before = os.stat(".").st_ino
    events: Any = export(World.open(), {"text_to_image": 1.0}, here, rows=3, size=16, seed=0)
    next(events)
    events.close()  # as Ctrl-C does
    assert names(here) == []
    done = orthus("data", "prepare", "world", "-o", ".", "--rows", "2", "--size", "16")
    assert done.exit_code == 0, done.stderr
    assert os.stat(here).st_ino == before and names(here) == ["images", "records.jsonl"]
    again = orthus("data", "prepare", "world", "-o", ".", "--rows", "2")
    assert again.exit_code == 1 and "name another one" in again.stderr


def test_no_folder_is_made_from_a_working_directory_that_was_removed(here):
    here.rmdir()
    with pytest.raises(OutputError):
        check_folder(Path("."), mark=CONFIG)


# Mounts


def test_a_mount_point_is_filled_and_keeps_its_states_inside(tmp_path, monkeypatch):
    mount = tmp_path / "mount"
    (mount / "lost+found").mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == mount)
    fail_renames(monkeypatch, errno.EBUSY, lambda source: source == str(mount))
    work = training_folder(mount)
    assert work == mount / "mount.training"
    (work / "states" / "step-000004").mkdir(parents=True)
    (work / "states" / "step-000004" / "about.json").write_text("{}")
    for overwrite in (False, True):
        with staged_folder(mount, mark=CONFIG, overwrite=overwrite) as staged:
            assert staged.parent == mount
            (staged / CONFIG).write_text(str(overwrite))
    assert (mount / CONFIG).read_text() == "True"
    assert names(mount) == [CONFIG, "lost+found", "mount.training"]
    assert training_folder(mount) == work and state_at(mount) == work / "states" / "step-000004"


def test_states_lie_inside_where_nothing_can_be_written_beside(tmp_path, monkeypatch):
    output, mkdir = tmp_path / "out", os.mkdir
    output.mkdir()
    assert training_folder(output) == tmp_path / "out.training"

    def closed(path, *more, **others):
        if Path(path).parent == tmp_path:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        mkdir(path, *more, **others)

    monkeypatch.setattr(os, "mkdir", closed)
    assert training_folder(output) == output / "out.training"
    with staged_folder(output, mark=CONFIG) as staged:
        (staged / CONFIG).write_text("new")
    assert names(output) == [CONFIG]
    # A run that has its states beside goes on with them.
    monkeypatch.setattr(os, "mkdir", mkdir)
    (tmp_path / "out.training").mkdir()
    assert training_folder(output) == tmp_path / "out.training"


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EBUSY])
def test_what_cannot_be_renamed_is_copied(tmp_path, monkeypatch, code):
    fail_renames(monkeypatch, code, lambda source: True)
    target = tmp_path / "out"
    with staged_folder(target, mark=CONFIG) as staged:
        (staged / "deep").mkdir()
        (staged / "deep" / "file").write_text("text")
        (staged / CONFIG).write_text("new")
    assert names(tmp_path) == ["out"] and names(target) == [CONFIG, "deep"]
    assert (target / "deep" / "file").read_text() == "text"
    write_text(tmp_path / "file", "one")
    write_text(tmp_path / "file", "two")
    assert (tmp_path / "file").read_text() == "two" and names(tmp_path) == ["file", "out"]


# Kills and failures while a folder is filled


OLD = {CONFIG: "old", "model-1.safetensors": "old", "model-2.safetensors": "old", "note.txt": "my"}
NEW = {CONFIG: "new", "model.safetensors": "new", "README.md": "new"}


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def replace(folder: Path) -> None:
    with staged_folder(folder, mark=CONFIG, replaces=MODEL_FILES, overwrite=True) as staged:
        for name, text in NEW.items():
            (staged / name).write_text(text)


@pytest.mark.parametrize("there", [{}, OLD], ids=["empty", "former result"])
def test_a_kill_at_any_rename_leaves_one_whole_result_after_the_next_check(tmp_path, there):
    outcomes = set()
    new = NEW | {name: text for name, text in there.items() if name == "note.txt"}
    for moment in range(12):
        folder = tmp_path / f"{moment}"
        folder.mkdir()
        for name, text in there.items():
            (folder / name).write_text(text)
        child = os.fork()
        if not child:
            _replace_and_die(folder, moment)
        os.waitpid(child, 0)
        if (folder / CONFIG).exists():  # never taken for finished when it is not
            assert content(folder) in (there, new)
        check_folder(folder, mark=CONFIG, overwrite=True)
        assert content(folder) in (there, new) and len(names(folder)) == len(content(folder))
        outcomes.add(content(folder) == new)
    assert outcomes == {True, False}


def _replace_and_die(folder: Path, moment: int) -> None:
    """Replace a folder's content in a forked process that ends before a rename."""
    count, rename = 0, os.rename

    def dying(source, goal, **more):
        nonlocal count
        if count == moment:
            os._exit(9)
        count += 1
        rename(source, goal, **more)

    os.rename = dying
    try:
        replace(folder)
    finally:
        os._exit(0)


def test_a_failure_while_a_folder_is_filled_brings_back_what_was_there(tmp_path, monkeypatch):
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    fail_renames(monkeypatch, errno.EIO, lambda source: source.endswith("/model.safetensors"))
    with pytest.raises(UnplacedError) as caught:
        replace(tmp_path)
    kept = caught.value.kept
    assert content(tmp_path) == OLD and content(kept) == NEW and str(kept) in caught.value.hint
    assert names(tmp_path) == sorted([*OLD, kept.name])


def test_a_result_whose_place_was_taken_meanwhile_is_kept_and_named(tmp_path):
    for place in (tmp_path / "new", tmp_path / "there"):
        if place.name == "there":
            place.mkdir()
        with pytest.raises(UnplacedError, match="while this was made") as caught:
            with staged_folder(place, mark=CONFIG) as staged:
                (staged / CONFIG).write_text("new")
                place.mkdir(exist_ok=True)
                (place / "letter.txt").write_text("mine")
        assert str(caught.value.kept) in caught.value.hint
        assert (caught.value.kept / CONFIG).read_text() == "new"
        assert (place / "letter.txt").read_text() == "mine" and not (place / CONFIG).exists()
        # The next run does not clear it.
        with pytest.raises(OutputError):
            check_folder(place, mark=CONFIG)
        assert caught.value.kept.is_dir()


def test_what_a_killed_process_of_the_same_number_left_is_cleared(tmp_path):
    """In a container every run has the same few process numbers."""
    (tmp_path / f".out.partial-{os.getpid()}").mkdir()
    with staged_folder(tmp_path / "out", mark=CONFIG) as staged:
        (staged / CONFIG).write_text("new")
    (tmp_path / "out" / f".orthus-partial-{os.getpid()}").mkdir()
    check_folder(tmp_path / "out", mark=CONFIG, overwrite=True)
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == [CONFIG]


def test_a_folder_system_that_cannot_flush_folders_is_good_enough(tmp_path, monkeypatch):
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with staged_folder(tmp_path / "out", mark=CONFIG) as staged:
        (staged / CONFIG).write_text("new")
    assert names(tmp_path) == ["out"]


# Trainings at their last step


def last_step(events: Iterator[Event], steps: int) -> Iterator[Event]:
    return (each for each in events if isinstance(each, StepDone) and each.step == steps)


def test_a_model_whose_place_was_taken_during_training_is_kept(tmp_path, tiny_folder, rows):
    output = tmp_path / "out"
    with pytest.raises(UnplacedError, match="not empty") as caught:
        for _ in last_step(posttrain(quick_recipe(rows), tiny_folder, output), steps=2):
            output.mkdir()
            (output / "letter.txt").write_text("mine")
    kept = caught.value.kept
    assert kept == tmp_path / "out.training" / "model" and str(kept) in caught.value.hint
    assert open_model(kept, device="cpu").path == kept and names(output) == ["letter.txt"]


def test_a_last_state_that_cannot_be_saved_does_not_cost_the_model(
    tmp_path, tiny_folder, rows, monkeypatch
):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("orthus_core.train.state_files.write_tensors", full)
    events = list(posttrain(quick_recipe(rows), tiny_folder, tmp_path / "out"))
    told = [str(event) for event in events if isinstance(event, Note)]
    assert any("not saved at the last step" in line and "disk is full" in line for line in told)
    assert open_model(tmp_path / "out", device="cpu").model


# Places that cannot be written to


def unwritable(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("")
    return {
        "below a file": tmp_path / "file" / "out",
        "where root cannot write": Path("/proc/orthus/out"),
        "too long a name": tmp_path / ("x" * 300),
        "too long for its training": tmp_path / ("x" * 250),
    }


@pytest.mark.parametrize(
    "kind",
    ["below a file", "where root cannot write", "too long a name", "too long for its training"],
)
def test_what_cannot_be_written_is_found_before_the_model_is_read(
    tmp_path, monkeypatch, kind, tiny_folder
):
    def opened(*arguments, **options):
        raise AssertionError("the model was read")

    readers = (  # a module that copies the name is imported, and patched, before the original
        "checkpoint.autoencoder_alone.read_config",
        "train.trainings.read_config",
        "checkpoint.model_folder.read_config",
        "checkpoint.convert.plan",
    )
    for name in readers:
        monkeypatch.setattr(f"orthus_core.{name}", opened)
    out = unwritable(tmp_path)[kind]
    Image.new("RGB", (16, 16)).save(tmp_path / "in.png")
    before = names(tmp_path)
    start, model = ["--init-from", tiny_folder], ["--model", tiny_folder]
    commands = [[name, *start, "-o", out] for name in ("posttrain", "build-base", "finetune-vae")]
    commands.append(["pretrain", "-o", out])
    if kind != "too long for its training":
        file = out.with_name(out.name + ".png")
        commands += [
            [*STORY, *model, "-o", out],
            ["convert", tiny_folder, "-o", out],
            ["generate", "a fox", *model, "-o", file],
            ["generate", "a fox", *model, "-o", tmp_path / "a.png", "--grid", file],
            ["edit", tmp_path / "in.png", "make it red", *model, "-o", file],
            ["caption", tmp_path / "in.png", *model, "-o", out],
            ["bench", "--shape", "mini", "--json", out],
            ["data", "prepare", "world", "--rows", "2", "-o", out],
        ]
    for words in commands:
        done = orthus(*words)
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit), (words, done)
        assert "where: " in done.stderr and "next: " in done.stderr, words
    assert names(tmp_path) == before


def test_a_place_that_may_be_written_is_left_as_it_was(tmp_path):
    check_folder(tmp_path / "deep" / "deeper" / "out", mark=CONFIG)
    check_free(tmp_path / "deep" / "deeper" / "out.png")
    (tmp_path / "there").mkdir()
    check_folder(tmp_path / "there", mark=CONFIG)
    assert names(tmp_path) == ["there"] and names(tmp_path / "there") == []


def test_a_full_disk_of_a_few_megabytes_is_told_in_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr("orthus_core.output_checks.free_disk", lambda folder: 1_500_000)
    with pytest.raises(OutputError, match=r"2 MB to write and 1\.5 MB free"):
        check_room(tmp_path, 2_000_000)


# Links, pipes and slashes


def test_a_link_to_a_file_is_written_through(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real.png").write_text("old")
    link = tmp_path / "link.png"
    link.symlink_to("disk/real.png")
    with pytest.raises(OutputError, match="already"):
        check_free(link)
    write_text(link, "new")
    assert link.is_symlink() and (tmp_path / "disk" / "real.png").read_text() == "new"
    assert names(tmp_path / "disk") == ["real.png"]
    # A link to nothing yet, for a folder.
    (tmp_path / "later").symlink_to("disk/out")
    with staged_folder(tmp_path / "later", mark=CONFIG) as staged:
        (staged / CONFIG).write_text("new")
    assert (tmp_path / "later").is_symlink() and names(tmp_path / "disk" / "out") == [CONFIG]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_free(pipe)
    with staged_file(pipe) as staged:
        staged.write_text("text")
    assert os.read(reader, 10) == b"text" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    done = orthus("caption", tmp_path, "-o", pipe)
    assert done.exit_code == 1


def test_a_name_that_ends_in_a_slash_is_a_folder(here, tiny_folder):
    words = ["generate", "a fox", "--seed", "3", "--steps", "1", "--model", tiny_folder]
    done = orthus(*words, "--device", "cpu", "-o", "renders.v2/")
    assert done.exit_code == 0, done.stderr
    assert names(here / "renders.v2") == ["a_fox_3.png"]
    assert picture_paths(".", [Named("a fox", 3)]) == [Path("a_fox_3.png")]
    assert picture_paths("..", [Named("a fox", 3)]) == [Path("../a_fox_3.png")]


def test_a_picture_that_cannot_be_written_names_its_seed(here, tiny_folder, monkeypatch):
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name.startswith(".a_fox_8"):
            if len(content) > 100:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    words = ["generate", "a fox", "--seed", "7", "-n", "2", "--steps", "1", "--model", tiny_folder]
    done = orthus(*words, "--device", "cpu")
    assert done.exit_code == 1 and "disk is full" in done.stderr and "--seed 8" in done.stderr
    assert names(here) == ["a_fox_7.png"]


@pytest.mark.parametrize(
    "told",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 99544320 vs 99544212",
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
    ids=["torch", "safetensors"],
)
def test_a_full_disk_is_told_where_a_library_writes(tmp_path, told):
    """Both libraries write files themselves, and raise errors of their own."""
    with pytest.raises(OutputError, match="the disk is full") as caught:
        with staged_folder(tmp_path / "out", mark="config.json"):
            raise RuntimeError(told)
    assert caught.value.where == str(tmp_path / "out") and names(tmp_path) == []
    with pytest.raises(RuntimeError, match="shapes"):
        with staged_folder(tmp_path / "out", mark="config.json"):
            raise RuntimeError("shapes that do not fit")
