"""Dockerfile, read as docker would: what it copies is there, its versions are the tested ones."""

from __future__ import annotations

import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def instructions() -> list[list[tuple[str, str]]]:
    """Instruction and arguments of each line, by build stage."""
    joined = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    stages: list[list[tuple[str, str]]] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        stages += [[]] if word == "FROM" else []
        stages[-1].append((word, rest.strip()))
    return stages


def of(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def copied() -> list[str]:
    """The files and folders of the source tree that are copied, each to the same place."""
    sources = []
    for rest in (rest for stage in instructions() for rest in of(stage, "COPY")):
        if rest.startswith("--from="):
            continue
        *named, target = rest.split()
        assert target == "./" or named == [target]
        sources += named
    return sources


def test_what_is_copied_is_there_and_not_left_out_of_the_context():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    for source in copied():
        assert (ROOT / source).exists(), source
        fitting = [rule for rule in rules if fnmatch(source, rule.removeprefix("!"))]
        assert fitting and fitting[-1].startswith("!"), f".dockerignore leaves out {source}"


def test_everything_that_the_wheel_is_built_from_is_copied():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = about["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [
        "pyproject.toml",
        about["project"]["readme"],
        about["tool"]["hatch"]["version"]["path"],
    ]
    needed += [*wheel["packages"], *wheel["force-include"], *wheel["shared-data"]]
    needed += [name.split("/")[0] for name in about["project"]["license-files"]]
    for name in needed:
        assert any(name == each or name.startswith(f"{each}/") for each in copied()), name


def test_versions_are_the_tested_ones():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = re.search(r"Python (\d\.\d+)", lines[0])
    assert tested
    bases = [of(stage, "FROM")[0].split()[0] for stage in instructions()]
    assert {*bases} == {f"python:{tested[1]}-slim-bookworm"}
    runs = [run for stage in instructions() for run in of(stage, "RUN")]
    installs = [run for run in runs if "pip install" in run]
    assert installs and all("-c constraints.txt" in run for run in installs)
    pins = {each.name: each.specifier for line in lines[1:] for each in [Requirement(line)]}
    for name, version in re.findall(r"\b([\w-]+)==([\w.]+)", " ".join(installs)):
        assert pins[name].contains(version), name


def test_it_runs_orthus_and_not_as_root():
    stages = instructions()
    (user,) = of(stages[-1], "USER")
    assert user not in ("root", "0") and user in " ".join(of(stages[-1], "RUN"))
    words = [word for word, _ in stages[-1]]
    assert "RUN" not in words[words.index("USER") :], "what runs later would lack the rights"
    assert json.loads(of(stages[-1], "ENTRYPOINT")[0]) == ["orthus"]
    assert json.loads(of(stages[-1], "CMD")[0]) == ["--help"]
    assert "/orthus/bin:" in of(stages[-1], "ENV")[0]
