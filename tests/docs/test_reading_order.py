"""README's "Read the code" names what is there and forgets nothing, and the path to the first image
stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "orthus_core"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Read the code\n")[2].partition("\n## ")[0]
ORDER: list[tuple[str, str]] = re.findall(r"^- `([\w/]+\.py)`: (.+)$", SECTION, re.MULTILINE)

# Everything that one has to read to know how an image comes out of a prompt.
PLAIN_PATH = [
    "samplers/reference.py",
    "model/orthus.py",
    "model/interleaved.py",
    "model/soft_embedding.py",
    "model/diffusion_head.py",
    "model/schedule.py",
    "model/vision.py",
    "model/decoder.py",
]
LONGEST_PLAIN_PATH = 1050


def path_of(name: str) -> Path:
    return ROOT / name if name.startswith("orthus_cli/") else CORE / name


def test_the_reading_begins_with_the_plain_path():
    assert [name for name, _ in ORDER][: len(PLAIN_PATH)] == PLAIN_PATH


def test_the_plain_path_is_read_in_an_hour():
    lines = sum(len((CORE / name).read_text("utf-8").splitlines()) for name in PLAIN_PATH)
    assert lines <= LONGEST_PLAIN_PATH


def test_the_plain_path_needs_no_other_file_of_the_engine():
    reference = (CORE / PLAIN_PATH[0]).read_text("utf-8")
    used = set(re.findall(r"^from orthus_core\.(\S+)", reference, re.MULTILINE))
    assert used <= {"model.config"} | {
        name.removesuffix(".py").replace("/", ".") for name in PLAIN_PATH
    }


@pytest.mark.parametrize("name", re.findall(r"`([\w/]+\.py)`", SECTION))
def test_every_file_that_it_names_is_there(name):
    assert path_of(name).is_file()


@pytest.mark.parametrize("package", ["samplers", "model", "api"])
def test_no_file_of_drawing_is_missing_and_none_is_named_twice(package):
    named = [name for name, _ in ORDER if name.startswith(f"{package}/")]
    there = {path.relative_to(CORE).as_posix() for path in (CORE / package).glob("*.py")}
    assert sorted(named) == sorted(there - {f"{package}/__init__.py"})


def test_the_tree_shows_every_package():
    tree = README.partition("```\northus_cli/")[2].partition("```")[0]
    shown = set(re.findall(r"^  (\w+)/ +\S", tree, re.MULTILINE))
    packages = {path.name for path in CORE.iterdir() if path.is_dir()}
    assert shown == packages - {"__pycache__"}
    top = set(re.findall(r"^(\w+)/ +\S", tree, re.MULTILINE))
    assert top and all((ROOT / name).is_dir() for name in top)
