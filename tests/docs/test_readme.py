"""Every example of README.md runs, on the bundled model, offline."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.cache_folder import VARIABLE
from orthus_core.checkpoint import hub
from orthus_core.checkpoint.headers import CONFIG
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import read_config

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# What needs a download, or an hour.
ELSEWHERE = ("7b", "-m instruct", "orthus pretrain", "orthus convert runs", "--init-from")
ELSEWHERE += ("--toy", "--baseline")  # .ci/run rehearses it
FEW_STEPS = 5


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


@pytest.fixture
def quick_mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled models, of which `mini` takes few steps unless an example asks for others: it
    draws some twenty pictures.
    """
    folder = tmp_path / "starter"
    (folder / "mini").mkdir(parents=True)
    for name in ("chameleon-mini", "mini-fast"):
        (folder / name).symlink_to(hub._STARTER / name)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    for file in resolve("mini").iterdir():
        if file.name != CONFIG:
            (folder / "mini" / file.name).symlink_to(file)
    table = json.loads((resolve("mini") / CONFIG).read_text("utf-8"))
    table["sampling"]["steps"] = FEW_STEPS
    (folder / "mini" / CONFIG).write_text(json.dumps(table), encoding="utf-8")
    monkeypatch.setattr(hub, "_STARTER", folder)


def test_the_shell_examples_run_in_their_order(quick_mini, tmp_path, monkeypatch):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    ran = commands()
    assert {line.split()[1] for line in ran} >= {"generate", "caption", "edit", "story", "recipes"}
    for line in ran:
        result = CliRunner().invoke(app, shlex.split(line)[1:], prog_name="orthus")
        assert result.exit_code == 0, f"{line}\n{result.output}"
    side = read_config(resolve("mini")).vq_config.resolution
    with Image.open(place / "out.png") as picture:
        assert picture.size == (side, side)
        assert "a snowman" in picture.text["orthus"]
    assert json.loads(picture.text["orthus"])["sampling"]["steps"] == FEW_STEPS
    assert len(list((place / "pictures").glob("*.png"))) == 4
    assert len(list((place / "story").glob("*.png"))) >= 3


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
