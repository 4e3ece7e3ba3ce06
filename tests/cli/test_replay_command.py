"""The picture is the recipe: what `info` shows of one, and `replay` drawing it again."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from orthus_core.data.pixels import open_image
from orthus_core.results.metadata import pixel_hash


@pytest.fixture
def model(tiny_folder) -> list[str]:
    return ["--model", str(tiny_folder), "--device", "cpu"]


@pytest.fixture
def start(tmp_path) -> Path:
    path = tmp_path / "start.png"
    Image.linear_gradient("L").convert("RGB").resize((64, 48)).save(path)
    return path


def draw(orthus, folder: Path, *words) -> Path:
    """One picture, named in a way that shells trip over."""
    out = folder / "it's a picture.png"
    done = orthus("generate", 'a fox\'s "hat" $HOME', "-o", out, "--seed", 7, *words)
    assert done.exit_code == 0, done.stderr
    return out


def test_info_shows_the_command_that_draws_the_same_again(orthus, model, tmp_path):
    out = draw(orthus, tmp_path, *model)
    told = json.loads(orthus("info", out, "--format", "json").stdout)
    assert told["as_drawn"] and told["record"]["seed"] == 7
    program, *words = shlex.split(told["command"])
    assert program == "orthus" and words[:2] == ["generate", 'a fox\'s "hat" $HOME']
    again = orthus(*words, "-o", tmp_path / "again.png")
    assert again.exit_code == 0, again.stderr
    assert pixel_hash(open_image(tmp_path / "again.png")) == pixel_hash(open_image(out))
    plain = orthus("info", out)
    assert told["command"] in plain.stdout and "as drawn" in plain.stdout


def test_a_prompt_that_begins_with_a_dash_survives(orthus, model, tmp_path):
    out = tmp_path / "out.png"
    orthus("generate", "--seed", 1, "-o", out, *model, "--", "--steps")
    command = orthus("info", out, "--format", "quiet").stdout
    assert command.strip().endswith("-- --steps")
    assert orthus("replay", out).stdout == "identical\n"


def test_a_picture_is_replayed_identically(orthus, model, tmp_path):
    out = draw(orthus, tmp_path, "--steps", 3, "--guidance", 1.5, *model)
    again = tmp_path / "again.png"
    done = orthus("replay", out, "-o", again)
    assert done.exit_code == 0 and done.stdout == "identical\n", done.stderr
    assert pixel_hash(open_image(again)) == pixel_hash(open_image(out))
    refused = orthus("replay", out, "-o", again)
    assert refused.exit_code == 1 and "--overwrite" in refused.stderr


def test_each_picture_of_a_run_and_each_sidecar_is_replayed_identically(orthus, model, tmp_path):
    words = ["generate", "a snowman", "a red fox", "-n", 2, "--seed", 5, "--metadata"]
    assert orthus(*words, "-o", tmp_path / "many", *model).exit_code == 0
    for name in ("a_snowman_5.png", "a_red_fox_6.png", "a_red_fox_5.json"):
        assert orthus("replay", tmp_path / "many" / name).stdout == "identical\n"


def test_a_picture_that_was_gone_on_from_is_replayed(orthus, model, tmp_path):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    orthus("generate", "a snowman", "--seed", 3, "-o", first, *model)
    orthus("generate", "--continue", first, "--keep-rows", 1, "--seed", 4, "-o", second, *model)
    assert orthus("replay", second).stdout == "identical\n"
    first.unlink()
    gone = orthus("replay", second)
    assert gone.exit_code == 1 and "first.png" in gone.stderr and "--image" in gone.stderr


def test_what_differs_is_told_with_exit_code_1(orthus, model, tmp_path):
    out = draw(orthus, tmp_path, *model)
    done = orthus("replay", out, "--dtype", "bf16", "--format", "json")
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and not told["identical"]
    assert {"what": "dtype", "then": "fp32", "now": "bf16"} in told["differences"]
    assert 0 < told["distance"]["values"] <= told["distance"]["total"]


def test_pixels_that_were_changed_are_told(orthus, model, tmp_path):
    out = draw(orthus, tmp_path, *model)
    with Image.open(out) as image:
        image.load()
        changed, chunk = image.copy(), image.info["orthus"]
    changed.putpixel((0, 0), (1, 2, 3))
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("orthus", chunk)
    changed.save(out, pnginfo=chunks)
    assert "changed since they were drawn" in orthus("info", out).stdout
    done = orthus("replay", out)
    assert done.exit_code == 0 and "was changed after it was drawn" in done.stdout


def test_an_edit_is_replayed_and_says_what_is_missing(orthus, model, start, tmp_path):
    out = tmp_path / "edited.png"
    assert orthus("edit", start, "a red fox", "-o", out, "--seed", 1, *model).exit_code == 0
    assert orthus("replay", out).stdout == "identical\n"
    moved = start.rename(tmp_path / "elsewhere.png")
    gone = orthus("replay", out)
    assert gone.exit_code == 1 and "missing" in gone.stderr
    assert orthus("replay", out, "--image", moved).stdout == "identical\n"


def test_each_of_several_edits_is_replayed(orthus, model, start, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (30, 30), (200, 10, 10)).save(other)
    words = ["edit", start, other, "a red fox", "--each", "-n", 2, "--seed", 1]
    assert orthus(*words, "-o", tmp_path / "{number}.png", *model).exit_code == 0
    for number in (1, 4):
        assert orthus("replay", tmp_path / f"{number}.png").stdout == "identical\n"


def test_an_edit_by_example_is_replayed(orthus, model, start, tmp_path):
    out = tmp_path / "edited.png"
    words = ["edit", start, "--example", start, start, "-o", out, "--seed", 1]
    done = orthus(*words, *model)
    assert done.exit_code == 0, done.stderr
    again = orthus("replay", out)
    assert again.stdout == "identical\n", again.stderr


def test_a_story_and_each_of_its_panels_is_replayed(orthus, model, start, tmp_path):
    folder = tmp_path / "story"
    words = ["story", "a snowman", "--image", start, "--panels", 2, "-o", folder, "--seed", 3]
    assert orthus(*words, "--max-new-tokens", 8, *model).exit_code == 0
    for path in (folder, folder / "story.json", folder / "03.png"):
        done = orthus("replay", path, "--image", start)
        assert done.stdout == "identical\n", done.stderr
    kept = orthus("replay", folder, "-o", tmp_path / "one.png")
    assert kept.exit_code == 1 and "many pictures" in kept.stderr


def test_a_story_that_was_told_on_from_another_is_replayed(orthus, model, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["story", "a snowman", "--panels", 2, "--max-new-tokens", 6, "--seed", 3]
    assert orthus(*words, "-o", first, *model).exit_code == 0
    told = orthus(
        "story", "--from-story", first, "--from-panel", 2, "--seed", 9, "-o", second, *model
    )
    assert told.exit_code == 0, told.stderr
    done = orthus("replay", second)
    assert done.stdout == "identical\n", done.stderr


def test_values_that_are_the_usual_ones_hold_in_a_replay_too(orthus, model, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["story", "a snowman", "--panels", 2, "--max-new-tokens", 6, "--seed", 3]
    assert orthus(*words, "-o", first, *model).exit_code == 0
    usual = ["--panels", 3, "--max-new-tokens", 64]  # as no story has them that names neither
    told = orthus("story", "--from-story", first, *usual, "--seed", 9, "-o", second, *model)
    assert told.exit_code == 0, told.stderr
    done = orthus("replay", second)
    assert done.stdout == "identical\n", done.stderr


@pytest.mark.parametrize("command", ["info", "replay"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", "[1]"),
        ("half.json", '{"recipe": {"command": "generate"}}'),
        ("wrong.json", '{"recipe": 1, "prompt": "", "seed": 1, "sampling": {}, "model": {}}'),
        ("deep.json", "[" * 100_000),
        ("no.json", "{"),
        ("text.png", "not a picture"),
    ],
)
def test_what_is_no_record_is_named(orthus, tmp_path, command, name, content):
    path = tmp_path / name
    path.write_text(content)
    done = orthus(command, path)
    assert done.exit_code == 1 and name in done.stderr, done.output


@pytest.mark.parametrize("digest", [None, 7])
def test_info_shows_a_record_whose_model_has_no_readable_hash(orthus, tmp_path, digest):
    recipe = {"command": "generate", "seeds": [1]}
    record = {"recipe": recipe, "prompt": "a cat", "seed": 1, "sampling": {}, "pixels": "0"}
    path = tmp_path / "made.json"
    path.write_text(json.dumps({**record, "model": {"name": "mine", "hash": digest}}))
    done = orthus("info", path)
    assert done.exit_code == 0 and "a cat" in done.stdout, done.output


def test_info_tells_of_other_pictures_what_they_say(orthus, tmp_path):
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", "a cat\nSteps: 20")
    Image.new("RGB", (5, 4)).save(tmp_path / "theirs.png", pnginfo=chunks)
    done = orthus("info", tmp_path / "theirs.png")
    assert done.exit_code == 0 and "5x4" in done.stdout and "a cat" in done.stdout
    refused = orthus("replay", tmp_path / "theirs.png")
    assert refused.exit_code == 1 and "does not say how it was made" in refused.stderr


def with_recipe(path: Path, sidecar: Path, **changes) -> Path:
    """The sidecar of a picture, saying something else about how it was made."""
    told = json.loads(sidecar.read_text())
    told["recipe"] |= changes
    told["sampling"] |= {key: changes[key] for key in changes if key in told["sampling"]}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(told))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "antigravity.Fly"}, "not ours: antigravity.Fly"),
        ({"model": "somebody/something"}, "not on this machine: somebody/something"),
    ],
)
def test_a_file_chooses_neither_code_to_import_nor_what_to_fetch(
    orthus, model, tmp_path, changes, message
):
    draw(orthus, tmp_path, "--metadata", *model)
    (sidecar,) = tmp_path.glob("*.json")
    path = with_recipe(tmp_path / "theirs" / "made.json", sidecar, **changes)
    for words in (["replay", path], ["generate", "-C", path, "-o", tmp_path / "new.png"]):
        done = orthus(*words)
        assert done.exit_code == 1 and message in done.stderr, done.output
    assert "antigravity" not in sys.modules and not (tmp_path / "new.png").exists()


def test_a_model_that_the_user_names_may_be_any(orthus, model, tmp_path):
    draw(orthus, tmp_path, "--metadata", *model)
    (sidecar,) = tmp_path.glob("*.json")
    path = with_recipe(tmp_path / "made.json", sidecar, model="somebody/something")
    done = orthus("replay", path, "-m", model[1])
    assert done.stdout == "identical\n", done.stderr


def answered(orthus, model, folder: Path, *words) -> Path:
    """Answers about two pictures in a file."""
    pictures = folder / "photos"
    pictures.mkdir()
    for shade in (0, 1):
        Image.new("RGB", (16, 16), (90 * shade, 200, 40)).save(pictures / f"{shade}.png")
    out = folder / "answers.jsonl"
    done = orthus("caption", pictures, "-o", out, "--max-new-tokens", 5, *words, *model)
    assert done.exit_code == 0, done.stderr
    return out


def test_answers_are_replayed_identically(orthus, model, tmp_path):
    out = answered(orthus, model, tmp_path, "--set", "text.temperature=1.0", "--seed", 4)
    pictures = tmp_path / "photos"
    assert orthus("caption", pictures, "-o", out, "--question", "a fox?", *model).exit_code == 0
    before = out.read_bytes()
    done = orthus("replay", out)
    assert done.exit_code == 0 and done.stdout == "identical\n", done.stderr
    assert out.read_bytes() == before
    told = json.loads(orthus("replay", out, "--format", "json").stdout)
    assert told["identical"] and told["answers"] == 4


def test_an_answer_that_differs_is_told_with_exit_code_1(orthus, model, tmp_path):
    out = answered(orthus, model, tmp_path)
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    second["text"] = "something else entirely"
    out.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    done = orthus("replay", out)
    assert done.exit_code == 1, done.output
    assert done.stdout.startswith("not identical\n1 of 2 answers differ")
    assert "then: something else entirely" in done.stdout


def test_answers_about_a_picture_that_is_gone_say_so(orthus, model, tmp_path):
    out = answered(orthus, model, tmp_path)
    moved = (tmp_path / "photos" / "1.png").rename(tmp_path / "elsewhere.png")
    gone = orthus("replay", out)
    assert gone.exit_code == 1 and "1.png" in gone.stderr and "--image" in gone.stderr
    assert orthus("replay", out, "--image", moved).stdout == "identical\n"


def test_answers_that_do_not_say_how_they_were_made_are_named(orthus, model, tmp_path):
    out = answered(orthus, model, tmp_path)
    entries = [json.loads(line) for line in out.read_text().splitlines()]
    bare = [{name: each[name] for name in each if name != "made"} for each in entries]
    out.write_text("".join(json.dumps(each) + "\n" for each in bare))
    done = orthus("replay", out)
    assert done.exit_code == 1 and "do not say how they were made" in done.stderr
    assert orthus("replay", out, "-o", tmp_path / "x.png").exit_code == 1


@pytest.mark.parametrize("content", ["", "{}\n", "[1]\n", "no\n", '{"image": 1}\n'])
def test_what_is_no_file_of_answers_is_named(orthus, tmp_path, content):
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    for command in ("info", "replay"):
        done = orthus(command, path)
        assert done.exit_code == 1 and "no file of answers" in done.stderr, done.output


def test_info_tells_how_answers_were_made(orthus, model, tmp_path):
    out = answered(orthus, model, tmp_path, "--question", "a fox?")
    done = orthus("info", out)
    assert done.exit_code == 0 and "a fox?" in done.stdout, done.stderr
    assert "orthus caption" in done.stdout


def test_a_picture_drawn_in_a_batch_that_differs_alone_is_drawn_with_its_run(
    orthus, model, tmp_path, monkeypatch
):
    from orthus_core.api.replay import Remake

    folder = tmp_path / "many"
    words = ["generate", "a snowman", "a red fox", "-n", 2, "--seed", 5, "-o", folder]
    assert orthus(*words, *model).exit_code == 0
    compared = Remake.equals
    alone: list[bool] = []

    def differs_alone(remake, record):
        same = compared(remake, record)
        alone.append(same)
        return same and len(alone) > 1  # as rounding may have it

    monkeypatch.setattr(Remake, "equals", differs_alone)
    done = orthus("replay", folder / "a_red_fox_6.png")
    assert done.exit_code == 0 and len(alone) == 2, done.stderr
    assert "all 4 of its run are drawn" in done.stderr
    assert done.stdout == "identical, drawn with the 3 others of its run\n"


def test_a_difference_of_rounding_is_called_that(orthus, model, tmp_path):
    out = draw(orthus, tmp_path, *model)
    with Image.open(out) as image:
        image.load()
        changed, chunk = image.copy(), json.loads(image.info["orthus"])
    red, *others = changed.getpixel((0, 0))
    changed.putpixel((0, 0), (red + 1 if red < 255 else red - 1, *others))
    chunk["pixels"] = pixel_hash(changed)
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("orthus", json.dumps(chunk))
    changed.save(out, pnginfo=chunks)
    done = orthus("replay", out)
    assert done.exit_code == 1, done.stderr
    assert "1 of 768 colour values differ, by at most 1 of 255" in done.stdout
    assert "a difference of 1 is rounding" in done.stdout
