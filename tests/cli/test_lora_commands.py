"""`--lora` in the commands that draw, what pictures tell of it, and `orthus merge`."""

from __future__ import annotations

import json

import pytest

from orthus_core.data.pixels import open_image
from orthus_core.results.metadata import pixel_hash, read_record, read_text
from tests.adapters import random_adapters


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory):
    return random_adapters(tiny_folder, tmp_path_factory.mktemp("adapters") / "mine")


def pixels(path) -> str:
    return pixel_hash(open_image(path))


def drawn(orthus, out, *words):
    done = orthus("generate", "a snowman", "--seed", 1, "-o", out, *words)
    assert done.exit_code == 0, done.stderr
    return out


def test_two_scales_draw_two_pictures_and_a_merged_model_the_same(
    orthus, model, tiny_folder, adapters, tmp_path
):
    plain = drawn(orthus, tmp_path / "plain.png", *model, "--steps", 3)
    whole = drawn(orthus, tmp_path / "whole.png", *model, "--lora", adapters)
    half = drawn(orthus, tmp_path / "half.png", *model, "--lora", f"{adapters}:0.5")
    assert len({pixels(plain), pixels(whole), pixels(half)}) == 3
    place = tmp_path / "merged"
    done = orthus("merge", tiny_folder, "--lora", f"{adapters}:0.5", "-o", place)
    assert done.exit_code == 0 and str(place) in done.stdout
    merged = drawn(orthus, tmp_path / "merged.png", "-m", place, "--device", "cpu")
    assert pixels(merged) == pixels(half)
    again = orthus("merge", tiny_folder, "--lora", adapters, "-o", place)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    over = orthus("merge", tiny_folder, "--lora", adapters, "-o", tiny_folder, "--overwrite")
    assert over.exit_code == 1 and "replaced while it is read" in over.stderr


def test_a_picture_tells_its_adapters_and_replay_repeats_or_refuses(
    orthus, model, tiny_folder, adapters, tmp_path
):
    used = random_adapters(tiny_folder, tmp_path / "used", seed=3)
    out = drawn(orthus, tmp_path / "out.png", *model, "--lora", f"{used}:0.7", "--lora", adapters)
    record = read_record(out)
    assert [each["scale"] for each in record["model"]["lora"]] == [0.7, 1.0]
    assert [each["name"] for each in record["model"]["lora"]] == ["used", adapters.name]
    assert "Lora hashes" in read_text(out, "parameters")
    shown = json.loads(orthus("info", out, "--format", "json").stdout)["command"]
    assert f"--lora {used}:0.7 --lora {adapters}" in shown
    assert orthus("replay", out).stdout == "identical\n"
    used.rename(tmp_path / "moved")
    gone = orthus("replay", out)
    assert gone.exit_code == 1 and "no such folder of adapters" in gone.stderr
    named = ["--lora", f"{tmp_path / 'moved'}:0.7", "--lora", adapters]
    assert orthus("replay", out, *named).stdout == "identical\n"
    random_adapters(tiny_folder, used, seed=4)
    refused = orthus("replay", out)
    assert refused.exit_code == 1 and "made with other adapters: used" in refused.stderr
    without = orthus("replay", out, "--lora", adapters)
    assert without.exit_code == 1 and "made with other adapters" in without.stderr


def test_all_commands_that_draw_or_answer_take_adapters(orthus, model, adapters, start, tmp_path):
    lora = [*model, "--lora", adapters]
    assert orthus("edit", start, "a hat", "-o", tmp_path / "e.png", *lora).exit_code == 0
    told = orthus("story", "a fox", "--panels", 1, "-o", tmp_path / "story", *lora)
    assert told.exit_code == 0, told.stderr
    record = json.loads((tmp_path / "story/story.json").read_text())
    assert record["model"]["lora"][0]["name"] == adapters.name
    answers = tmp_path / "answers.jsonl"
    short = ["--max-new-tokens", 4, "-o", answers]
    assert orthus("caption", start, *model, *short).exit_code == 0
    asked = orthus("caption", start, *lora, *short)
    assert asked.exit_code == 0 and f"with {adapters.name} at 1" in asked.stderr
    assert len(answers.read_text().splitlines()) == 2, "another model, another answer"
    assert orthus("replay", answers).stdout.startswith("identical")


@pytest.mark.parametrize(
    ("typed", "said"), [("{}:much", "must be a number"), ("elsewhere", "no such folder")]
)
def test_a_mistake_is_told_in_three_lines(orthus, model, adapters, tmp_path, typed, said):
    out = tmp_path / "out.png"
    lora = typed.format(adapters)
    done = orthus("generate", "a snowman", "-o", out, *model, "--lora", lora)
    assert done.exit_code == 1 and said in done.stderr and not out.exists()
    merged = orthus("merge", model[1], "-o", tmp_path / "merged", "--lora", lora)
    assert merged.exit_code == 1 and said in merged.stderr
    assert not (tmp_path / "merged").exists()
