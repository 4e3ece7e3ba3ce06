"""`orthus story` as a user runs it, on a tiny random model that would rather do anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from orthus_core.results.metadata import pixel_hash, read_record

QUICK = ["--steps", 1, "--max-new-tokens", 6]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def story_of(folder: Path) -> dict:
    return json.loads((folder / "story.json").read_text())


def drawn(folder: Path) -> list[dict]:
    return [panel for panel in story_of(folder)["panels"] if not panel["given"]]


def test_a_story_goes_on_from_a_picture_and_words(orthus, model, start, tmp_path):
    folder = tmp_path / "told"
    words = ["story", "a snowman", "--image", start, "--panels", 2, "-o", folder, "--seed", 3]
    done = orthus(*words, "--max-new-tokens", 12, *model)
    assert done.exit_code == 0, done.stderr
    told = ["01.png", "02.png", "03.png", "story.html", "story.json", "story.md"]
    assert names(folder) == told
    given, *panels = story_of(folder)["panels"]
    assert given["given"] and given["text"] == "a snowman"
    assert len(panels) == 2 and all(panel["text"] and panel["image"] for panel in panels)
    for panel in panels:
        assert not panel["forced"] or "was begun for the model" in done.stderr
    assert done.stdout == f"{folder / 'story.html'}: 3 pictures, seed 3\n"


def test_a_story_begins_with_words_alone(orthus, model, tmp_path):
    folder = tmp_path / "told"
    words = ["story", "a red fox", "--panels", 1, "-o", folder, *QUICK]
    told = json.loads(orthus(*words, "--format", "json", *model).stdout)
    assert told["folder"] == str(folder) and "image" not in told["panels"][0]
    assert told["panels"][1]["image"] == "01.png"


def test_a_story_begins_with_a_picture_alone(orthus, model, start, tmp_path):
    folder = tmp_path / "told"
    done = orthus("story", "--image", start, "--panels", 1, "-o", folder, *QUICK, *model)
    assert done.exit_code == 0, done.stderr
    assert (folder / "story.md").read_text().startswith("# A story\n")


def test_a_long_story_goes_on_from_its_opening_and_its_latest_panels(orthus, model, tmp_path):
    folder = tmp_path / "told"
    words = ["story", "a red fox", "--panels", 40, "-o", folder, *QUICK]
    done = orthus(*words, *model)
    assert done.exit_code == 0, done.stderr
    panels = drawn(folder)
    assert len(panels) == 40 and all(panel["text"] and "image" in panel for panel in panels)
    assert done.stderr.count("the context is full: from panel") == 1
    assert panels[-1]["kept"] < 39


def test_the_pictures_say_how_they_were_made(orthus, model, start, tmp_path):
    folder = tmp_path / "told"
    orthus("story", "a fox", "--image", start, "--panels", 2, "-o", folder, *QUICK, *model)
    assert read_record(folder / "01.png") is None, "the user's own picture"
    record = read_record(folder / "03.png")
    assert record is not None
    assert record["panel"] == 3 and record["prompt"] == "a fox"
    assert record["recipe"]["command"] == "story" and record["recipe"]["panels"] == 2
    assert record["files"] == [str(start)]
    with Image.open(start) as image:
        assert record["inputs"] == [pixel_hash(image)]


def test_a_story_is_told_anew_from_a_panel(orthus, model, start, tmp_path):
    first, other = tmp_path / "first", tmp_path / "other"
    words = ["story", "a fox", "--image", start, "--panels", 3, "--seed", 1, *QUICK]
    orthus(*words, "-o", first, *model)
    again = ["story", "--from-story", first, "--from-panel", 3, "--seed", 2, "-o", other]
    done = orthus(*again, *model)
    assert done.exit_code == 0, done.stderr
    assert names(other) == names(first)
    before, after = story_of(first), story_of(other)
    pixels = [[panel["pixels"] for panel in each["panels"]] for each in (before, after)]
    assert pixels[0][:2] == pixels[1][:2] and pixels[0][2:] != pixels[1][2:]
    assert (first / "02.png").read_bytes() == (other / "02.png").read_bytes()
    kept = read_record(other / "02.png"), read_record(other / "03.png")
    assert kept[0]["seed"] == 1 and kept[1]["seed"] == 2
    assert kept[1]["recipe"]["from_panel"] == 3, "what is told on from is in the recipe"
    assert after["recipe"]["steps"] == 1 and after["prompt"] == "a fox"


def test_a_story_told_anew_can_be_told_anew(orthus, model, tmp_path):
    folder = tmp_path / "told"
    orthus("story", "a fox", "--panels", 2, "--seed", 1, "-o", folder, *QUICK, *model)
    words = ["story", "--from-story", folder, "--panels", 4, "--overwrite", "-o", folder]
    done = orthus(*words, "--seed", 2, *model)
    assert done.exit_code == 0, done.stderr
    assert [panel["given"] for panel in story_of(folder)["panels"]] == [1, 1, 1, 0, 0]
    done = orthus(*words, "--from-panel", 3, "--seed", 3, *model)
    assert done.exit_code == 0, done.stderr
    seeds = [read_record(folder / f"0{n}.png")["seed"] for n in (1, 2, 3, 4)]
    assert seeds == [1, 1, 3, 3]


def test_keys_that_are_set_come_before_those_of_the_earlier_story(orthus, model, tmp_path):
    folder = tmp_path / "told"
    orthus("story", "a fox", "--panels", 1, "-o", folder, *QUICK, *model)
    words = ["story", "--from-story", folder, "-o", tmp_path / "more", *model]
    done = orthus(*words, "--set", "panels=5", "--set", "text.max_new_tokens=3")
    assert done.exit_code == 0, done.stderr
    assert len(drawn(tmp_path / "more")) == 4 and len(story_of(tmp_path / "more")["panels"]) == 6
    asked = story_of(tmp_path / "more")["recipe"]
    assert (asked["panels"], asked["text"]["max_new_tokens"], asked["steps"]) == (5, 3, 1)


def test_the_same_seed_tells_the_same_on(orthus, model, tmp_path):
    first = tmp_path / "first"
    orthus("story", "a fox", "--panels", 2, "--seed", 1, "-o", first, *QUICK, *model)
    for name in "ab":
        words = ["story", "--from-story", first, "--from-panel", 2, "--seed", 5]
        assert orthus(*words, "-o", tmp_path / name, *model).exit_code == 0
    assert drawn(tmp_path / "a") == drawn(tmp_path / "b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["story", "--from-panel", "3"], "no story that has it"),
        (["story", "--from-story", "told", "--from-panel", "9"], "there is no panel 9"),
        (["story", "--from-story", "told", "another fox"], "keeps its own words"),
        (["story", "--from-story", "told"], "have all of 2 pictures already"),
        (["story", "--from-story", "."], "there is no story.json"),
        (["story", "a fox " * 300], "the opening is"),
        (["story", "a fox", "-o", "told"], "not empty"),
    ],
)
def test_a_mistake_is_one_message(orthus, model, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    orthus("story", "a fox", "--panels", 2, "-o", "told", *QUICK, *model)
    before = names(tmp_path)
    done = orthus(*words, *model)
    assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert names(tmp_path) == before


def test_a_story_whose_picture_was_changed_is_not_told_on(orthus, model, tmp_path):
    folder = tmp_path / "told"
    orthus("story", "a fox", "--panels", 2, "-o", folder, *QUICK, *model)
    shutil.copy(folder / "02.png", folder / "01.png")
    done = orthus("story", "--from-story", folder, "--from-panel", 2, "-o", tmp_path / "b", *model)
    assert done.exit_code == 1 and "not the picture that the story was told with" in done.stderr


def test_ctrl_c_leaves_the_panels_that_are_finished(orthus, model, tmp_path, monkeypatch):
    from orthus_core.api import stories

    whole = stories.tell

    def interrupted(*args, **kwargs):
        for event in whole(*args, **kwargs):
            yield event
            if isinstance(event, stories.PanelDone):
                raise KeyboardInterrupt

    monkeypatch.setattr(stories, "tell", interrupted)
    folder = tmp_path / "told"
    done = orthus("story", "a fox", "--panels", 3, "-o", folder, *QUICK, *model)
    assert done.exit_code == 130
    assert "01.png" in names(folder) and "02.png" not in names(folder)


def test_free_writing_draws_at_least_once_and_ends_by_itself(orthus, model, tmp_path):
    folder = tmp_path / "told"
    words = ["story", "a story about a red fox", "--free", "--panels", 5, "-o", folder, *QUICK]
    done = orthus(*words, *model)
    assert done.exit_code == 0, done.stderr
    panels = drawn(folder)
    assert "image" in panels[0] and 1 <= sum("image" in panel for panel in panels) <= 5
    assert all("image" in panel for panel in panels[:-1])
