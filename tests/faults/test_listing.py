"""One walk over folders: what is data, what is passed over, and that it is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image, features
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.data.formats.sniff import read
from orthus_core.data.listing import FolderListing, picture_files
from orthus_core.data.pictures import FilePicture
from orthus_core.errors import DataError


def draw(path: Path, words: str | None = None, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, **how)
    if words is not None:
        path.with_suffix(".txt").write_text(words)
    return path


def orthus(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")


def check(path: Path) -> dict:
    """What `orthus data check` says as JSON; what it passes over as {kind: names}."""
    done = orthus("data", "check", path, "--format", "json")
    told = json.loads(done.stdout)
    assert done.exit_code == bool(told["bad"])
    told["passed_over"] = {each["kind"]: each["names"] for each in told["passed_over"]}
    return told


def ids(folder: Path) -> list[str]:
    return [document.id for document in read(folder).documents]


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in FolderListing(folder).pictures]


@pytest.fixture
def caption(tiny_folder: Path):
    def run(*words: object):
        model = ("--model", tiny_folder, "--device", "cpu", "--seed", 1, "--max-new-tokens", 2)
        return orthus("caption", *words, *model)

    return run


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """A hub's cache: the files of its snapshot are links to blobs without a suffix."""
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    draw(tmp_path / "hub" / "blobs" / "a1", format="PNG")
    snapshot = tmp_path / "hub" / "snapshots" / "4f1c"
    snapshot.mkdir(parents=True)
    (snapshot / "cup.png").symlink_to("../../blobs/a1")
    return snapshot


def add_blob(snapshot: Path, name: str, text: str) -> None:
    (snapshot.parents[1] / "blobs" / "b2").write_text(text)
    (snapshot / name).symlink_to("../../blobs/b2")


SEGMENTS = [
    {"type": "text", "role": "user", "value": "a red cup"},
    {"type": "image", "role": "model", "path": "cup.png"},
]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("metadata.jsonl", {"file_name": "cup.png", "text": "a red cup"}),
        ("records.jsonl", {"segments": SEGMENTS}),
        ("cup.txt", None),
    ],
)
def test_files_of_a_hub_snapshot_are_links_out_of_it_and_are_read(blobs: Path, name, row):
    add_blob(blobs, name, json.dumps(row) if row else "a red cup")
    told = check(blobs)
    assert (told["usable"], told["bad"], told["passed_over"]) == (1, 0, {})


def test_a_whole_cache_lists_each_blob_by_the_names_of_its_links(blobs: Path):
    cache = blobs.parents[1]
    assert names(cache) == ["snapshots/4f1c/cup.png"]


@pytest.mark.parametrize(
    "name", ["../cup.png", "deeper/../../cup.png", "{}/cup.png", "/etc/passwd"]
)
def test_written_names_that_climb_out_stay_refused(tmp_path: Path, name: str):
    outside = draw(tmp_path / "cup.png")
    folder = tmp_path / "set"
    (folder / "deeper").mkdir(parents=True)
    row = {"file_name": name.format(outside.parent), "text": "a cup"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    reading = read(folder)
    assert not reading.documents and "leads out of" in reading.faults[0].problem


def test_names_with_dots_that_stay_inside_are_read(tmp_path: Path):
    draw(tmp_path / "set" / "cup.png")
    rows = [{"file_name": name, "text": "x"} for name in ("a/../cup.png", "./cup.png")]
    rows.append({"file_name": str(tmp_path / "set" / "cup.png"), "text": "x"})
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "link").symlink_to("set")
    assert ids(tmp_path / "set") == ids(tmp_path / "link") == ["cup.png"] * 3


def test_hidden_files_are_no_data_and_are_told(tmp_path: Path, caption):
    folder = tmp_path / ".cache" / "set"  # the named folder may lie in a hidden one
    draw(folder / "cup.png", "a red cup")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "._cup.png").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    draw(folder / "__MACOSX" / "deep" / "._cup.png", format="PNG")
    draw(folder / ".ipynb_checkpoints" / "cup-checkpoint.png")
    draw(folder / "deeper" / ".thumbnails" / "cup.png")
    told = check(folder)
    assert (told["usable"], told["bad"]) == (1, 0)
    assert told["passed_over"] == {"hidden": ["._cup.png", ".ipynb_checkpoints", "__MACOSX"]}
    done = caption(folder)
    assert (
        done.stdout.count("\n") == 1 and f"{folder}: 4 files passed over: 4 hidden" in done.stderr
    )


def test_a_training_tells_what_it_passes_over(tmp_path: Path, tiny_folder: Path):
    draw(tmp_path / "set" / "cup.png", "a cup")
    (tmp_path / "set" / "cup.heic").write_bytes(b"\0\0\0\x18ftypheic")
    settings = ("optim.steps=1", "optim.batch_size=1", "data.held_out=0", "log.sample_every=0")
    settings += (f"data.source={tmp_path / 'set'}",)
    words = ("posttrain", "--init-from", tiny_folder, "-o", tmp_path / "out")
    done = orthus(*words, *(f"--set={each}" for each in settings))
    assert done.exit_code == 0, done.stderr
    assert "1 file passed over: 1 .heic (cup.heic)" in done.stderr


def test_links_to_folders_are_followed_and_a_circle_is_visited_once(tmp_path: Path):
    draw(tmp_path / "elsewhere" / "b.png", "b")
    draw(tmp_path / "set" / "deep" / "a.png", "a")
    links = {
        "set/aa": "deep",  # before the folder itself, which keeps its name
        "set/elsewhere": "../elsewhere",
        "set/again": "../elsewhere",
        "set/deep/round": "..",
        "set/up": "../..",
        "elsewhere/back": "../set",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "set" / "self.png").symlink_to("self.png")
    (tmp_path / "set" / "gone.png").symlink_to("nowhere.png")
    told = check(tmp_path / "set")
    assert ids(tmp_path / "set") == ["again/b.png", "deep/a.png"]
    assert told["passed_over"] == {
        "behind broken links": ["gone.png", "self.png"],
        "linking to a folder above": ["up"],
    }


def test_two_links_into_one_tree_list_each_file_once(tmp_path: Path):
    draw(tmp_path / "tree" / "inner" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to("../tree/inner")
    (tmp_path / "set" / "b").symlink_to("../tree")
    assert names(tmp_path / "set") == ["a/a.png"]


KINDS = {
    "a.webp": "WEBP",
    "b.tiff": "TIFF",
    "c.JFIF": "JPEG",
    "d.jpg": "PNG",
    "e": "PNG",
    "v1.5": "GIF",
    "f.tga": "TGA",
    "g.ico": "ICO",
    "h.dat": "BMP",
    "i.PNG": "PNG",
}


def test_a_picture_is_one_by_its_content(tmp_path: Path):
    for name, kind in KINDS.items():
        draw(tmp_path / name, format=kind)
        (tmp_path / name).with_suffix(".txt").write_text(name)
    if features.check("avif"):
        draw(tmp_path / "j.avif", "j.avif")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "k.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "k.TXT").write_text("the first frame")
    told = check(tmp_path)
    expected = len(KINDS) + bool(features.check("avif")) + 1
    assert (told["usable"], told["bad"], told["passed_over"]) == (expected, 0, {})
    (moving,) = (each for each in read(tmp_path).documents if each.id == "k.gif")
    picture = moving.model[0].value
    assert isinstance(picture, FilePicture) and picture.load(8)[0, 0, 0] > 200  # red, not blue


def test_a_text_that_is_called_a_picture_is_a_fault_and_a_heic_is_told(tmp_path: Path):
    draw(tmp_path / "cup.png", "a cup")
    (tmp_path / "text.png").write_text("root:x:0:0")
    (tmp_path / "text.txt").write_text("a text")
    for name in ("a.heic", "b.heic", "c.svg", "README", "raw.dng"):
        (tmp_path / name).write_bytes(b"II*\0 no picture")
    (tmp_path / "notes.txt").write_text("no caption")
    os.mkfifo(tmp_path / "pipe.png")
    told = check(tmp_path)
    assert (told["usable"], told["bad"]) == (1, 1)
    assert told["first_bad"][0]["problem"] == "this is no picture"
    assert told["passed_over"] == {
        ".heic": ["a.heic", "b.heic"],
        ".dng": ["raw.dng"],
        ".svg": ["c.svg"],
        "neither file nor folder": ["pipe.png"],
        "without a picture": ["notes.txt"],
        "without a suffix": ["README"],
    }


def test_a_link_to_a_secret_is_no_picture_and_is_not_repeated(tmp_path: Path):
    (tmp_path / "secret").write_text("root:hunter2")
    for name in ("a.png", "records.jsonl"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).symlink_to("../secret")
    done = orthus("data", "check", tmp_path / "set")
    assert done.exit_code == 1 and "hunter2" not in done.stdout + done.stderr


def test_pictures_that_no_line_names_are_told(tmp_path: Path):
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path / name)
    row = {"file_name": "a.png", "text": "a"}
    lost = {"file_name": "gone.png", "text": "a"}
    (tmp_path / "metadata.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(lost)}\n")
    told = check(tmp_path)
    assert (told["usable"], told["bad"]) == (1, 1)
    assert told["passed_over"] == {"not in metadata.jsonl": ["b.png", "c.png"]}


@pytest.mark.parametrize("name", ["a.heic", ".hidden.png", "a.txt", ""])
def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path, caption, name: str):
    if name:
        (tmp_path / name).write_text("nothing")
    done = caption(tmp_path)
    told = {".hidden.png": "1 hidden (.hidden.png)", "a.txt": "1 .txt", "": "which is empty"}
    assert done.exit_code == 1 and told.get(name, "1 .heic (a.heic)") in done.stderr
    with pytest.raises(DataError, match="no pictures with words"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path):
    draw(tmp_path / "a.png", "a")
    (tmp_path / "closed").mkdir(mode=0)
    assert check(tmp_path)["passed_over"] == {"in folders that may not be read": ["closed"]}


def test_edit_of_a_folder_reads_what_caption_reads(tmp_path: Path, tiny_folder: Path):
    draw(tmp_path / "in" / "cup", format="PNG")
    draw(tmp_path / "in" / ".cup.png")
    words = (
        "edit",
        tmp_path / "in",
        "add a hat",
        "-o",
        tmp_path / "out",
        "--steps",
        1,
        "--seed",
        1,
    )
    done = orthus(*words, "--model", tiny_folder, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "1 hidden (.cup.png)" in done.stderr
    assert len(picture_files([tmp_path / "out"])) == 1


def test_caption_tells_programs_what_it_passed_over(tmp_path: Path, tiny_folder: Path):
    draw(tmp_path / "in" / "cup.png")
    draw(tmp_path / "in" / ".cup.png")
    (tmp_path / "in" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    words = ("--format", "json", "caption", tmp_path / "in", "--max-new-tokens", 1)
    done = orthus(*words, "--model", tiny_folder, "--device", "cpu")
    (line,) = json.loads(done.stdout)["passed_over"]
    assert "2 files passed over" in line and "1 hidden (.cup.png)" in line
    assert "1 .heic (photo.heic)" in line and line in done.stderr


def test_edit_leaves_a_broken_picture_of_a_folder_out_as_caption_does(
    tmp_path: Path, tiny_folder: Path, caption
):
    draw(tmp_path / "in" / "cup.png")
    whole = (tmp_path / "in" / "cup.png").read_bytes()
    broken = tmp_path / "in" / "broken.png"
    broken.write_bytes(whole[: len(whole) // 2])
    words = ("edit", tmp_path / "in", "add a hat", "-o", tmp_path / "out", "--steps", 1)
    done = orthus(*words, "--seed", 1, "--model", tiny_folder, "--device", "cpu")
    assert done.exit_code == 0 and f"{broken} is left out" in done.stderr, done.stderr
    assert len(picture_files([tmp_path / "out"])) == 1
    assert str(broken) in caption(tmp_path / "in").stderr
    named = orthus("edit", broken, "add a hat", "--model", tiny_folder)
    assert named.exit_code == 1 and str(broken) in named.stderr


def test_metadata_may_be_named_in_place_of_its_folder(tmp_path: Path):
    draw(tmp_path / "cup.png")
    metadata = tmp_path / "metadata.jsonl"
    metadata.write_text(json.dumps({"file_name": "cup.png", "text": "a cup"}))
    assert check(metadata)["usable"] == check(tmp_path)["usable"] == 1
    metadata.write_text(json.dumps({"segments": SEGMENTS}))  # records of that name stay records
    assert check(metadata)["usable"] == 1
    metadata.write_text("")
    assert "holds no line" in orthus("data", "check", tmp_path).stderr


def test_samples_of_a_training_whose_output_lies_in_the_data_are_no_data(tmp_path):
    draw(tmp_path / "a.png", "a fox")
    for part in ("out.training", "base.training/transformer"):
        work = tmp_path / part
        draw(work / "samples" / "step-000001.png")
        (work / "run.json").write_text("{}")
        (work / "metrics.jsonl").write_text("")
    draw(tmp_path / "set.training" / "b.png", "a cat")
    told = check(tmp_path)
    assert (told["usable"], told["bad"]) == (2, 0)
    skipped = ["base.training/transformer", "out.training"]
    assert told["passed_over"] == {"in the folders of trainings": skipped}
    assert names(tmp_path / "out.training") == ["samples/step-000001.png"], "when it is named"
