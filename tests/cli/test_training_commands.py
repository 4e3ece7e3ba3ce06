"""The four training commands: recipe, options and mistakes; what they train is tested elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orthus_cli.training import _function
from orthus_core.recipe import SCHEMAS
from orthus_core.recipe.load import command_of

FROM_A_MODEL = ("finetune-vae", "build-base", "posttrain")
TRAININGS = ("pretrain", *FROM_A_MODEL)


def words(command: str, *more: object) -> list[object]:
    start = ["--init-from", "mini"] if command in FROM_A_MODEL else []
    return [command, "-o", "out", *start, *more]


@pytest.mark.parametrize("command", TRAININGS)
def test_a_dry_run_prints_the_recipe_as_a_recipe_and_makes_nothing(
    orthus, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    done = orthus(*words(command, "--set", "optim.steps=7", "--dry-run"))
    assert done.exit_code == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "shown.toml").write_text(done.stdout)
    assert command_of("shown.toml") == command
    again = orthus(*words(command, "shown.toml", "--dry-run", "--format", "json"))
    told = json.loads(again.stdout)
    assert told["dry_run"] and told["recipe"]["optim"]["steps"] == 7
    assert told["recipe"]["command"] == command and told["output"] == "out"


@pytest.mark.parametrize("command", TRAININGS)
def test_a_typo_fails_before_torch_loads(command):
    code = (
        "import sys; from typer.testing import CliRunner; from orthus_cli.app import app; "
        f"done = CliRunner().invoke(app, {words(command, '--set', 'optim.lrr=1')!r}); "
        "print(done.exit_code, 'torch' in sys.modules, done.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 False") and "did you mean" in done.stdout


@pytest.mark.parametrize("command", FROM_A_MODEL)
def test_a_training_that_needs_a_model_asks_for_one(orthus, command):
    done = orthus(command, "-o", "out")
    assert done.exit_code == 2 and "--init-from" in done.stderr


@pytest.mark.parametrize("command", TRAININGS)
def test_a_run_that_is_not_there_is_not_gone_on_from(orthus, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    done = orthus(*words(command, "--resume", "elsewhere"))
    assert done.exit_code == 1 and "there is no such folder" in done.stderr
    assert "--resume auto" in done.stderr and str(tmp_path / "elsewhere") in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", TRAININGS)
@pytest.mark.parametrize(
    ("typed", "resume"),
    [([], False), (["auto"], True), (["./auto"], Path("auto")), (["a/b"], Path("a/b"))],
)
def test_a_run_goes_on_from_where_it_is_told_to(orthus, monkeypatch, command, typed, resume):
    asked = []

    def run(recipe, **options):
        asked.append(options["resume"])
        return iter(())

    monkeypatch.setattr("orthus_cli.training._function", lambda run_by: run)
    done = orthus(*words(command, *(["--resume", *typed] if typed else [])))
    assert done.exit_code == 0, done.stderr
    assert asked == [resume]


@pytest.mark.parametrize("command", TRAININGS)
def test_each_runs_a_function_that_is_there(command):
    from orthus_cli.plugins import discover

    about = discover()[command].command.help
    assert about and "Ctrl-C saves" in about
    module = "pretrain" if command == "pretrain" else "trainings"
    found = _function(f"orthus_core.train.{module}:{command.replace('-', '_')}")
    assert callable(found) and SCHEMAS[command].command == command
