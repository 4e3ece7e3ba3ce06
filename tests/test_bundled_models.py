"""The models that come along: what they weigh, what they share, and what they can do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import orthus_core
from orthus_cli.app import app
from orthus_core.checkpoint.model_folder import open_model
from orthus_core.recipe import DistillHeadRecipe, load
from orthus_core.world.benchmark import sprite_recall

MODELS = ["mini", "chameleon-mini"]
BUNDLED = [*MODELS, "mini-fast"]
STARTER = Path(orthus_core.__file__).parent / "starter"
MB = 10**6


def run(*words) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_file_stays_below_15_mb_and_both_models_below_60():
    sizes = {
        model: [file.stat().st_size for file in (STARTER / model).glob("*.safetensors")]
        for model in BUNDLED
    }
    assert max(map(max, sizes.values())) < 15 * MB
    assert sum(sum(sizes[model]) for model in MODELS) < 60 * MB
    assert sum(sizes["mini-fast"]) < 18 * MB  # what differs from mini


@pytest.mark.parametrize("model", BUNDLED)
def test_a_card_tells_data_licence_recipe_and_limits(model):
    card = (STARTER / model / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    for heading in ("| data |", "| licences |", "| recipes |", "| hardware |", "| time |"):
        assert heading in card, heading
    assert "## Measured" in card and "## Limits" in card


def test_the_orthus_reads_pictures_as_the_chameleon_it_was_converted_from():
    orthus, chameleon = (open_model(model, device="cpu").model for model in MODELS)
    theirs = chameleon.model.vqmodel.state_dict()
    mine = orthus.model.vqmodel.state_dict()
    drawing = ("decoder.", "post_quant_conv.")  # what finetune-vae moves
    shared = [name for name in theirs if name in mine and not name.startswith(drawing)]
    assert any(name.startswith("encoder.") for name in shared)
    assert all(torch.equal(mine[name], theirs[name]) for name in shared)


def test_a_misspelt_word_gets_a_hint(tmp_path: Path):
    words = ["generate", "a snwoman", "--seed", "1", "--steps", "1", "-o", str(tmp_path / "a.png")]
    done = CliRunner().invoke(app, words, prog_name="orthus")
    assert "snowman" in done.stderr


def test_mini_draws_what_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sprite_recall, "SPRITES", 13)
    run("eval", "mini", "--only", "recall", "-o", tmp_path / "report")
    tasks = json.loads((tmp_path / "report" / "result.json").read_text())["tasks"]
    scores = {score["name"]: score["value"] for score in tasks["sprite-recall"]}
    assert scores["3d"] >= 0.85


def test_mini_fast_draws_in_four_steps_and_one_stream(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sprite_recall, "SPRITES", 13)
    described = json.loads(run("info", "mini-fast", "--format", "json"))
    assert described["image_head"] == "flow map" and described["sampling"]["steps"] == 4
    run("eval", "mini", "-m", "mini-fast", "--only", "recall", "-o", tmp_path / "report")
    tasks = json.loads((tmp_path / "report" / "result.json").read_text())["tasks"]
    scores = {score["name"]: score["value"] for score in tasks["sprite-recall"]}
    assert scores["3d"] >= 0.85
    words = ["generate", "a snowman", "-m", "mini-fast", "--guidance", "3", "-o", str(tmp_path)]
    done = CliRunner().invoke(app, words, prog_name="orthus")
    assert done.exit_code == 1 and "this model draws guidance 2 by itself" in done.stderr


def test_mini_fast_was_made_by_the_shipped_recipe():
    recipe = load(DistillHeadRecipe, STARTER / "mini-fast" / "recipe.toml")
    assert recipe == load(DistillHeadRecipe, "distill/head")


def test_mini_answers_about_what_it_is_shown(tmp_path: Path):
    run("eval", "mini", "--only", "vqa,pope", "--limit", 66, "-o", tmp_path / "report")
    tasks = json.loads((tmp_path / "report" / "result.json").read_text())["tasks"]
    questions, presence = tasks["mini-vqa"][0], tasks["mini-pope"][0]
    assert questions["value"] > questions["chance"] + 0.4
    assert presence["name"] == "accuracy" and presence["value"] >= 0.85


def test_the_discrete_model_draws_and_answers(tmp_path: Path):
    out = tmp_path / "out.png"
    run("generate", "a snowman", "--seed", 1, "-m", "chameleon-mini", "-o", out)
    assert run("caption", out, "-m", "chameleon-mini").strip()
