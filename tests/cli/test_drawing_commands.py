"""`orthus generate`, and what all drawing commands share, as a user runs them, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from orthus_core.results.metadata import pixel_hash, read_record
from tests.discrete import write_tiny_chameleon


@pytest.fixture(scope="module")
def discrete_folder(tiny_folder, tmp_path_factory) -> Path:
    """A discrete Chameleon that knows a few words."""
    folder = write_tiny_chameleon(tmp_path_factory.mktemp("models") / "discrete", tiny_folder)
    (folder / "vocabulary.txt").write_text("fox\nred\nsnowman\n")
    return folder


@pytest.fixture
def discrete(discrete_folder) -> list[str]:
    return ["--model", str(discrete_folder), "--device", "cpu"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_generate_draws_a_picture_that_tells_of_itself(orthus, model, tiny_folder, tmp_path):
    out = tmp_path / "out.png"
    done = orthus("generate", "a snowman", "-o", out, "--seed", 7, *model)
    assert done.exit_code == 0, done.stderr
    assert f"{tiny_folder} on cpu, fp32" in done.stderr.splitlines()[0]
    assert done.stdout == f"{out}: a snowman, seed 7\n"
    record = read_record(out)
    assert record is not None
    with Image.open(out) as image:
        assert image.size == (16, 16) and record["pixels"] == pixel_hash(image)
    assert record["recipe"]["command"] == "generate" and record["recipe"]["seeds"] == [7]
    assert record["sampling"]["steps"] == 4 and record["sampling"]["guidance"] == 2.0


def test_a_seed_is_the_same_picture_whatever_was_drawn_with_it(orthus, model, tmp_path):
    many, one = tmp_path / "many", tmp_path / "one.png"
    done = orthus("generate", "a snowman", "a red fox", "-n", 3, "--seed", 5, "-o", many, *model)
    assert done.exit_code == 0, done.stderr
    assert names(many) == [
        f"{name}_{seed}.png" for name in ("a_red_fox", "a_snowman") for seed in (5, 6, 7)
    ]
    orthus("generate", "a red fox", "--seed", 6, "-o", one, "--batch-size", 1, *model)
    with Image.open(one) as alone, Image.open(many / "a_red_fox_6.png") as among:
        difference = max(abs(a - b) for a, b in zip(alone.tobytes(), among.tobytes(), strict=True))
    assert difference <= 1  # rounding of a batch may move a value across a step of 255


def test_flags_go_before_the_recipe_and_the_recipe_before_the_model(orthus, model, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('command = "generate"\nsteps = 3\nguidance = 4.0\nseeds = [1, 2]\n')
    words = ["generate", "a fox", "--recipe", recipe, "--set", "steps=2", "--guidance", 1]
    done = orthus(*words, "-o", tmp_path / "{seed}.png", "--format", "json", *model)
    told = json.loads(done.stdout)
    assert told["sampling"]["steps"] == 2 and told["sampling"]["guidance"] == 1
    assert [one["seed"] for one in told["pictures"]] == [1, 2]
    assert [Path(one["path"]).name for one in told["pictures"]] == ["1.png", "2.png"]


def test_seeds_that_are_drawn_are_told(orthus, model, tmp_path):
    done = orthus("generate", "a fox", "--auto-seeds", 2, "-o", tmp_path / "new", *model)
    seeds = [line.rpartition("seed ")[2] for line in done.stdout.splitlines()]
    assert names(tmp_path / "new") == sorted(f"a_fox_{seed}.png" for seed in seeds)


def test_quiet_prints_paths_only(orthus, model, tmp_path):
    out = tmp_path / "out.png"
    done = orthus("generate", "a fox", "-o", out, "--format", "quiet", "-q", *model)
    assert done.stdout == f"{out}\n" and done.stderr == ""


def test_nothing_is_overwritten_unless_told(orthus, model, tmp_path):
    out = tmp_path / "out.png"
    out.write_text("precious")
    refused = orthus("generate", "a fox", "-o", out, *model)
    assert refused.exit_code == 1 and "--overwrite" in refused.stderr
    assert out.read_text() == "precious"
    assert orthus("generate", "a fox", "-o", out, "--overwrite", *model).exit_code == 0
    assert read_record(out) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", " "], "the prompt is empty"),
        (["generate", "a fox", "--steps", "0"], "steps must be at least 1"),
        (["generate", "a fox", "--guidance", "nan"], "guidance must be a finite number"),
        (["generate", "a fox", "-o", "out.gif"], "written as PNG"),
        (["generate", "fox " * 300], "tokens long"),
        (["generate", "a fox", "--model", "minni"], "did you mean 'mini'"),
        (["edit", "missing.png", "a hat"], "no such picture"),
        (["caption", "missing.png"], "no such picture"),
        (["story"], "something to go on from"),
    ],
)
def test_a_mistake_is_one_message_and_exit_1(orthus, model, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = orthus(words[0], *model, *words[1:])
    assert done.exit_code == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert names(tmp_path) == []


def test_a_discrete_chameleon_draws_with_its_own_values(orthus, discrete, tmp_path):
    out = tmp_path / "out.png"
    done = orthus("generate", "a snowman", "-o", out, "--seed", 7, *discrete)
    assert done.exit_code == 0, done.stderr
    record = read_record(out)
    assert record is not None
    with Image.open(out) as image:
        assert image.size == (16, 16) and record["pixels"] == pixel_hash(image)
    sampling = record["sampling"]
    assert sampling["noise_scale"] == 0.7 and sampling["code_top_p"] == 0.9
    asked = ["--noise-scale", 0, "--guidance", 1, "--format", "json", "-o", tmp_path / "{seed}.png"]
    calm = orthus("generate", "a snowman", "--seed", 1, "--seed", 2, *asked, *discrete)
    told = json.loads(calm.stdout)
    assert told["sampling"]["noise_scale"] == 0
    assert told["pictures"][0]["pixels"] == told["pictures"][1]["pixels"]


def test_a_discrete_chameleon_edits_tells_and_captions(orthus, discrete, start, tmp_path):
    edited, folder = tmp_path / "edited.png", tmp_path / "told"
    for words in (
        ["edit", start, "a red fox", "-o", edited, "--seed", 1],
        ["story", "a snowman", "--image", start, "--panels", 2, "-o", folder, "--seed", 3],
        ["caption", start, "--max-new-tokens", 5],
    ):
        done = orthus(*words, *discrete)
        assert done.exit_code == 0, done.stderr
    assert read_record(edited) is not None
    told = ["01.png", "02.png", "03.png", "story.html", "story.json", "story.md"]
    assert names(folder) == told


def test_info_says_that_a_chameleon_is_discrete(orthus, discrete_folder):
    told = json.loads(orthus("info", discrete_folder, "--format", "json").stdout)
    assert told["kind"] == "discrete Chameleon with a pixel decoder"
    assert told["sampling"]["noise_scale"] == 0.7


def test_steps_of_a_discrete_chameleon_are_refused(orthus, discrete, tmp_path):
    out = tmp_path / "out.png"
    done = orthus("generate", "a fox", "--steps", 50, "-o", out, *discrete)
    assert done.exit_code == 1 and "leave steps out" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("command", ["generate", "edit", "story"])
def test_a_word_that_the_model_never_saw_is_told_once(orthus, discrete, start, tmp_path, command):
    out = tmp_path / "out.png"
    words = {
        "generate": ["a snwoman", "a red snwoman", "-o", tmp_path / "{prompt}.png"],
        "edit": [start, "make a snwoman", "-o", out],
        "story": ["a snwoman", "--panels", 1, "--max-new-tokens", 2, "-o", tmp_path / "told"],
    }[command]
    done = orthus(command, *words, *discrete)
    assert done.exit_code == 0, done.stderr
    hint = '"snwoman" is not among the words this model knows; did you mean "snowman"?'
    assert done.stderr.count(hint) == 1 and done.stderr.count("not among") == 1


def test_a_model_that_tells_no_words_hints_at_none(orthus, model, tmp_path):
    done = orthus("generate", "a snwoman", "-o", tmp_path / "out.png", *model)
    assert done.exit_code == 0 and "not among" not in done.stderr
