"""Presets, schedulers and tolerances, as options of the drawing commands."""

from __future__ import annotations

import json
import shutil
from typing import get_args

import pytest
from PIL import Image

from orthus_core.data.pixels import open_image
from orthus_core.recipe import drawing
from orthus_core.results.metadata import pixel_hash
from orthus_core.samplers.params import PRESETS
from tests.discrete import write_tiny_chameleon


@pytest.fixture
def told(orthus, tiny_folder, tmp_path):
    """Runs a command on the tiny model and returns the sampling that it tells."""
    picture = tmp_path / "in.png"
    Image.linear_gradient("L").convert("RGB").save(picture)
    words = {
        "generate": ["a fox", "-o", tmp_path / "out.png"],
        "edit": [picture, "a red fox", "-o", tmp_path / "out.png"],
        "story": ["a fox", "--panels", 1, "-o", tmp_path / "story"],
    }

    def run(command: str, *options):
        done = orthus(
            "--format", "json", command, *words[command], "--seed", 1, "-m", tiny_folder, *options
        )
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)["sampling"]

    return run


def test_the_recipe_names_all_presets():
    assert set(get_args(drawing.Preset)) == set(PRESETS)


@pytest.mark.parametrize("command", ["generate", "edit", "story"])
def test_every_drawing_command_takes_a_preset(told, command):
    sampling = told(command, "--preset", "turbo", "--step-tolerance", 0.05)
    assert sampling["preset"] == "turbo" and sampling["step_tolerance"] == 0.05
    assert sampling["steps"] == 4, "the model's own are fewer than the preset's"
    assert sampling["scheduler"] == PRESETS["turbo"].scheduler


def test_named_options_win_over_the_preset(told):
    sampling = told("generate", "--preset", "fast", "--steps", 3, "--scheduler", "ddim")
    assert (sampling["preset"], sampling["steps"], sampling["scheduler"]) == ("fast", 3, "ddim")


@pytest.mark.parametrize("name", ["diffusers.DPMSolverMultistepScheduler", "heun", "euler_a"])
def test_a_scheduler_may_be_one_of_diffusers(told, name):
    assert told("generate", "--scheduler", name, "--steps", 3)["scheduler"] == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheduler", "oiler"], "no scheduler 'oiler'"),
        (["--scheduler", "no.such.Scheduler"], "no scheduler no.such.Scheduler"),
        (["--step-tolerance", "1.5"], "step_tolerance"),
        (["--set", "preset=slow"], "slow"),
        (["--set", "patch_norm=[3, 2]"], "patch_norm has two numbers above 0"),
        (["--set", "patch_norm=[3]"], "patch_norm has two numbers above 0"),
        (["--set", "guidance_interval=[800, 200]"], "two timesteps, the lower first"),
        (["--set", "guidance_interval=[0.2, 0.8]"], "guidance_interval"),
        (["--set", "guidance_interval=[1000, 2000]"], "the noisiest is 999"),
        (["--set", "guidance_schedule=cosine"], "guidance_schedule"),
    ],
)
def test_what_cannot_be_says_so(orthus, tiny_folder, tmp_path, options, message):
    done = orthus("generate", "a fox", "-m", tiny_folder, "-o", tmp_path / "out.png", *options)
    assert done.exit_code == 1
    assert message in done.stderr and not (tmp_path / "out.png").exists()


def test_a_discrete_model_has_no_use_for_them(orthus, tiny_folder, tmp_path):
    folder = write_tiny_chameleon(tmp_path / "discrete", tiny_folder)
    options = ["-m", folder, "-o", tmp_path / "out.png"]
    choices = [["--preset", "fast"], ["--scheduler", "ddim"], ["--step-tolerance", "0.1"]]
    choices += [["--set", "patch_norm=[1, 2]"], ["--set", "guidance_interval=[200, 800]"]]
    for option in choices:
        done = orthus("generate", "a fox", *options, *option)
        assert done.exit_code == 1 and "denoises nothing" in done.stderr
    rises = ["--set", "guidance_schedule=linear"]
    assert orthus("generate", "a fox", *options, "--seed", 1, *rises).exit_code == 0


@pytest.mark.parametrize(
    ("key", "of_model", "off", "other"),
    [
        ("patch_norm", [5.0, 5.0], [], [9, 9.5]),
        ("guidance_interval", [0, 400], [], [500, 900]),
        ("guidance_schedule", "linear", "constant", None),
    ],
)
def test_a_key_without_an_option_wins_over_the_models_own_and_is_replayed(
    orthus, tiny_folder, tmp_path, key, of_model, off, other
):
    own = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((own / "config.json").read_text())
    config["sampling"][key] = of_model
    (own / "config.json").write_text(json.dumps(config))
    drawn = {}
    asks = [(own, None), (own, off), (tiny_folder, None)] + [(own, other)] * (other is not None)
    for model, asked in asks:
        out = tmp_path / f"{len(drawn)}.png"
        words = ["generate", "a fox", "--seed", 1, "-m", model, "--device", "cpu", "-o", out]
        words += [] if asked is None else ["--set", f"{key}={asked}"]
        done = orthus("--format", "json", *words)
        assert done.exit_code == 0, done.stderr
        told = json.loads(done.stdout)["sampling"].get(key)
        assert told == (asked if asked is not None else of_model if model == own else None)
        assert orthus("replay", out).stdout == "identical\n"
        drawn[str((model == own, asked))] = pixel_hash(open_image(out))
    plain = drawn.pop("(False, None)")
    assert drawn[str((True, off))] == plain and len({*drawn.values()}) == len(asks) - 1, drawn


def test_keys_without_an_option_are_kept_in_a_story(told, orthus, tmp_path):
    keys = {"patch_norm": [2.0, 3.0], "guidance_interval": [9, 800], "guidance_schedule": "linear"}
    given = [word for name, value in keys.items() for word in ("--set", f"{name}={value}")]
    assert keys.items() <= told("story", *given).items()
    record = json.loads((tmp_path / "story" / "story.json").read_text(encoding="utf-8"))
    assert keys.items() <= record["sampling"].items()
