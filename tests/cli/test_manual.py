"""The manual page: made from the commands, current, and valid roff."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orthus_cli.manual import manual, text
from orthus_cli.plugins import discover

PAGE = Path(__file__).parents[2] / "docs" / "orthus.1"
MACROS = {"TH", "SH", "SS", "TP", "PP", "B", "I"}


def test_the_page_is_that_of_the_commands():
    assert PAGE.read_text() == manual(), "python -m orthus_cli.manual > docs/orthus.1"


def test_every_command_and_option_of_ours_is_in_it(stranger):
    stranger("hello", 'def hello():\n    """Greet the world."""\n')
    page = manual()
    assert "hello" not in re.findall(r'^\.SS "orthus (.+)"$', page, re.M)
    sections = dict(re.findall(r'^\.SS "(.+?)"\n(.*?)(?=^\.S[SH] |\Z)', page, re.M | re.S))
    left = {f"orthus {name}": found.command for name, found in discover().items() if found.is_ours}
    assert len(left) > 15
    while left:
        name, command = left.popitem()
        left |= {
            f"{name} {inner}": each for inner, each in getattr(command, "commands", {}).items()
        }
        for option in command.params:
            if not option.hidden and option.opts[0].startswith("-") and option.name != "help":
                terms = " ".join(re.findall(r"^\.TP\n\.B (.+)$", sections[text(name)], re.M))
                assert all(text(word) in terms for word in option.opts), (name, option.opts)


def test_every_line_is_text_or_a_known_macro():
    lines = manual().splitlines()
    for line in lines:
        assert not line.startswith("'") and line.isascii()
        if line.startswith("."):
            assert re.match(r"\.(\\\"|[A-Z]+\b)", line) and (
                line.startswith('.\\"') or line[1:3].strip() in MACROS
            ), line
    assert lines[1].startswith(".TH ORTHUS 1 ")
    # A term, and what it means, follow each .TP.
    for number, line in enumerate(lines):
        if line == ".TP":
            assert lines[number + 1].startswith(".B ") and not lines[number + 2].startswith(".")
    assert text("a\\b -o 'x' ☃") == "a\\eb \\-o 'x' \\[u2603]"
    assert text(".png") == "\\&.png" and text("'a'") == "\\&'a'"


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_sets_the_page_without_a_warning():
    words = ["groff", "-man", "-Tutf8", "-ww", "-rF0", "-P-cbou"]
    done = subprocess.run(words, input=manual(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr
    shown = " ".join(done.stdout.split())
    assert "--best-of N" in shown and "-o, --output PATH" in shown
    assert "orthus recipes cat" in shown
