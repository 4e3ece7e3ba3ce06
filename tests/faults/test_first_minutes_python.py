"""The first minutes: sheets, recipes with several mistakes, the panels of stories, Python calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_cli.recipe_options import SPELLINGS
from orthus_core.api.arguments import ALIASES
from orthus_core.api.pipeline import Orthus
from orthus_core.errors import ArgumentError, OrthusError, RecipeError
from orthus_core.image_grid import labelled_sheet, labels_for, sheet_rows
from orthus_core.recipe import CaptionRecipe, GenerateRecipe, load
from orthus_core.results.metadata import GenerationInfo, read_record
from orthus_core.results.story_folder import Panel, write_story


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")


@pytest.fixture(scope="module")
def tiny(tiny_folder) -> Orthus:
    return Orthus.open(tiny_folder, device="cpu")


def shades(count: int, size: int = 64) -> list[Image.Image]:
    return [Image.new("RGB", (size, size), (9 + number, 80, 200)) for number in range(count)]


def sheet_of(prompts: list[str], seeds: int, size: int = 64) -> Image.Image:
    said = [prompt for prompt in prompts for _ in range(seeds)]
    labels = labels_for(said, list(range(seeds)) * len(prompts))
    return labelled_sheet(shades(len(said), size), labels, per_prompt=seeds)


@pytest.mark.parametrize(
    ("prompts", "seeds"), [(30, 1), (30, 2), (1, 30), (2, 12), (7, 7), (3, 53), (100, 3)]
)
def test_a_sheet_is_nearly_square(prompts, seeds):
    sheet = sheet_of([f"thing number {number}" for number in range(prompts)], seeds)
    assert 0.5 < sheet.width / sheet.height < 2


@pytest.mark.parametrize(
    ("pictures", "columns", "per_prompt"), [(9, 4, 1), (12, 6, 3), (20, 4, 10), (1, 1, 1)]
)
def test_the_rows_of_a_sheet_hold_every_picture_once_and_part_no_prompt(
    pictures, columns, per_prompt
):
    rows = sheet_rows(pictures, columns, per_prompt)
    assert [place for row in rows for place in row] == list(range(pictures))
    if columns < per_prompt:
        assert all(row[0] // per_prompt == row[-1] // per_prompt for row in rows)


def test_labels_tell_pictures_apart_and_no_more():
    assert labels_for(["a"], [1]) == [""]
    assert labels_for(["a", "b"], [1, 1]) == ["a", "b"]
    assert labels_for(["a", "a"], [1, 2]) == ["seed 1", "seed 2"]
    assert labels_for(["a", "a", "b", "b"], [1, 2] * 2)[3] == "b\nseed 2"
    assert sheet_of(["a"], 1).size == (64, 64), "a single picture has none"


@pytest.mark.parametrize(
    "prompt",
    ["\N{FOX FACE} \u96ea\u3060\u308b\u307e", "a\x1b[31m\udcff", "w" * 90, "many words " * 40, ""],
)
def test_any_prompt_labels_a_picture_and_runs_out_nowhere(prompt):
    sheet = sheet_of([prompt, "a fox"], 2)
    assert sheet.width == 4 * 64 + 3 * 4 or sheet.width == 2 * 64 + 4
    pixels_HW3 = np.asarray(sheet)
    assert pixels_HW3[65:].min() < 100, "there is text"
    assert (pixels_HW3[:, 65:67] == 255).all(), "and none between the pictures"


def test_the_seed_is_kept_when_a_long_prompt_is_cut():
    short, long = (np.asarray(sheet_of([each, "x"], 2)) for each in ("a fox", "one two " * 30))
    cut = [np.asarray(sheet_of(["one two " * 30, "x"], 2).crop((0, 64, 64, 140)))]
    other = [np.asarray(sheet_of(["one two " * 30, "x"], 2).crop((68, 64, 132, 140)))]
    assert short.shape != long.shape
    assert not np.array_equal(cut[0], other[0]), "seed 0 and seed 1"


def test_the_sheet_of_a_training_is_labelled(monkeypatch):
    from orthus_core.train import sample_grid as home

    seen = {}
    monkeypatch.setattr(
        home, "labelled_sheet", lambda images, labels: seen.update(n=len(images), labels=labels)
    )
    from orthus_core.checkpoint.model_folder import open_model

    mini = open_model("mini", device="cpu")
    home.draw_words(mini.model, mini.processor.tokenizer, ("a cat", "a dog"), steps=1)
    assert seen == {"n": 2, "labels": ("a cat", "a dog")}


WRONG = """command = "generate"
stepz = 3
guidance = true
preset = "fastest"
num_images = 0
[optim]
lr = 1
"""


def test_all_mistakes_of_a_recipe_are_told(tmp_path):
    (tmp_path / "wrong.toml").write_text(WRONG)
    done = run("recipes", "validate", tmp_path / "wrong.toml")
    assert done.exit_code == 1
    for number, message in enumerate(
        ("'stepz', did you mean 'steps'", "guidance must be a number", "preset must be", "least 1"),
        start=2,
    ):
        (line,) = [line for line in done.stderr.splitlines() if message in line]
        assert f"line {number}" in line
    assert "unknown key 'optim'" in done.stderr and "5 mistakes" in done.stderr


def test_all_mistakes_of_all_recipes_are_told(tmp_path):
    for name, text in {
        "a.toml": 'command = "generate"\nsteps = "ten"\n',
        "b.toml": "steps = = 3\n",
        "c.toml": 'command = "fly"\n',
        "d.toml": 'command = "posttrain"\n[data]\nrowz = 1\n[data.tasks]\nscene = "x"\n',
    }.items():
        (tmp_path / name).write_text(text)
    done = run("recipes", "validate", *sorted(tmp_path.iterdir()), "nowhere.toml", "generate")
    assert done.exit_code == 1
    for message in ("not 'ten'", "not TOML", "'fly'", "data.rows", "data.tasks.scene", "nowhere"):
        assert message in done.stderr


def test_a_rule_between_keys_is_told_beside_other_mistakes_but_not_of_a_faulty_table(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        'command = "pretrain"\nsede = 1\n[backbone]\nhidden_size = 250\nnum_attention_heads = 4\n'
    )
    said = run("recipes", "validate", path).stderr
    assert "sede" in said and "no multiple of" in said
    path.write_text('command = "pretrain"\n[backbone]\nhidden_size = 251\nheads = 4\n')
    said = run("recipes", "validate", path).stderr
    assert "heads" in said and "no multiple of" not in said


def test_a_command_tells_the_mistakes_of_file_set_and_options_at_once(tmp_path):
    (tmp_path / "wrong.toml").write_text(WRONG)
    done = run(
        "generate", "a fox", "--recipe", tmp_path / "wrong.toml", "--set", "seedz=1", "--steps", 0
    )
    assert done.exit_code == 1 and "7 mistakes" in done.stderr
    assert "--set seedz=1" in done.stderr and "the option for steps" in done.stderr


def test_one_mistake_is_told_as_ever():
    with pytest.raises(RecipeError) as caught:
        load(GenerateRecipe, None, ["steps=ten"])
    assert caught.value.message == "steps must be a whole number, not 'ten'"
    with pytest.raises(RecipeError, match=r"did you mean 'text\.temperature'"):
        load(CaptionRecipe, None, ["temprature=1"])


def test_a_story_in_words_numbers_its_pictures_from_1(tiny_folder, tmp_path):
    folder = tmp_path / "story"
    words = ["story", "a red fox", "--panels", 2, "--seed", 1, "--steps", 1, "-o", folder]
    done = run("-v", *words, "--max-new-tokens", 8, "-m", tiny_folder, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in folder.glob("*.png")) == ["01.png", "02.png"]
    record = json.loads((folder / "story.json").read_text())
    assert [panel.get("image") for panel in record["panels"]] == [None, "01.png", "02.png"]
    assert read_record(folder / "01.png")["panel"] == 1
    assert "panel 1:" in done.stderr and "panel 3:" not in done.stderr
    page, text = (folder / "story.html").read_text(), (folder / "story.md").read_text()
    assert 'alt="Picture 1' in page and "![Picture 1](01.png)" in text
    assert text.count("a red fox") == 1 and page.count("a red fox") == 2, "its <title> and <h1>"
    over = run("story", "--from-story", folder, "--from-panel", 4, "-m", tiny_folder)
    assert "the story has panels 1 to 2" in over.stderr


INFO = GenerationInfo({"command": "story"}, "", 1, {}, {"name": "x", "hash": "0"})


@pytest.mark.parametrize(
    "opening",
    ["a cat.", "a cat", "Once upon a time there was a small cat who had lost its hat."],
)
@pytest.mark.parametrize("shown", [True, False])
def test_the_words_that_a_story_begins_with_stand_there_once(tmp_path, opening, shown):
    first = Panel(opening, shades(1)[0] if shown else None, given=True)
    panels = [first, Panel("it rains.", shades(2)[1])]
    write_story(tmp_path / "s", panels, INFO._replace(prompt=opening))
    body = (tmp_path / "s" / "story.html").read_text().partition("<body>")[2]
    text = (tmp_path / "s" / "story.md").read_text()
    for said in (body, text):
        assert said.count(opening.rstrip(".")) == 1 and said.count("it rains.") >= 1
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_other_libraries_names_are_accepted(tiny):
    drawn = tiny.generate("a fox", n=2, seed=np.int64(3), num_inference_steps=1, guidance_scale=2.0)
    assert drawn.seeds == [3, 4]
    assert drawn.infos[0].sampling["steps"] == 1 and drawn.infos[0].sampling["guidance"] == 2
    assert len(tiny.edit(drawn.images[0], "x", num_images_per_prompt=2, steps=1).images) == 2


def test_what_is_another_name_of_an_option_is_one_of_an_argument():
    options = {
        (word.strip("-").replace("-", "_"), key)
        for key in ("steps", "guidance", "num_images")
        for word in SPELLINGS[key].words
        if word.startswith("--") and word.strip("-").replace("-", "_") != key
    }
    assert options and {(name, ALIASES.get(name)) for name, _ in options} == options


@pytest.mark.parametrize(
    ("call", "values", "message"),
    [
        ("generate", {"stepz": 3}, "unknown key 'stepz', did you mean 'steps'?"),
        ("generate", {"num_inference_steps": "ten"}, "steps must be a whole number, not 'ten'"),
        ("generate", {"steps": 0}, "steps must be at least 1, not 0"),
        ("generate", {"n": "two"}, "num_images must be a whole number, not 'two'"),
        ("generate", {"n": 0}, "num_images must be at least 1, not 0"),
        ("generate", {"n": 2, "num_images": 3}, "n is another name of num_images"),
        ("generate", {"seed": "x"}, "seed must be a whole number"),
        ("generate", {"seed": 1.5}, "seed must be a whole number"),
        ("generate", {"seed": -1}, "seed must be a whole number of at least 0"),
        ("generate", {"device": "cuda"}, "device is chosen when the model is opened"),
        ("generate", {"steps": "a", "guidance": "b"}, "2 mistakes"),
        ("edit", {"n": True}, "num_images must be a whole number, not true"),
        ("edit", {"strenght": 1}, "unknown key 'strenght'"),
        ("story", {"panels": "three"}, "panels must be a whole number"),
        ("story", {"temprature": 1}, "did you mean 'temperature'?"),
        ("story", {"seed": [1, 2]}, "a story has one seed"),
        ("caption", {"question": 5}, "question must be text, not 5"),
        ("caption", {"temperature": "hot"}, "^temperature must be a number"),
        ("caption", {"seed": [1, 2]}, "more seeds than pictures"),
        ("caption", {"n": 3}, "unknown key 'n'"),
        ("generate", {"width": 64}, "pictures of one size, so that there is no width"),
        ("edit", {"size": 64}, "pictures of one size"),
        ("generate", {"seed": 2**63}, "seed must be a whole number"),
        ("edit", {"example": shades(1)[0]}, "an example is two pictures"),
        ("edit", {"example": shades(3)}, "an example is two pictures, .* not 3"),
    ],
)
def test_an_argument_that_cannot_be_is_told_in_the_words_of_the_commands(
    tiny, call, values, message
):
    subject = shades(1)[0] if call in ("edit", "caption") else "a fox"
    words = ("x",) if call == "edit" else ()
    with pytest.raises(ArgumentError, match=message) as caught:
        getattr(tiny, call)(subject, *words, **values)
    assert isinstance(caught.value, (OrthusError, TypeError, ValueError))
    assert isinstance(caught.value, RecipeError) and isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("call", "subjects", "values", "message"),
    [
        ("generate", ("a fox", 3), {}, "takes prompts first, and all else by name"),
        ("generate", ("a fox", "a cat"), {}, "too many positional"),
        ("generate", (), {"prompt": "a fox"}, "missing a required argument: 'prompts'"),
        ("edit", (), {"image": shades(1)[0], "instruction": "x"}, "pictures and instruction first"),
        ("caption", (), {}, "pictures and question first"),
        ("story", ("x", (), 3), {}, "prompt and images first"),
    ],
)
def test_a_call_that_does_not_fit_is_told_in_our_words(tiny, call, subjects, values, message):
    for method in (getattr(tiny, call), getattr(tiny, call).stream):
        with pytest.raises(ArgumentError, match=message):
            method(*subjects, **values)


def test_seeds_of_other_libraries_are_numbers(tiny):
    for seed in (torch.tensor(3), np.array(3), np.int64(3), torch.tensor([3])):
        assert tiny.generate("a fox", seed=seed, steps=1).seeds == [3]


@pytest.mark.parametrize(
    ("call", "subject"),
    [
        ("generate", 5),
        ("generate", ["a", 3]),
        ("generate", None),
        ("story", 5),
        ("edit", 5),
        ("caption", None),
    ],
)
def test_what_is_no_prompt_and_no_picture_is_told(tiny, call, subject):
    with pytest.raises(OrthusError, match=r"must be text, not|a picture cannot be a"):
        getattr(tiny, call)(subject)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"devce": "cpu"}, "did you mean 'device'"),
        ({"device": "gpu"}, "device must be .* did you mean 'cuda'"),
        ({"dtype": "flot16"}, "did you mean 'fp16'"),
        ({"dtype": torch.int8}, "dtype must be"),
        ({"dtype": torch.float64}, "dtype must be"),
        ({"dtype": "float"}, "dtype must be"),
        ({"quantize": 3}, "quantize must be 4 or 8"),
        ({"low_memory": "yes"}, "low_memory must be true or false"),
    ],
)
def test_a_model_is_opened_with_arguments_that_it_has(tiny_folder, values, message):
    with pytest.raises(ArgumentError, match=message):
        Orthus.open(tiny_folder, **values)
    with pytest.raises(ArgumentError, match="source must be text"):
        Orthus.open(5)  # type: ignore[arg-type]


def test_torchs_own_objects_open_a_model(tiny_folder: Path):
    opened = Orthus.open(tiny_folder, device=torch.device("cpu"), dtype=torch.float32)
    assert opened.about["dtype"] == "fp32"
    assert Orthus.open(tiny_folder, device=None).about["dtype"] in ("fp32", "bf16")
    assert Orthus.open(tiny_folder, device="cpu:0").about["device"].startswith("cpu")
