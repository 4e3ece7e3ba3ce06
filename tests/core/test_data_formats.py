"""Data sets on disk, good and bad, through the readers and through `orthus data check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from orthus_cli.commands.data import app
from orthus_core.data.document import to_record, turn
from orthus_core.data.formats.sniff import read
from orthus_core.data.pictures import FilePicture
from orthus_core.errors import DataError
from orthus_core.world.picture_kinds import register_picture_kinds
from orthus_core.world.records import record
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprites import SpritePack
from orthus_core.world.world import World


def draw(path: Path, words: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
    if words is not None:
        path.with_suffix(".txt").write_text(words)
    return path


def lines(path: Path, *values: object) -> Path:
    path.write_text("".join(v if isinstance(v, str) else json.dumps(v) + "\n" for v in values))
    return path


def test_pairs_of_picture_and_words_become_documents(tmp_path: Path):
    draw(tmp_path / "b.png", "a cat\n")
    draw(tmp_path / "deeper" / "a.JPG", "a dog")
    reading = read(tmp_path)
    assert [document.id for document in reading.documents] == ["b.png", "deeper/a.JPG"]
    expected = turn("user", "a cat") + turn("model", FilePicture(tmp_path / "b.png"))
    assert reading.documents[0].segments == expected
    assert reading.fault_count == 0


def test_metadata_names_pictures_and_words(tmp_path: Path):
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path / name)
    lines(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.png", "text": "a cat"},
        "\n",
        {"file_name": "b.png", "caption": "a dog"},
        {"file_name": "c.png", "prompt": "a fox"},
    )
    reading = read(tmp_path)
    words = [document.user[0].value for document in reading.documents]
    assert (words, reading.fault_count) == (["a cat", "a dog", "a fox"], 0)


def test_bad_lines_are_left_out_with_their_numbers(tmp_path: Path):
    draw(tmp_path / "a.png")
    path = lines(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.png", "text": "a cat"},
        "{not json\n",
        [1, 2],
        {"text": "no file"},
        {"file_name": "none.png", "text": "x"},
        {"file_name": "../../etc/passwd", "text": "x"},
        {"file_name": "a.png"},
    )
    reading = read(tmp_path)
    assert len(reading.documents) == 1 and reading.fault_count == 6
    assert [fault.line for fault in reading.faults] == [2, 3, 4, 5, 6, 7]
    assert str(reading.faults[2]) == f"{path}:4: the line has no 'file_name'"


def test_strict_stops_at_the_first_bad_line(tmp_path: Path):
    path = lines(tmp_path / "metadata.jsonl", {"text": "no file"}, "{not json\n")
    with pytest.raises(DataError, match="has no 'file_name'") as caught:
        read(tmp_path, strict=True)
    assert caught.value.where == f"{path}:1"


def test_a_picture_without_words_and_words_that_are_no_text_are_left_out(tmp_path: Path):
    draw(tmp_path / "alone.png")
    draw(tmp_path / "empty.png", "  ")
    draw(tmp_path / "latin.png").with_suffix(".txt").write_bytes(b"\xff\xfe\xff")
    reading = read(tmp_path)
    problems = {fault.file.stem: fault.problem for fault in reading.faults}
    assert "no alone.txt" in problems["alone"]
    assert "no words" in problems["empty"]
    assert "cannot read the words" in problems["latin"]


def test_ten_faults_are_shown_and_all_are_counted(tmp_path: Path):
    lines(tmp_path / "metadata.jsonl", *["x\n"] * 25)
    reading = read(tmp_path)
    assert (len(reading.faults), reading.fault_count) == (10, 25)


def test_our_own_records_are_read_from_a_file(tmp_path: Path):
    pack = SpritePack.open()
    world = World(pack)
    documents = [record(world, {"edit": 1.0, "story": 1.0}, 0, number) for number in range(5)]
    path = lines(tmp_path / "r.jsonl", *(to_record(d) for d in documents), {"segments": []})
    register_picture_kinds({"3d": pack})
    reading = read(path)
    assert reading.documents == documents
    assert [fault.line for fault in reading.faults] == [6]


@pytest.mark.parametrize(
    ("name", "complaint", "hint"),
    [
        ("none", "no such file", ".jsonl"),
        ("a.odt", "no known data", ".jsonl"),
        ("a.csv", "no row can be made of these columns: a, b", "columns = {image"),
    ],
)
def test_what_is_no_data_set_says_what_would_be(tmp_path: Path, name: str, complaint, hint):
    for given in ("a.odt", "a.csv"):
        (tmp_path / given).write_text("a,b")
    with pytest.raises(DataError, match=complaint) as caught:
        read(tmp_path / name)
    assert hint in caught.value.hint


def test_an_empty_folder_says_what_belongs_in_it(tmp_path: Path):
    with pytest.raises(DataError, match="no pictures with words") as caught:
        read(tmp_path)
    assert "metadata.jsonl" in caught.value.hint


def test_checking_loads_every_picture(tmp_path: Path):
    draw(tmp_path / "a.png", "a cat")
    bad = draw(tmp_path / "b.png", "a dog")
    bad.write_bytes(bad.read_bytes()[:40])
    reading = read(tmp_path)
    events = list(reading.check_pictures())
    assert events[-1].done == events[-1].total == 2
    assert [document.id for document in reading.documents] == ["a.png"]
    assert reading.faults[0].file == bad


def test_the_command_counts_and_fails_on_bad_records(tmp_path: Path):
    draw(tmp_path / "a.png", "a cat")
    good = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert good.exit_code == 0 and "1 usable, 0 bad" in good.stdout
    draw(tmp_path / "b.png")
    bad = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert bad.exit_code == 1 and "1 usable, 1 bad" in bad.stdout
    assert "no b.txt beside it" in bad.stderr
    strict = CliRunner().invoke(app, ["check", str(tmp_path), "--strict"])
    assert isinstance(strict.exception, DataError)


def test_records_may_name_sprites_of_the_bundled_pack(tmp_path: Path):
    picture = SpriteImage(SpritePack.open(), "2603")
    (document,) = [record(World(picture.pack), {"caption": 1.0}, 0, 0)]
    path = lines(tmp_path / "r.jsonl", to_record(document))
    checked = CliRunner().invoke(app, ["check", str(path)])
    assert checked.exit_code == 0 and "1 usable" in checked.stdout
