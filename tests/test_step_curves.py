"""benchmarks/step_curves.py draws, judges and times each number of steps as it says."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from benchmarks import step_curves
from benchmarks.step_curves import Row, rows_of, scores_of, table_of
from orthus_core import Orthus
from orthus_core.evaluation.intervals import Interval
from orthus_core.events import Progress
from orthus_core.world.benchmark.context import TaskResult
from orthus_core.world.benchmark.scores import Score


@pytest.fixture(scope="module")
def orthus() -> Orthus:
    return Orthus.open("mini", device="cpu", dtype="fp32")


def stored(monkeypatch, time_grids: dict) -> None:
    """A model with these time grids."""
    model = SimpleNamespace(config=SimpleNamespace(sampling={"time_grids": time_grids}))
    monkeypatch.setattr(step_curves, "open_model", lambda *_, **__: SimpleNamespace(model=model))
    monkeypatch.setattr(step_curves, "find_time_grids", None)  # none has to be found


def test_seconds_alone_go_to_the_page_and_a_file(tmp_path):
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text("before\n<!-- bench: steps mini cpu -->\nold\n<!-- /bench -->\nafter\n")
    words = "--steps 1,2 --ways ddim,flow-map --batch 1 --repeats 1 --write --tasks".split()
    step_curves.main([*words, "", "--page", str(page), "--json", str(figures)])
    found = json.loads(figures.read_text())
    assert [(row["solver"], row["steps"]) for row in found] == [
        *(("ddim", 1), ("ddim", 2)),  # mini has no flow map head
    ]
    assert all(row["seconds"]["1"] > 0 and row["scores"] == {} for row in found)
    text = page.read_text()
    assert "old" not in text and text.endswith("<!-- /bench -->\nafter\n")
    assert text.count("| ddim | own |") == 2 and "| ddim | own | 2 |" in text


def test_each_way_is_drawn_with_its_own_steps_and_times(monkeypatch, orthus):
    stored(monkeypatch, {"ddim": {"times": {"1": [999], "2": [999, 300]}}})
    ways = ["ddim", "ddim grid", "flow-map"]
    rows = [*rows_of(ways, [2, 100], "a model", has_student=True)]
    assert rows == [
        *(Row("ddim", 2), Row("ddim", 100), Row("ddim", 2, (999, 300))),  # 100 has no grid
        *(Row("flow-map", 2, is_student=True), Row("flow-map", 100, is_student=True)),
    ]
    drawn = []

    def judged(context, tasks):
        params = context.subject.sampling()
        drawn.append((params.scheduler, params.steps, params.last_steps, params.time_grid))
        score = Score("two_object", params.steps / 200, 9, Interval(0.0, 1.0))
        yield Progress("judging", 1, 1, "pictures")
        yield TaskResult("mini-geneval", [score, score._replace(name="colors")], [], [])

    monkeypatch.setattr(step_curves, "evaluate", judged)
    monkeypatch.setattr(
        step_curves, "EvalContext", lambda subject, limit: SimpleNamespace(subject=subject)
    )
    scores = [scores_of(row, orthus, ["geneval"], 9) for row in rows[:3]]
    assert drawn == [
        *(("ddim", 2, None, None), ("ddim", 100, None, None), ("ddim", 2, None, (999, 300))),
    ]
    taken = [{1: 0.5}, {1: 2.0}, {1: 0.4}]
    table = table_of(rows[:3], scores, taken, [1], 9)
    assert table.columns[3:] == ("mini-geneval two_object", "s a picture, 1 at once", "faster")
    assert table.rows == [
        ("ddim", "own", "2", "0.01 [0.00, 1.00]", "0.5", "4.0x"),
        ("ddim", "own", "100", "0.50 [0.00, 1.00]", "2", "1.0x"),
        ("ddim", "grid", "2", "0.01 [0.00, 1.00]", "0.4", "5.0x"),
    ]


def test_what_there_is_not_says_so(orthus):
    with pytest.raises(SystemExit, match="no way 'heun'"):
        list(rows_of(["heun"], [1], "mini", has_student=False))
    with pytest.raises(SystemExit, match="mini has no flow map head"):
        step_curves.student_of(orthus, "mini")
