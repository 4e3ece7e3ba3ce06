"""The frame around every command: global options, exit codes, and errors in three lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orthus_core.version import __version__

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "rich", "accelerate", "datasets", "diffusers"}

RAISES = """
from orthus_core.errors import RecipeError
def act(kind: str):
    "Fail in a chosen way."
    if kind == "mistake":
        raise RecipeError("the snow is warm", where="hill.toml, line 3", hint="wait for winter")
    if kind == "stop":
        raise KeyboardInterrupt
    if kind == "disk":
        raise OSError(28, "No space left on device", "out.png")
    raise ZeroDivisionError("seven by nothing")
"""

TELLS = """
import typer
from orthus_cli.console import reporter
def act(ctx: typer.Context):
    "Tell what was asked for."
    r = reporter(ctx)
    r.say("said")
    r.detail("detailed")
    r.warn("warned")
    r.table(("size", "name"), [(1, "one"), (2, "two")])
    r.result({"rows": 2, "loss": float("nan")}, text="two rows", quiet=["one", "two"])
"""


def modules_after(code: str) -> set[str]:
    """Runs code in a process of its own and returns the top-level modules it left imported."""
    report = "\nimport sys; print('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    ran = subprocess.run(
        [sys.executable, "-c", code + report],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ORTHUS_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ran.stdout.splitlines()[-1].split())


def call(*words: str) -> str:
    return f"""
from orthus_cli.app import app
try:
    app({list(words)!r})
except SystemExit:
    pass
"""


def test_help_imports_nothing_heavy() -> None:
    assert not modules_after(call("--help")) & HEAVY


def test_help_of_every_command_imports_nothing_heavy(orthus) -> None:
    names = json.loads(orthus("plugins", "--format", "json").stdout)["plugins"]
    ours = [row["command"] for row in names if row["distribution"] == "orthus-kit"]
    assert len(ours) > 5
    assert not modules_after("".join(call(name, "--help") for name in ours)) & HEAVY


def test_a_mistyped_recipe_fails_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    recipe = tmp_path / "typo.toml"
    recipe.write_text('command = "posttrain"\n[optim]\nlrr = 1e-4\n')
    assert not modules_after(call("recipes", "validate", str(recipe))) & HEAVY


def test_every_command_of_ours_loads(orthus) -> None:
    rows = json.loads(orthus("plugins", "--format", "json").stdout)["plugins"]
    failed = {row["command"]: row["problem"] for row in rows if row["problem"]}
    assert not failed


def test_the_version_is_the_packages(orthus) -> None:
    assert orthus("--version").stdout == f"orthus {__version__}\n"


def test_no_command_is_wrong_usage_and_shows_the_help(orthus) -> None:
    result = orthus()
    assert result.exit_code == 2
    assert "Draw:" in result.output


@pytest.mark.parametrize(
    "words", [["reci"], ["recipes", "cat"], ["recipes", "ls", "--no-such"], ["--format", "xml"]]
)
def test_wrong_usage_exits_with_2(orthus, words: list[str]) -> None:
    result = orthus(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_command_that_is_nearly_right_is_suggested(orthus) -> None:
    assert "'recipes'" in orthus("recipe").stderr


def test_a_users_mistake_says_what_where_and_next(orthus, stranger) -> None:
    stranger("act", RAISES)
    result = orthus("act", "mistake")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: the snow is warm",
        "where: hill.toml, line 3",
        "next: wait for winter",
    ]


@pytest.mark.parametrize("words", [("--debug", "act", "mistake"), ("act", "mistake", "--debug")])
def test_debug_adds_the_traceback(orthus, stranger, words: tuple[str, ...]) -> None:
    stranger("act", RAISES)
    assert "Traceback" in orthus(*words).stderr


def test_an_unforeseen_error_is_one_line_and_a_way_to_more(orthus, stranger) -> None:
    stranger("act", RAISES)
    result = orthus("act", "other")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: ZeroDivisionError: seven by nothing",
        "next: run again with --debug to see where it arose",
    ]


def test_a_full_disk_names_the_file(orthus, stranger) -> None:
    stranger("act", RAISES)
    lines = orthus("act", "disk").stderr.splitlines()
    assert lines[:2] == ["error: OSError: No space left on device", "where: out.png"]


def test_ctrl_c_exits_with_130_and_a_word(orthus, stranger) -> None:
    stranger("act", RAISES)
    result = orthus("act", "stop")
    assert result.exit_code == 130
    assert result.stderr == "stopped\n"


@pytest.mark.parametrize("words", [("--format", "json", "act"), ("act", "--format", "json")])
def test_json_is_one_object_on_stdout(orthus, stranger, words: tuple[str, ...]) -> None:
    stranger("act", TELLS)
    result = orthus(*words)
    assert json.loads(result.stdout) == {"rows": 2, "loss": None}
    assert result.stderr.splitlines() == ["said", "warning: warned"]


def test_quiet_format_prints_bare_values(orthus, stranger) -> None:
    stranger("act", TELLS)
    assert orthus("act", "--format", "quiet").stdout == "one\ntwo\n"


def test_auto_format_in_a_pipe_is_separated_by_tabs(orthus, stranger) -> None:
    stranger("act", TELLS)
    assert orthus("act").stdout == "size\tname\n1\tone\n2\ttwo\ntwo rows\n"


def test_human_format_draws_its_table_in_a_pipe_too(orthus, stranger) -> None:
    stranger("act", TELLS)
    lines = orthus("act", "--format", "human").stdout.splitlines()
    assert lines[-1] == "two rows"
    assert any("size" in line and "name" in line and "\t" not in line for line in lines)


def test_v_and_q_say_more_and_less_wherever_they_stand(orthus, stranger) -> None:
    stranger("act", TELLS)
    assert "detailed" in orthus("-v", "act").stderr
    assert "detailed" in orthus("act", "-v").stderr
    assert "detailed" not in orthus("act", "-v", "-q").stderr
    assert orthus("act", "-q").stderr == "warning: warned\n"


def test_a_commands_own_letters_go_before_the_global_ones(orthus, stranger) -> None:
    stranger(
        "act",
        "from typing import Annotated\nimport typer\n"
        "def act(volume: Annotated[int, typer.Option('-v')] = 1):\n    print('volume', volume)\n",
    )
    assert orthus("act", "-v", "7").stdout == "volume 7\n"


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    ran = subprocess.Popen(
        [sys.executable, "-m", "orthus_cli", "recipes", "keys", "posttrain"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ran.stdout and ran.stderr
    ran.stdout.close()
    assert "Traceback" not in ran.stderr.read()
    assert ran.wait() != 0
    ran.stderr.close()
