"""How `orthus` behaves in a shell: completion, pipes, unwelcome colours, narrow terminals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_cli.console import Reporter, Settings
from orthus_cli.progress import Bar, Pace

ROOT = Path(__file__).parents[2]
ESCAPE = "\x1b"


def completed(words: str, instruction: str = "complete_bash") -> list[str]:
    """What a shell is offered for the last word."""
    asked = {"_ORTHUS_COMPLETE": instruction, "COMP_WORDS": words}
    asked |= {"COMP_CWORD": str(len(words.split(" ")) - 1), "_TYPER_COMPLETE_ARGS": words}
    done = CliRunner().invoke(app, [], env=asked, prog_name="orthus")
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_their_values():
    assert completed("orthus repl") == ["replay"]
    assert "--keep-rows" in completed("orthus generate --keep")
    assert completed("orthus generate --dtype bf") == ["bf16"]
    assert completed("orthus generate --scheduler eul") == ["euler", "euler_a"]


def test_a_shell_completes_the_names_of_models_and_recipes():
    for words in ("generate -m ", "eval mini -m ", "plan generate -m ", "posttrain --init-from "):
        found = completed(f"orthus {words}")
        assert {"mini", "chameleon-mini", "base", "instruct", "chameleon-7b"} <= {*found}, words
    assert completed("orthus generate -m cham") == ["chameleon-mini", "chameleon-7b"]
    assert completed("orthus recipes cat starter/5") == ["starter/5-posttrain"]
    assert completed("orthus plan 7b/inst") == ["7b/instruct", "7b/instruct-lora"]
    # A command is offered its own recipes.
    assert completed("orthus convert x --recipe ") == [
        "convert",
        "paper/2-convert",
        "starter/2-convert",
    ]
    assert "7b/instruct" in completed("orthus posttrain ")
    assert "convert" not in completed("orthus posttrain ")


def test_completion_is_installed_for_the_shell_of_the_user(tmp_path, monkeypatch):
    import shellingham

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(shellingham, "detect_shell", lambda *_: ("bash", "/bin/bash"))
    done = CliRunner().invoke(app, ["--show-completion"], prog_name="orthus")
    assert done.exit_code == 0 and "complete -o default -F" in done.stdout
    done = CliRunner().invoke(app, ["--install-completion"], prog_name="orthus")
    assert done.exit_code == 0, done.output
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert script.name == "orthus.sh" and "_ORTHUS_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
    # What was installed asks `orthus` itself.
    program = tmp_path / "orthus"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m orthus_cli "$@"\n')
    program.chmod(0o755)
    asked = f"source {script}; COMP_WORDS=(orthus generate -m cham); COMP_CWORD=3; "
    asked += f'_orthus_completion {program}; echo "${{COMPREPLY[@]}}"'
    shell = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, cwd=ROOT)
    assert shell.stdout.split() == ["chameleon-mini", "chameleon-7b"], shell.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_each_shell(shell):
    done = CliRunner().invoke(
        app, [], env={"_ORTHUS_COMPLETE": f"source_{shell}"}, prog_name="orthus"
    )
    assert done.exit_code == 0 and "_ORTHUS_COMPLETE" in done.stdout


def test_a_pipe_gets_no_control_characters():
    words = [sys.executable, "-m", "orthus_cli", "generate", "--help"]
    env = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0 and "--preview" in done.stdout
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stdout + done.stderr)


class Screen:
    """A stream that says that a person looks at it."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.written = ""

    def write(self, text: str) -> int:
        self.written += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def looked_at(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Puts a screen in place of both streams; called in a test, since a fixture would be too early
    for what captures its output."""
    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    return screen


def test_no_color_leaves_a_table_without_colours(monkeypatch):
    screen = looked_at(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    Reporter(Settings()).table(("part", "GB"), [("weights", 3)])
    assert "weights" in screen.written
    assert not re.search(ESCAPE + r"\[[0-9;]*3[0-7]m", screen.written)


@pytest.mark.parametrize("columns", [20, 40])
def test_a_narrow_terminal_is_not_overrun(monkeypatch, columns):
    screen = looked_at(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    Reporter(Settings()).table(("part", "hangs on"), [("weights", "a long remark " * 5)])
    bar = Bar()
    bar("drawing", 3, 1000, "patches", "")
    bar.pause()
    plain = re.sub(ESCAPE + r"\[[0-9;?]*[a-zA-Z]", "", screen.written)
    assert "weights" in plain and "3/1000" in plain
    assert max(len(line) for line in re.split(r"[\r\n]", plain)) <= columns


@pytest.mark.parametrize(
    ("columns", "seen", "unseen"),
    [
        (40, ["training", "27/7500", "left"], ["steps/s", "…"]),
        (80, ["training", "27/7500 steps", "steps/s", "left", "total 1.235"], ["…", "image"]),
        (120, ["27/7500 steps", "left, total 1.235, text 0.42, image 0.1"], ["…"]),
    ],
)
def test_a_bar_leaves_out_what_matters_least(monkeypatch, columns, seen, unseen):
    screen = looked_at(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    bar = Bar()
    times = iter(range(1000, 100_000))
    bar._pace = Pace(lambda: next(times) / 2)
    for step in (1, 27):
        bar("training", step, 7500, "steps", "lr 0.001, total 1.235, text 0.42, image 0.1")
    bar.pause()
    plain = re.sub(ESCAPE + r"\[[0-9;?]*[a-zA-Z]", "", screen.written)
    line = [line for line in re.split(r"[\r\n]", plain) if "27/7500" in line][-1]
    assert all(part in line for part in seen), line
    assert not any(part in line for part in unseen), line
    assert line.count("━") + line.count("╸") + line.count("╺") >= 8
