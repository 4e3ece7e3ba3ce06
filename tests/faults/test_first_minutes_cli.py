"""A newcomer's first commands: devices, inputs, foreign words, and runs that were stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_cli.plugins import discover
from orthus_cli.suggestions import (
    COMMANDS,
    ON_CUDA,
    ON_FASTEST,
    ONE_SIZE,
    OPTIONS,
    TRAINING_OPTIONS,
)
from orthus_core import Orthus
from orthus_core.api import loaded
from orthus_core.checkpoint import model_folder
from orthus_core.errors import OrthusError
from orthus_core.events import PatchDone
from orthus_core.recipe import SCHEMAS, keys


def orthus(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")


@pytest.fixture
def model(tiny_folder: Path) -> list[str]:
    return ["--model", str(tiny_folder), "--device", "cpu", "--steps", "1"]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is opened is a failure."""

    def fail(*args: object, **settings: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(loaded, "load_model", fail)
    monkeypatch.setattr(model_folder, "_open", fail)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps:3", "cpu:2"])
def test_a_missing_device_is_named_before_a_model_is_opened(device, tiny_folder, monkeypatch):
    monkeypatch.setattr(model_folder, "_open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(OrthusError, match=f"no device '{device}'; it has") as found:
        Orthus.open(tiny_folder, device=device)
    assert "cpu" in found.value.message


@pytest.mark.parametrize("device", ["processor", "xpu", "GPU"])
def test_what_is_no_device_gets_the_names_of_devices(device, tiny_folder, monkeypatch):
    monkeypatch.setattr(model_folder, "_open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(OrthusError, match='"auto" or "cpu" or "cuda" or "mps"'):
        Orthus.open(tiny_folder, device=device)


@pytest.mark.parametrize("name", ["no_such_package.Solver", "3d.Solver"])
def test_a_scheduler_of_no_package_is_named_before_a_model_is_opened(name, no_model):
    done = orthus("generate", "a fox", "--scheduler", name, "-o", "out.png")
    assert done.exit_code == 1 and "there is no package" in done.stderr, done.output


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (["a", "cat"], "2 prompts, each its own picture: 'a', 'cat'; put words that belong"),
        (["prompts.txt"], "--prompt-file prompts.txt reads prompts from a file"),
        (["a fox", "a cat"], ""),
        (["cat"], ""),
    ],
)
def test_words_without_quotes_and_names_of_prompt_files_are_pointed_out(
    prompts, told, model, tmp_path
):
    done = orthus("generate", *prompts, *model, "-o", tmp_path / "out", "--seed", 1)
    assert done.exit_code == 0, done.stderr
    assert told in done.stderr and bool(told) == (
        "prompts, each" in done.stderr or "--prompt-file" in done.stderr
    )


def test_a_sheet_and_a_comparison_are_named_where_they_were_written(model, tmp_path):
    sheet, out = tmp_path / "sheet.png", tmp_path / "out.png"
    done = orthus("generate", "a fox", *model, "-o", out, "--seed", 1, "--grid", sheet)
    assert f"{sheet}: all of them" in done.stdout and sheet.is_file()
    changed = tmp_path / "changed.png"
    done = orthus("edit", out, "a hat", *model, "-o", changed, "--seed", 1, "--compare")
    beside = tmp_path / "changed_compare.png"
    assert str(beside) in done.stdout and beside.is_file()


def test_a_model_without_a_name_is_not_the_folder_one_stands_in(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder)
    done = orthus("generate", "a fox", "-m", "", "-o", "out.png")
    assert done.exit_code == 1 and "the model's name is empty" in done.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("recipes show", "cat"),
        ("recipes list", "ls"),
        ("recipes copy", "cp"),
        ("data lint", "check"),
    ],
)
def test_a_foreign_subcommand_gets_a_suggestion_by_meaning(words, meant):
    done = orthus(*words.split())
    assert done.exit_code == 2 and f"did you mean '{meant}'?" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_each_command_names_a_missing_device(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "_open", lambda *_, **__: pytest.fail("opened"))
    picture = tmp_path / "a.png"
    from PIL import Image

    Image.new("RGB", (16, 16)).save(picture)
    recipe = tmp_path / "r.toml"
    recipe.write_text('command = "generate"\ndevice = "cuda"\n')
    out = ["-o", tmp_path / "out.png"]
    for words in (
        ["generate", "x", "--device", "cuda", *out],
        ["generate", "x", "--recipe", recipe, *out],
        ["edit", picture, "x", "--device", "cuda", *out],
        ["caption", picture, "--device", "cuda"],
        ["story", "x", "--device", "cuda", "-o", tmp_path / "s"],
        ["eval", "mini", "--device", "cuda", "-o", tmp_path / "e"],
    ):
        done = orthus(*words, "-m", tiny_folder)
        assert done.exit_code == 1 and "it has cpu" in done.stderr, done.stderr
    assert "CUDA_VISIBLE_DEVICES=7" in orthus("generate", "x", "--device", "cuda:7").stderr


def test_inputs_are_opened_before_a_model(no_model, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    missing = tmp_path / "no.png"
    for words, message in (
        (["caption", missing], "no such picture"),
        (["caption", missing, broken], "none of 2 pictures reads"),
        (["caption", "--strict", broken], "this is no picture"),
        (["edit", broken, "x"], "this is no picture"),
        (["edit", tmp_path / "no.png", "x"], "no such picture"),
        (["story", "--image", missing], "no such picture"),
        (["generate", "--prompt-file", missing], "cannot read"),
        (["generate", "-C", missing], "no such picture"),
        (["replay", missing], "no such picture"),
    ):
        done = orthus(*words)
        assert done.exit_code == 1 and message in done.stderr, (words, done.stderr)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("gen", "generate"), ("draw", "generate"), ("txt2img", "generate"), ("img2img", "edit"),
     ("vqa", "caption"), ("train", "posttrain"), ("ls", "recipes ls"), ("version", "--version"),
     ("Generate", "generate"), ("captoin", "caption")],
)  # fmt: skip
def test_a_foreign_command_gets_a_suggestion(typed, meant):
    done = orthus(typed, "x")
    assert done.exit_code == 2 and f"did you mean '{meant}'" in done.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [("--size", "of one size, see"), ("-W", "of one size, see"), ("--num-steps", "--steps?"),
     ("--sampler", "--scheduler?"), ("--cfg", "--guidance?"), ("--out", "--output?"),
     ("--count", "--num-images?"), ("--gpu", "--device cuda"), ("--fp16", "--dtype fp16?"),
     ("--ckpt", "--model?"), ("-p", "it is an argument"), ("--Seed", "--seed?")],
)  # fmt: skip
def test_a_foreign_option_gets_a_suggestion(typed, said):
    done = orthus("generate", "a cat", typed, "512")
    assert done.exit_code == 2 and said in done.stderr, done.stderr


@pytest.mark.parametrize(
    "typed",
    ["--lora", "--strength", "--eta", "--temp", "--compile", "--quality", "--progress", "--mask"],
)
def test_a_foreign_option_without_a_counterpart_gets_no_nonsense(typed):
    assert "did you mean" not in orthus("generate", "a cat", typed, "1").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("caption", "a.png", "--temp", 1), "--temperature?"),
        (("story", "x", "-n", 2), "--panels?"),
        (("generate", "x", "--n", 2), "--num-images?"),
        (("generate", "x", "--stpes", 2), "--steps?"),
        (("posttrain", "--lr", "1e-4"), "--set optim.lr="),
        (("posttrain", "--learning_rate", "1e-4"), "--set optim.lr="),
        (("pretrain", "--epochs", 2), "--set optim.steps="),
        (("build-base", "--batch-size", 2), "--set optim.batch_size="),
        (("posttrain", "--dataset", "x"), "--set data.source="),
        (("finetune-vae", "--resume_from_checkpoint", "x"), "--resume?"),
        (("build-base", "--device", "cuda"), "the fastest device by itself"),
        (("posttrain", "--gpu", 0), "the fastest device by itself"),
        (("generate", "x", "--device", "gpu"), "did you mean 'cuda'?"),
        (("plan", "generate", "--device", "GPU"), "did you mean 'cuda'?"),
        (("generate", "x", "--dtype", "float16"), "did you mean 'fp16'?"),
        (("generate", "x", "--set", "device=gpu"), "did you mean 'cuda'?"),
        (("generate", "x", "--set", "dtype=bfloat16"), "did you mean 'bf16'?"),
    ],
)
def test_foreign_words_are_understood_by_what_the_command_does(words, said):
    done = orthus(*words)
    assert done.exit_code in (1, 2) and said in done.stderr, done.stderr


@pytest.mark.parametrize("command", ["pretrain", "finetune-vae", "build-base", "posttrain"])
def test_what_a_training_is_told_to_set_is_a_key_of_its_recipe(command):
    has = {key.name for key in keys(SCHEMAS[command])}
    for meant, spelt in TRAINING_OPTIONS.items():
        if meant.startswith("--set "):
            word = meant.removeprefix("--set ").partition("=")[0]
            said = orthus(command, spelt.split()[0], "1").stderr
            assert (f"--set {word}=" in said) == (word in has), said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "a fox", "--scheduler", "hein"), "did you mean 'heun'"),
        (("story", "a fox", "--scheduler", "k_euler"), "there is no scheduler"),
        (("generate", ""), "the prompt is empty"),
        (("generate", "a fox", "  "), "the prompt is empty"),
    ],
)
def test_what_no_model_can_use_is_told_before_one_is_opened(words, message, tmp_path, no_model):
    done = orthus(*words, "-o", tmp_path / "out")
    assert done.exit_code == 1 and message in done.stderr, done.stderr


def test_a_file_given_as_a_story_is_no_unread_one(tmp_path, no_model):
    (tmp_path / "story.json").write_text("{}")
    said = orthus("story", "--from-story", tmp_path / "story.json").stderr
    assert "this is a file, and not a story" in said and "give a folder" in said
    assert "Errno" not in said


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("login", None), ("clean", None), ("update", None), ("batch", None), ("fly", None),
     ("pre-train", "pretrain"), ("outpaint", "generate --continue"), ("stroy", "story"),
     ("validate", "recipes validate"), ("data-check", "data check")],
)  # fmt: skip
def test_a_command_gets_one_suggestion_or_none(typed, meant):
    said = orthus(typed, "x").stderr
    assert f"did you mean '{meant}'?" in said if meant else "did you mean" not in said, said


def test_suggestions_name_what_exists():
    commands = discover()
    for meant in COMMANDS:
        assert meant.startswith("--") or meant.split()[0] in commands
    has = {
        spelling
        for name in ("generate", "edit", "story", "caption", "posttrain")
        for each in commands[name].command.params
        for spelling in (*each.opts, *each.secondary_opts)
    }
    has.add("--format")
    assert {meant.split()[0] for meant in OPTIONS if meant not in (ONE_SIZE, ON_CUDA)} <= has
    assert {meant.split()[0] for meant in TRAINING_OPTIONS if meant != ON_FASTEST} <= has
    words = [word for text in OPTIONS.values() for word in text.split()]
    assert len(set(words)) == len(words) and "--guidance-scale" in has


def test_a_stopped_run_goes_on_with_what_is_missing(model, tmp_path, monkeypatch):
    from orthus_core.api import images

    whole = images.generate

    def interrupted(*args, **settings):
        for event in whole(*args, **settings):
            yield event
            if isinstance(event, PatchDone) and event.row == 2:
                raise KeyboardInterrupt

    words = ["generate", "a fox", "a cat", "-n", 2, "--batch-size", 1, *model]
    words += ["-o", tmp_path / "{prompt}_{number}.png"]
    monkeypatch.setattr(images, "generate", interrupted)
    stopped = orthus(*words)
    monkeypatch.undo()
    assert stopped.exit_code == 130 and "2 of 4 pictures are kept" in stopped.stderr
    assert "--skip-existing draws the others" in stopped.stderr
    seed = stopped.stderr.partition("--seed ")[2].split()[0]
    refused = orthus(*words, "--seed", seed)
    assert refused.exit_code == 1 and "--skip-existing" in refused.stderr
    done = orthus(*words, "--seed", seed, "--skip-existing", "--format", "json")
    told = json.loads(done.stdout)
    assert [Path(each["path"]).name for each in told["pictures"]] == ["a_cat_3.png", "a_cat_4.png"]
    assert [each["seed"] for each in told["pictures"]] == [int(seed), int(seed) + 1]
    assert [Path(each).name for each in told["skipped"]] == ["a_fox_1.png", "a_fox_2.png"]
    again = orthus(*words, "--seed", seed, "--skip-existing", "--format", "quiet")
    assert again.exit_code == 0 and len(again.stdout.split()) == 4
    assert orthus("replay", tmp_path / "a_cat_4.png").exit_code == 0


def test_another_picture_of_the_name_is_not_skipped_in_silence(model, tmp_path):
    out = tmp_path / "out.png"
    assert orthus("generate", "a fox", "--seed", 1, "-o", out, *model).exit_code == 0
    before = out.read_bytes()
    for words, message in (
        (["a cat", "--seed", 1], "prompt 'a fox' instead of 'a cat'"),
        (["a fox", "--seed", 2], "seed 1 instead of 2"),
        (["a fox", "-n", 2], "without a seed"),
    ):
        done = orthus("generate", *words, "-o", out, "--skip-existing", *model)
        assert done.exit_code == 1 or "-n" in words, done.output
        assert message in done.stderr and out.read_bytes() == before, done.stderr
    done = orthus("generate", "a fox", "-o", out, "--skip-existing", *model)
    assert done.exit_code == 0 and "1 picture is there already, skipped" in done.stdout
    both = orthus("generate", "a fox", "-o", out, "--skip-existing", "--overwrite", *model)
    assert both.exit_code == 2
    other = orthus(
        "generate", "a fox", "--seed", 1, "-o", out, "--skip-existing", *model, "--steps", 2
    )
    assert "other values of steps" in other.stderr


def test_edits_that_are_there_are_kept(model, tmp_path):
    from PIL import Image

    for shade in (10, 200):
        Image.new("RGB", (16, 16), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    words = ["edit", tmp_path / "10.png", tmp_path / "200.png", "add a hat", "--each", "--seed", 1]
    words += ["--max-text", 0, *model, "-o", f"{tmp_path / 'out'}/", "--compare"]
    assert orthus(*words).exit_code == 0
    made = sorted((tmp_path / "out").iterdir())
    kept = next(each for each in made if "compare" not in each.name)
    others = {
        each: each.read_bytes() for each in made if each != kept and "compare" not in each.name
    }
    for each in made:
        if each == kept or "compare" in each.name:
            each.unlink()
    done = orthus(*words, "--skip-existing")
    assert done.exit_code == 0 and "1 picture is there already" in done.stdout, done.output
    assert sorted((tmp_path / "out").iterdir()) == made
    assert all(each.read_bytes() == content for each, content in others.items())
