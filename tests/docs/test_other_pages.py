"""The shell lines of pages whose examples need a 7B or minutes: each is spelt as the command line
knows it. README.md, docs/tour.md and docs/plugins.md are run by tests of their own.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orthus_cli.app import app

DOCS = Path(__file__).parents[2] / "docs"
RUN_ELSEWHERE = ("tour.md", "plugins.md", "extending.md")


def lines() -> list[str]:
    pages = [page for page in sorted(DOCS.glob("*.md")) if page.name not in RUN_ELSEWHERE]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"```(?:ba)?sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]
    every = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in every if line.startswith("orthus ")]


def parses(line: str) -> bool:
    """Whether every command and option of a line is known: with --help nothing is run."""
    words = [*shlex.split(line)[1:], "--help"]
    return CliRunner().invoke(app, words, prog_name="orthus").exit_code == 0


def test_there_are_such_lines():
    assert any("convert" in line for line in lines()) and any("eval" in line for line in lines())


@pytest.mark.parametrize("line", lines())
def test_the_command_line_knows_it(line):
    assert parses(line)


@pytest.mark.parametrize("line", ["orthus convrt x", "orthus eval mini --limits 20"])
def test_a_misspelt_line_is_seen(line):
    assert not parses(line)
