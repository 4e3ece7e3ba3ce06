"""`-C FILE`: what an earlier result was made by, done again; what is given wins."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from orthus_core.data.pixels import open_image
from orthus_core.results.metadata import pixel_hash, read_record

QUICK = ["--steps", 1, "--max-new-tokens", 6]


@pytest.fixture
def edited(orthus, model, start, tmp_path) -> Path:
    out = tmp_path / "edited.png"
    words = ["edit", start, "a red fox", "-o", out, "--seed", 3, "--steps", 2, "--metadata"]
    done = orthus(*words, "--image-guidance", 1.5, *model)
    assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture
def told(orthus, model, start, tmp_path) -> Path:
    folder = tmp_path / "told"
    words = ["story", "a snowman", "--image", start, "--panels", 2, "-o", folder, "--seed", 3]
    done = orthus(*words, *QUICK, *model)
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def answers(orthus, model, start, tmp_path) -> Path:
    out = tmp_path / "answers.jsonl"
    words = ["caption", start, "-o", out, "--question", "a fox?", "--seed", 3]
    done = orthus(*words, "--max-new-tokens", 4, *model)
    assert done.exit_code == 0, done.stderr
    return out


@pytest.mark.parametrize("source", ["edited.png", "edited.json"])
def test_an_edit_is_done_again_from_its_picture(orthus, edited, tmp_path, source):
    again = tmp_path / "again.png"
    done = orthus("edit", "-C", tmp_path / source, "-o", again)
    assert done.exit_code == 0, done.stderr
    assert pixel_hash(open_image(again)) == pixel_hash(open_image(edited))


def test_the_same_edit_of_another_picture(orthus, edited, tmp_path):
    other, out = tmp_path / "other.png", tmp_path / "out.png"
    Image.new("RGB", (16, 16), (200, 10, 10)).save(other)
    done = orthus("edit", other, "-C", edited, "-o", out)
    assert done.exit_code == 0, done.stderr
    record, first = read_record(out), read_record(edited)
    assert record is not None and first is not None
    assert record["prompt"] == "a red fox" and record["files"] == [str(other)]
    assert record["sampling"] == first["sampling"] and record["seed"] == 3


def test_another_edit_of_the_same_picture_with_options_that_win(orthus, edited, start, tmp_path):
    out = tmp_path / "out.png"
    words = ["edit", "a snowman", "-C", edited, "-o", out, "--seed", 4, "--set", "steps=3"]
    done = orthus(*words, "--image-guidance", 1)
    assert done.exit_code == 0, done.stderr
    record = read_record(out)
    assert record is not None
    assert record["prompt"] == "a snowman" and record["files"] == [str(start)]
    assert record["seed"] == 4
    assert record["sampling"]["steps"] == 3 and record["sampling"]["image_guidance"] == 1


def test_an_edit_by_example_lends_its_example(orthus, model, start, tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for shade, path in enumerate(paths):
        Image.new("RGB", (16, 16), (80 * shade, 200, 40)).save(path)
    before, after, other = paths
    first, out = tmp_path / "first.png", tmp_path / "out.png"
    words = ["edit", start, "--example", before, after, "-o", first, "--seed", 1, "--steps", 1]
    assert orthus(*words, *model).exit_code == 0
    done = orthus("edit", other, "-C", first, "-o", out)
    assert done.exit_code == 0, done.stderr
    record = read_record(out)
    assert record is not None
    assert record["files"] == [str(path) for path in (before, after, other)]


def test_a_picture_that_is_gone_is_named(orthus, edited, start, tmp_path):
    start.unlink()
    done = orthus("edit", "-C", edited, "-o", tmp_path / "out.png")
    assert done.exit_code == 1 and "start.png" in done.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("source", ["told", "told/story.json", "told/02.png"])
def test_a_story_is_told_again_from_its_folder_or_a_panel(orthus, told, tmp_path, source):
    folder = tmp_path / "again"
    done = orthus("story", "-C", tmp_path / source, "-o", folder)
    assert done.exit_code == 0, done.stderr
    stories = [json.loads((each / "story.json").read_text()) for each in (told, folder)]
    assert stories[0]["panels"] == stories[1]["panels"]


def test_a_story_of_other_words_takes_values_and_pictures_over(orthus, told, start, tmp_path):
    folder = tmp_path / "other"
    words = ["story", "a red fox", "-C", told, "-o", folder, "--panels", 1, "--seed", 8]
    done = orthus(*words)
    assert done.exit_code == 0, done.stderr
    story = json.loads((folder / "story.json").read_text())
    assert story["prompt"] == "a red fox" and story["seed"] == 8
    assert story["files"] == [str(start)] and len(story["panels"]) == 2
    assert story["recipe"]["steps"] == 1 and story["recipe"]["text"]["max_new_tokens"] == 6


def test_a_question_is_asked_of_other_pictures(orthus, answers, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (16, 16), (200, 10, 10)).save(other)
    done = orthus("caption", other, "-C", answers, "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["question"] == "a fox?"
    won = orthus("caption", other, "-C", answers, "--question", "what?", "--format", "json")
    assert json.loads(won.stdout)["question"] == "what?"


def test_what_another_command_made_is_refused(orthus, edited, start, tmp_path):
    for words in (["generate", "-C", edited], ["story", "-C", edited], ["caption", start]):
        words = words if "-C" in words else [*words, "-C", edited]
        done = orthus(*words, "-o", tmp_path / "out.png")
        assert done.exit_code == 1, done.output
        assert f"made by `orthus edit`, not by `orthus {words[0]}`" in done.stderr


def changed(path: Path, source: Path, **recipe) -> Path:
    """A record that says something else about how it was made."""
    record = json.loads(source.read_text())
    record["recipe"] |= recipe
    record["sampling"] |= {name: recipe[name] for name in recipe if name in record["sampling"]}
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(record))
    return path


BAD = [
    ({"scheduler": "antigravity.Fly"}, "not ours: antigravity.Fly"),
    ({"model": "somebody/something"}, "not on this machine: somebody/something"),
]


@pytest.mark.parametrize(("recipe", "message"), BAD)
def test_an_edit_that_came_along_chooses_neither_code_nor_model(
    orthus, edited, tmp_path, recipe, message
):
    path = changed(tmp_path / "theirs.json", edited.with_suffix(".json"), **recipe)
    done = orthus("edit", "-C", path, "-o", tmp_path / "out.png")
    assert done.exit_code == 1 and message in done.stderr, done.output
    assert "antigravity" not in sys.modules and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(("recipe", "message"), BAD)
@pytest.mark.parametrize("option", ["-C", "--from-story"])
def test_a_story_that_came_along_chooses_neither_code_nor_model(
    orthus, told, tmp_path, recipe, message, option
):
    changed(told / "story.json", told / "story.json", **recipe)
    done = orthus("story", option, told, "-o", tmp_path / "out", "--seed", 1)
    assert done.exit_code == 1 and message in done.stderr, done.output
    assert "antigravity" not in sys.modules and not (tmp_path / "out").exists()


def test_a_story_that_came_along_is_told_on_by_a_model_that_the_user_names(
    orthus, told, tmp_path, tiny_folder
):
    changed(told / "story.json", told / "story.json", model="somebody/something")
    words = ["story", "--from-story", told, "-m", tiny_folder, "--device", "cpu", "--seed", 1]
    done = orthus(*words, "--panels", 3, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr


def test_answers_that_came_along_choose_no_model(orthus, answers, start, tmp_path):
    entry = json.loads(answers.read_text())
    entry["made"]["name"] = "somebody/something"
    answers.write_text(json.dumps(entry) + "\n")
    for words in (["caption", start, "-C", answers], ["replay", answers]):
        done = orthus(*words)
        assert done.exit_code == 1 and "not on this machine" in done.stderr, done.output
