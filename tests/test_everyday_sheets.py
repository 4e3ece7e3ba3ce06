"""The sheets of everyday prompts: each picture is of the prompt and the seed that its key names."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks import everyday_sheets
from orthus_core.data.known_words import VOCABULARY


class Painter:
    """Draws what it was asked for as a colour: one picture of each prompt and seed."""

    def generate(self, prompts: list[str], seed: list[int]) -> SimpleNamespace:
        asked = [(prompt, each) for prompt in prompts for each in seed]
        return SimpleNamespace(
            images=[Image.new("RGB", (8, 8), colour(*each)) for each in asked],
            infos=[SimpleNamespace(prompt=prompt, seed=each) for prompt, each in asked],
        )


def colour(prompt: str, seed: int) -> tuple[int, int, int]:
    return len(prompt), ord(prompt[-1]), seed


def test_each_prompt_is_drawn_at_each_seed_and_found_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(everyday_sheets.Orthus, "open", lambda model: Painter())
    everyday_sheets.draw("any", tmp_path / "sheets")
    key = json.loads((tmp_path / "sheets" / everyday_sheets.KEY).read_text())
    prompts = [line for line in everyday_sheets.PROMPTS.read_text().split("\n") if line]
    asked = [(entry["prompt"], entry["seed"]) for entry in key]
    assert sorted(asked) == sorted((p, s) for p in prompts for s in everyday_sheets.SEEDS)
    assert asked != sorted(asked), "in random order"
    for entry in key:
        with Image.open(tmp_path / "sheets" / f"{entry['number']:03}.png") as picture:
            assert picture.getpixel((0, 0)) == colour(entry["prompt"], entry["seed"])
    assert len(list((tmp_path / "sheets").glob("sheet-*.png"))) == 6


@pytest.mark.parametrize(
    ("prompt", "things", "untaught"),
    [
        ("a dog and two cats", [("dog", 1), ("cat", 2)], []),
        ("a polar bear in the snow", [], ["polar bear"]),
        ("a fire truck next to a bear", [("bear", 1)], ["fire truck"]),
        ("three strawberries", [("strawberry", 3)], []),
        ("3 puppies", [("dog", 3)], []),
    ],
)
def test_a_prompt_names_things_of_the_cast_by_their_longest_names(world, prompt, things, untaught):
    assert everyday_sheets.things_of(world, prompt) == (things, untaught)


def test_a_picture_lacks_the_thing_that_is_not_taught(world, tmp_path, monkeypatch):
    """All prompts are drawn as a dog alone, which is all of the first only."""
    prompts = ["a dog", "a dog and a polar bear", "draw me something", "a dog in the woods"]
    key = [{"number": n, "prompt": prompt, "seed": 1} for n, prompt in enumerate(prompts, 1)]
    (tmp_path / everyday_sheets.KEY).write_text(json.dumps(key))
    for entry in key:
        Image.new("RGB", (8, 8)).save(tmp_path / f"{entry['number']:03}.png")
    dog = SimpleNamespace(find=lambda picture: [SimpleNamespace(noun="dog")])
    monkeypatch.setattr(everyday_sheets, "Detector", lambda world: dog)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / VOCABULARY).write_text("dog\npolar bear\nsomething\n")
    everyday_sheets.judge(tmp_path, str(tmp_path / "model"))
    found = json.loads((tmp_path / everyday_sheets.FOUND).read_text())
    assert [each["right"] for each in found.values()] == [True, False, None, False]
