"""benchmarks/card.py runs to its end at toy size, and a part that hangs or fails costs no other."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "card.py"


@pytest.fixture(scope="module")
def card():
    spec = importlib.util.spec_from_file_location("card", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = [*sys.path]
    sys.modules["card"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path[:] = path


def run(card, monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["card.py", *map(str, words)])
    card.main()


def test_a_part_that_hangs_or_fails_costs_no_other(card, monkeypatch, tmp_path):
    def hangs(asked):
        yield card.Finding("before", "1")
        time.sleep(60)

    def fails(asked):
        yield card.Finding("half", "2", "right")
        raise ValueError("no such thing")

    parts = {"hangs": hangs, "fails": fails, "works": lambda asked: iter([card.Finding("it", "3")])}
    monkeypatch.setattr(card, "PARTS", {n: card.Part(run, 1.0) for n, run in parts.items()})
    began = time.monotonic()
    run(card, monkeypatch, "-o", tmp_path / "out", "--minutes", "0.05")
    assert time.monotonic() - began < 20
    table = (tmp_path / "out" / "card.md").read_text()
    assert "| **hangs** | ended at its limit" in table and "| | before | 1 |  |" in table
    assert "| **fails** | failed" in table and "ValueError: no such thing" in table
    assert "| **works** | done in" in table and "| | it | 3 |  |" in table


@pytest.mark.slow
def test_it_runs_to_its_end_at_toy_size(card, monkeypatch, tmp_path):
    run(card, monkeypatch, "-o", tmp_path / "out", "--toy", "--minutes", "6")
    table = (tmp_path / "out" / "card.md").read_text()
    for name in card.PARTS:
        assert f"| **{name}** | done in" in table, table
    assert "| wrong |" not in table and "| failed |" not in table
