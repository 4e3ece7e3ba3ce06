"""Every example of README.md runs, on the bundled model, offline."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from orthus_cli.app import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# What needs a download, or an hour.
ELSEWHERE = ("7b", "-m instruct", "orthus pretrain", "orthus convert runs", "--init-from")
ELSEWHERE += ("--toy", "--baseline")  # .ci/run rehearses it


def commands() -> list[str]:
    """The `orthus ...` lines of README's shell blocks, without their comments, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    lines = [line.split(" && ")[-1] for line in lines]
    return [
        line
        for line in lines
        if line.startswith("orthus ") and not any(word in line for word in ELSEWHERE)
    ]


def test_the_shell_examples_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = commands()
    assert {line.split()[1] for line in ran} >= {"generate", "caption", "edit", "story", "recipes"}
    for line in ran:
        result = CliRunner().invoke(app, shlex.split(line)[1:], prog_name="orthus")
        assert result.exit_code == 0, f"{line}\n{result.output}"
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (64, 64)
        assert "a snowman" in picture.text["orthus"]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4
    assert len(list((tmp_path / "story").glob("*.png"))) >= 3


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_python_examples_run(block, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "snowman.png").stat().st_size > 500


def test_every_page_it_links_to_is_there():
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / target).exists(), target
