"""A model's word list on the command line: `orthus info --words`, and emoji in every command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orthus_core.results.metadata import pixel_hash, read_record


@pytest.fixture(scope="module")
def listing_folder(tiny_folder, word_files, tmp_path_factory) -> Path:
    """A tiny model that lists what it draws."""
    folder = tmp_path_factory.mktemp("models") / "listing"
    shutil.copytree(tiny_folder, folder)
    for name, text in word_files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def listing(listing_folder) -> list[str]:
    return ["--model", str(listing_folder), "--device", "cpu"]


def pixels(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        return pixel_hash(image)


@pytest.mark.parametrize("command", ["generate", "edit"])
def test_emoji_draw_what_their_names_draw_and_are_stored_as_typed(
    orthus, listing, start, tmp_path, command
):
    before = [start] if command == "edit" else []
    drawn = []
    for number, text in enumerate(("a 🐶 on a 🏖️", "a dog on a beach", "a fox")):
        out = tmp_path / f"{number}.png"
        done = orthus(command, *before, text, "-o", out, "--seed", 3, *listing)
        assert done.exit_code == 0, done.stderr
        assert ('read as "a dog on a beach"' in done.stderr) == (number == 0)
        record = read_record(out)
        assert record is not None and record["prompt"] == text
        drawn.append(pixels(out))
    assert drawn[0] == drawn[1] != drawn[2]


def test_emoji_are_read_in_a_story_and_in_a_question(orthus, listing, start, tmp_path):
    told, answers = [], []
    for number, (opening, question) in enumerate(
        [("a 🐶", "is it a 🦊?"), ("a dog", "is it a fox?")]
    ):
        folder, lines = tmp_path / f"story{number}", tmp_path / f"{number}.jsonl"
        quick = ("--panels", 1, "--steps", 1, "--max-new-tokens", 3)
        done = orthus("story", opening, "-o", folder, "--seed", 3, *quick, *listing)
        assert done.exit_code == 0, done.stderr
        assert ('read as "a dog"' in done.stderr) == (number == 0)
        record = json.loads((folder / "story.json").read_text(encoding="utf-8"))
        assert opening in json.dumps(record, ensure_ascii=False)
        told.append(sorted(pixels(path) for path in folder.glob("*.png")))
        done = orthus("caption", start, "--question", question, "-o", lines, *listing)
        assert done.exit_code == 0, done.stderr
        assert ('read as "is it a fox?"' in done.stderr) == (number == 0)
        answers.append(json.loads(lines.read_text(encoding="utf-8").splitlines()[-1])["text"])
    assert told[0] == told[1] and answers[0] == answers[1]


@pytest.mark.parametrize(
    ("prompt", "said", "hinted"),
    [
        ("a house on a lawn", 'did you mean "meadow"?', False),
        ("five dogs", "", True),
        ("a zeppelin and a 🫩", '"🫩" is not among the words', True),
        ("two dogs", "", False),
    ],
)
def test_a_prompt_beyond_the_model_gets_one_plain_hint(
    orthus, listing, listing_folder, tmp_path, prompt, said, hinted
):
    done = orthus("generate", prompt, "-o", tmp_path / "out.png", "--steps", 1, *listing)
    assert done.exit_code == 0 and said in done.stderr
    hint = f"this small model draws only what `orthus info {listing_folder} --words` lists"
    assert done.stderr.replace("\n", "").count(hint.replace("\n", "")) == hinted, done.stderr


def test_info_lists_what_a_model_draws(orthus, listing_folder, world):
    shown = orthus("info", listing_folder, "--words").stdout
    for words in ("food and drink (", "fir tree", "A left of B", "in a meadow", "make the car red"):
        assert words in shown
    told = json.loads(orthus("info", listing_folder, "--words", "--format", "json").stdout)
    assert "dog" in told["cast"] and told["colours"][0] == "red"
    assert told["things"]["animals and nature"][0].keys() >= {"name", "emoji"}
    names = orthus("info", listing_folder, "--words", "--format", "quiet").stdout.splitlines()
    assert set(names) >= {"ice cream", *world.things}


def test_info_of_an_older_or_a_large_model_says_what_there_is(orthus, tiny_folder, tmp_path):
    refused = orthus("info", tiny_folder, "--words")
    assert refused.exit_code == 1 and "does not list what it draws" in refused.stderr
    shutil.copytree(tiny_folder, tmp_path / "older")
    (tmp_path / "older" / "vocabulary.txt").write_text("dog\nice cream\n")
    assert "cream, dog, ice" in orthus("info", tmp_path / "older", "--words").stdout
