"""The plugin on docs/plugins.md, taken from the page, installed by pip, and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
FILES: dict[str, str] = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```", PAGE, re.M | re.S))
SESSION = re.search(r"^```console\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the page's plugin into, with no network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (source / name).write_text(text)
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)],
        check=True,
        capture_output=True,
    )
    return target


def run(site: Path, command: str) -> str:
    """What a command of the page prints; `orthus` is this source tree's."""
    name, *words = command.split()
    assert name == "orthus"
    return subprocess.run(
        [sys.executable, "-m", "orthus_cli", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_plugin_is_fifteen_lines() -> None:
    lines = [line for text in FILES.values() for line in text.splitlines() if line]
    assert set(FILES) == {"pyproject.toml", "orthus_hello.py"}
    assert len(lines) <= 15


def test_the_session_on_the_page_is_what_happens(site: Path) -> None:
    assert SESSION
    _, *turns = SESSION[1].split("$ ")[1:]  # the first command is `pip install .`
    assert len(turns) == 2
    for turn in turns:
        command, _, printed = turn.partition("\n")
        assert run(site, command) == printed


def test_help_and_list_show_the_plugin(site: Path) -> None:
    assert "Greet someone." in run(site, "orthus --help")
    assert "hello\torthus-hello\t0.1\torthus_hello:hello\t" in run(site, "orthus plugins")
