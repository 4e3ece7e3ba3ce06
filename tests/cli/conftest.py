"""What tests of the command line share: `orthus` itself, and plugins that seem installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from orthus_cli.app import app

Orthus = Callable[..., Result]
Stranger = Callable[..., None]


@pytest.fixture
def orthus() -> Orthus:
    """Runs `orthus WORDS...` in this process, with its output in a pipe."""
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")


@pytest.fixture
def model(tiny_folder: Path) -> list[str]:
    """Options that name a tiny random model."""
    return ["--model", str(tiny_folder), "--device", "cpu"]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A picture that is no square and not of the model's size."""
    path = tmp_path / "start.png"
    Image.linear_gradient("L").convert("RGB").resize((64, 48)).save(path)
    return path


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """Makes a distribution that registers one command, or data format, as pip would have left it
    on disk.
    """

    def install(
        command: str,
        code: str,
        target: str = "",
        distribution: str = "",
        group: str = "orthus.commands",
    ) -> None:
        distribution = distribution or f"orthus-{command}"
        module = distribution.replace("-", "_")
        site = tmp_path / f"site-{distribution}"
        about = site / f"{module}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (about / "entry_points.txt").write_text(
            f"[{group}]\n{command} = {module}:{target or command}\n"
        )
        (site / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install
