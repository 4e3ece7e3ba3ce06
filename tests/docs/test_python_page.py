"""The examples of docs/python.md and the cells of docs/tour.ipynb run one after another, with a toy
in the place of `mini`.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from orthus_core.checkpoint import hub

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = json.loads((DOCS / "tour.ipynb").read_text("utf-8"))


@pytest.fixture
def toy_as_mini(tiny_folder, tmp_path, monkeypatch) -> None:
    starter = tmp_path / "starter"
    starter.mkdir()
    (starter / "mini").symlink_to(tiny_folder)
    monkeypatch.setattr(hub, "_STARTER", starter)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def run(sources: list[str]) -> list[Any]:
    """Runs pieces of one program; returns the value of each one's last line, if that has one."""
    scope: dict[str, Any] = {}
    values = []
    for source in sources:
        body = ast.parse(source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "example", "exec"), scope)
        if isinstance(last, ast.Expr):
            values.append(eval(compile(ast.Expression(last.value), "example", "eval"), scope))
    return values


def test_every_example_of_the_page_runs(toy_as_mini):
    examples = re.findall(
        r"```python\n(.*?)```", (DOCS / "python.md").read_text("utf-8"), re.DOTALL
    )
    assert len(examples) == 9
    run(examples)
    assert Path("snowman.png").is_file() and Path("drawn.png").is_file()


def test_the_notebook_runs_and_shows_what_it_made(toy_as_mini):
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    values = run(["".join(cell["source"]) for cell in cells])
    shown = [cell["outputs"][0]["data"] for cell in cells if cell["outputs"]]
    assert len(values) == len(shown) and values[-1] is True
    for value, stored in zip(values, shown, strict=True):
        has_html = hasattr(value, "_repr_html_")
        assert has_html == ("text/html" in stored)
        if has_html:
            pictures = "".join(stored["text/html"]).count("<img")
            assert value._repr_html_().count("<img") == pictures > 0
    assert NOTEBOOK["nbformat"] == 4 and all("id" in cell for cell in NOTEBOOK["cells"])
