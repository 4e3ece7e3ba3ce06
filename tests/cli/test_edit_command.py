"""`orthus edit` as a user runs it, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from orthus_core.results.metadata import pixel_hash, read_record

SEEDED = ["--seed", 1]


@pytest.fixture
def three(tmp_path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{name}.png" for name in ("a", "b", "c")]
    for shade, path in enumerate(paths):
        Image.new("RGB", (16, 16), (80 * shade, 200, 40)).save(path)
    return paths


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_edit_changes_a_picture(orthus, model, start, tmp_path):
    out = tmp_path / "edited.png"
    done = orthus("edit", start, "a red fox", "-o", out, *SEEDED, *model)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{out}: a red fox, seed 1\n"
    record = read_record(out)
    assert record is not None and record["recipe"]["command"] == "edit"
    assert record["files"] == [str(start)]
    with Image.open(start) as image:
        assert record["inputs"] == [pixel_hash(image)]


def test_words_before_the_picture_are_told_and_drawn_again(orthus, model, start, tmp_path):
    out = tmp_path / "edited.png"
    words = ["edit", start, "blue fox", "-o", out, "--max-text", 8, *SEEDED]
    done = orthus(*words, *model)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{out}: blue fox, seed 1; drawn as: ")
    assert read_record(out)["sampling"]["max_text"] == 8
    assert "identical" in orthus("replay", out).stdout
    told = json.loads(orthus(*words, "--overwrite", "--format", "json", *model).stdout)
    said = told["pictures"][0]["text"]
    assert said and read_record(out)["text"] == said
    assert "drawn as" in orthus("info", out).stdout
    assert told["sampling"]["max_text"] == 8
    assert all(each.isprintable() or each.isspace() for each in done.stdout)


def test_a_picture_of_another_size_is_brought_to_the_models_with_a_word(
    orthus, model, start, three, tmp_path
):
    done = orthus("edit", start, three[0], "a fox", "-o", tmp_path / "x.png", *SEEDED, *model)
    assert f"{start}: 64 x 48, its middle 48 x 48 is seen, at 16 x 16" in done.stderr
    assert str(three[0]) not in done.stderr, "it is 16 x 16 already"


def test_several_pictures_are_read_together(orthus, model, three, tmp_path):
    out = tmp_path / "x.png"
    words = ["edit", *three[:2], "a red fox", "-o", out, *SEEDED, "--format", "json"]
    told = json.loads(orthus(*words, *model).stdout)
    assert len(told["pictures"]) == 1
    assert told["pictures"][0]["images"] == [str(path) for path in three[:2]]
    assert len(read_record(out)["inputs"]) == 2


def test_each_picture_of_a_folder_has_its_own_result(orthus, model, three, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone.png"
    done = orthus("edit", three[0].parent, "a fox", "-o", together, *SEEDED, *model)
    assert done.exit_code == 0, done.stderr
    assert names(together) == ["a_a_fox_1.png", "b_a_fox_1.png", "c_a_fox_1.png"]
    orthus("edit", three[1], "a fox", "-o", alone, *SEEDED, *model)
    with Image.open(alone) as one, Image.open(together / "b_a_fox_1.png") as among:
        difference = max(abs(a - b) for a, b in zip(one.tobytes(), among.tobytes(), strict=True))
    assert difference <= 1  # rounding of a batch may move a value across a step of 255


def test_an_example_says_what_to_do_without_words(orthus, model, three, tmp_path):
    before, after, picture = three
    out, again = tmp_path / "x.png", tmp_path / "again.png"
    done = orthus("edit", picture, "--example", before, after, "-o", out, *SEEDED, *model)
    assert done.exit_code == 0, done.stderr
    record = read_record(out)
    assert record["recipe"]["by_example"] is True and record["prompt"] == ""
    assert record["files"] == [str(before), str(after), str(picture)]
    # As a record is drawn again: its files in order, and what its recipe says.
    orthus("edit", *record["files"], "--set", "by_example=true", "-o", again, *SEEDED, *model)
    assert read_record(again)["pixels"] == record["pixels"]


def test_the_example_matters(orthus, model, three, tmp_path):
    a, b, picture = three
    for name, example in (("x", (a, b)), ("y", (b, a))):
        out = tmp_path / f"{name}.png"
        assert (
            orthus("edit", picture, "--example", *example, "-o", out, *SEEDED, *model).exit_code
            == 0
        )
    assert read_record(tmp_path / "x.png")["pixels"] != read_record(tmp_path / "y.png")["pixels"]


def test_before_and_after_side_by_side(orthus, model, start, tmp_path):
    out = tmp_path / "x.png"
    words = ["edit", start, "a fox", "-o", out, "--compare", "--format", "json", *SEEDED]
    told = json.loads(orthus(*words, *model).stdout)
    side_by_side = tmp_path / "x_compare.png"
    assert told["pictures"][0]["compare"] == str(side_by_side)
    with Image.open(side_by_side) as both, Image.open(out) as after:
        assert both.height == 16 and both.width > 32
        assert both.crop((both.width - 16, 0, both.width, 16)).tobytes() == after.tobytes()


def test_no_comparison_is_written_over_another(orthus, model, start, tmp_path):
    (tmp_path / "x_compare.png").write_text("precious")
    done = orthus("edit", start, "a fox", "-o", tmp_path / "x.png", "--compare", *model)
    assert done.exit_code == 1 and "x_compare.png" in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_metadata_lies_beside_the_picture_or_nowhere(orthus, model, start, tmp_path):
    beside, bare = tmp_path / "x.png", tmp_path / "y.png"
    orthus("edit", start, "a fox", "-o", beside, "--metadata", *SEEDED, *model)
    assert json.loads((tmp_path / "x.json").read_text())["prompt"] == "a fox"
    orthus("edit", start, "a fox", "-o", bare, "--no-metadata", *SEEDED, *model)
    assert read_record(bare) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["edit", "a.png", "b.png"], "there is no instruction"),
        (["edit", "make it night"], "no picture"),
        (["edit", "missing.png", "a hat"], "no such picture"),
        (["edit", "a.png", " "], "the instruction is empty"),
        (["edit", "a.png", "--set", "by_example=true"], "there must be one more to change"),
        (["edit", "empty", "a hat"], "no picture in this folder"),
    ],
)
def test_a_mistake_is_one_message(orthus, model, three, monkeypatch, words, message):
    folder = three[0].parent
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    done = orthus(*words, *model)
    assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert names(folder) == ["a.png", "b.png", "c.png", "empty"]
