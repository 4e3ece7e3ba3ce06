"""benchmarks/bundle_model.py: a finished training becomes a bundled model."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import bundle_model
from orthus_core.checkpoint.differences import whole_of
from orthus_core.checkpoint.model_folder import open_model, save_model
from orthus_core.recipe import PosttrainRecipe, PretrainRecipe, Recipe, load, save
from tests.discrete import write_tiny_chameleon

LARGEST = 100_000  # bytes
WRITTEN_BY_TRAINING = ("run.json", "metrics.jsonl", "quality.json")
HEADER = 20_000  # bytes that names and offsets take beside a file's tensors
CARD = "---\nlicense: apache-2.0\n---\nwritten by people\n"


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled models' folder: an earlier `mini` with a card, and another file size limit."""
    folder = tmp_path / "starter"
    (folder / "mini").mkdir(parents=True)
    earlier = {"config.json": "{}", "README.md": CARD, "words.json": "old", "vocabulary.txt": "old"}
    earlier |= {"model-00001-of-00099.safetensors": "old", "recipe.json": "{}"}
    for name, text in earlier.items():
        (folder / "mini" / name).write_text(text)
    monkeypatch.setattr(bundle_model, "STARTER", folder)
    monkeypatch.setattr(bundle_model, "LARGEST_FILE", f"{LARGEST // 1000}KB")
    return folder


def trained(model: Path, run: Path, recipe: Recipe, suffix: str) -> Path:
    """A model folder as a training leaves it, with its figures and a place of its own for features.

    Args:
        model: Model that the training made.
        run: Folder to write.
        recipe: Recipe of the training.
        suffix: Ending of the recipe's file.
    """
    shutil.copytree(model, run)
    for name in WRITTEN_BY_TRAINING:
        (run / name).write_text("{}\n")
    (run / "words.json").write_text('{"things": {}}')
    (run / "vocabulary.txt").write_text("fox\nsnowman\n")
    data = replace(recipe.data, cache="/home/someone/features", rows=7)  # type: ignore[attr-defined]
    save(replace(recipe, data=data), run / f"recipe.{suffix}")  # type: ignore[type-var]
    (run.parent / f"{run.name}.training").mkdir()
    return run


def bundled(monkeypatch: pytest.MonkeyPatch, run: Path, name: str) -> Path:
    monkeypatch.setattr(sys, "argv", ["bundle_model.py", str(run), name])
    bundle_model.main()
    return bundle_model.STARTER / name


def check_weights(run: Path, folder: Path) -> None:
    """Check that all weights are there in bf16, in files below the limit."""
    files = [*folder.glob("*.safetensors")]
    assert len(files) > 1 and max(f.stat().st_size for f in files) < LARGEST + HEADER
    theirs = open_model(run, device="cpu", dtype="fp32").model.state_dict()
    ours = open_model(folder, device="cpu", dtype="fp32").model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name].bfloat16().float()) for name in ours)


def test_an_orthus_takes_the_place_of_the_earlier_one(tiny_folder, starter, monkeypatch, tmp_path):
    run = trained(tiny_folder, tmp_path / "runs-mini", PosttrainRecipe(), "toml")
    folder = bundled(monkeypatch, run, "mini")
    check_weights(run, folder)
    assert (folder / "README.md").read_text() == CARD
    for name in ("words.json", "vocabulary.txt"):
        assert (folder / name).read_text() == (run / name).read_text()
    recipe = load(PosttrainRecipe, folder / "recipe.toml")
    assert recipe.data.rows == 7 and not recipe.data.cache
    assert "someone" not in (folder / "recipe.toml").read_text()
    names = {file.name for file in folder.iterdir()}
    assert not names & {*WRITTEN_BY_TRAINING, "recipe.json", "model-00001-of-00099.safetensors"}
    assert {path.name for path in starter.iterdir()} == {"mini"}


def test_a_discrete_chameleon_is_bundled_as_well(tiny_folder, starter, monkeypatch, tmp_path):
    model = write_tiny_chameleon(tmp_path / "tiny", tiny_folder)
    run = trained(model, tmp_path / "runs-chameleon", PretrainRecipe(), "json")
    folder = bundled(monkeypatch, run, "chameleon-mini")
    check_weights(run, folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "chameleon"
    assert load(PretrainRecipe, folder / "recipe.json").data.rows == 7
    assert "someone" not in (folder / "recipe.json").read_text()
    assert not {file.name for file in folder.iterdir()} & {*WRITTEN_BY_TRAINING}


def test_nothing_of_the_earlier_model_stays_but_its_card(tiny_folder, starter, monkeypatch):
    folder = bundled(monkeypatch, tiny_folder, "mini")
    check_weights(tiny_folder, folder)
    names = {file.name for file in folder.iterdir()}
    assert not names & {"words.json", "vocabulary.txt", "recipe.toml", "recipe.json"}
    assert (folder / "README.md").read_text() == CARD


def test_a_model_is_bundled_as_its_differences(tiny_folder, starter, monkeypatch, tmp_path):
    bundled(monkeypatch, tiny_folder, "mini")
    opened = open_model(tiny_folder, device="cpu")
    with torch.no_grad():
        opened.model.lm_head.weight += 1
    student = save_model(opened.model, opened.processor, tmp_path / "student")
    run = trained(student, tmp_path / "runs-fast", PosttrainRecipe(), "toml")
    (starter / "mini-fast").mkdir()
    (starter / "mini-fast" / "README.md").write_text(CARD + "of the student")
    (starter / "mini-fast" / "differences-7.safetensors").write_text("old")
    words = ["bundle_model.py", str(run), "mini-fast", "--from", "mini"]
    monkeypatch.setattr(sys, "argv", words)
    bundle_model.main()
    folder = starter / "mini-fast"
    assert [file.name for file in folder.glob("*.safetensors*")] == ["differences-1.safetensors"]
    assert (folder / "README.md").read_text() == CARD + "of the student"
    assert "someone" not in (folder / "recipe.toml").read_text()
    monkeypatch.setenv("ORTHUS_CACHE", str(tmp_path / "cache"))
    ours = open_model(whole_of(folder, starter / "mini"), device="cpu").model.state_dict()
    theirs = open_model(student, device="cpu").model.state_dict()
    assert all(torch.equal(ours[name], theirs[name].bfloat16().float()) for name in theirs)
