"""What an installation holds, and what README.md, .ci/run and the lists of versions agree on."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from orthus_core.recipe.shelf import shelved
from orthus_core.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("orthus_kit-*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module(wheel: set[str]) -> None:
    for package in ("orthus_cli", "orthus_core"):
        for suffix in ("py", "c"):  # C is compiled where it is installed
            for path in (ROOT / package).rglob(f"*.{suffix}"):
                assert path.relative_to(ROOT).as_posix() in wheel


def test_the_wheel_holds_every_recipe(wheel: set[str]) -> None:
    ours = {f"orthus_core/recipe/shipped/{name}.toml" for name in shelved()}
    assert ours and ours <= wheel


def test_the_wheel_holds_the_starter_files(wheel: set[str]) -> None:
    starter = [path for path in (ROOT / "orthus_core" / "starter").rglob("*") if path.is_file()]
    named = {
        path.relative_to(ROOT).as_posix() for path in starter if "__pycache__" not in path.parts
    }
    assert named and named <= wheel


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel} == {
        "orthus_cli",
        "orthus_core",
        f"orthus_kit-{__version__}.dist-info",
        f"orthus_kit-{__version__}.data",
    }
    shared = [name for name in wheel if ".data/" in name]
    assert shared == [f"orthus_kit-{__version__}.data/data/share/man/man1/orthus.1"]


def test_the_installed_entry_points_are_the_ones_declared(project: dict) -> None:
    installed = {
        entry.name: entry.value
        for entry in entry_points(group="orthus.commands")
        if entry.dist and entry.dist.name == "orthus-kit"
    }
    assert installed == project["entry-points"]["orthus.commands"], "install the package again"


def test_every_dependency_is_pinned_within_its_range(project: dict) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate():
            assert versions[requirement.name] in requirement.specifier, requirement.name


def test_constraints_name_versions_and_nothing_else() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(
            r'[a-z0-9-]+==[\w.]+(; python_version >= "3\.\d+")?', line
        )


def test_ci_runs_the_line_that_the_readme_tells_people_to_copy() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    (line,) = [line for line in readme if "'.[test]'" in line]
    make, enter, install, run = line.split(" && ")
    assert make == "python3 -m venv .venv" and enter == ". .venv/bin/activate"
    assert install == "pip install -c constraints.txt '.[test]'" and run == "python -m pytest"
    ci = (ROOT / ".ci" / "run").read_text()
    assert """grep -m 1 -F "'.[test]'" README.md""" in ci
    assert all(
        f'step "{check}"' in ci for check in ("ruff check", "ruff format --check", "pyright")
    )


def test_the_readme_begins_with_a_line_that_draws_a_snowman() -> None:
    readme = (ROOT / "README.md").read_text()
    line = 'pip install -c constraints.txt . && orthus generate "a snowman" -o out.png\n'
    assert line in readme


def test_the_citation_is_of_this_version() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
