"""`orthus reproduce`: a table end to end at toy size, going on after a stop, and wrong wishes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orthus_core.errors import OutputError
from orthus_core.events import StepDone
from orthus_core.reproduce.claims import needed_measures, reproductions
from orthus_core.reproduce.paper_arms import paper_arms
from orthus_core.reproduce.paper_run import run_arms


def test_a_table_is_trained_and_decided_and_a_stop_changes_nothing(orthus, tmp_path: Path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = ("reproduce", "table6", "--quick", "-o")
    done = orthus(*words, whole, "--format", "json")
    assert done.exit_code == 0, done.stderr
    page = Path(json.loads(done.stdout)["page"]).read_text()
    assert page.count("a rehearsal") >= 4 and "**reproduces**" not in page.split("## Table 1")[1]
    assert "over 1 seed and 6 pictures" in page
    assert "Table 5: Embedding" in page and "`orthus reproduce table5 -o runs/paper" in page
    kinds = [json.loads(line)["kind"] for line in (whole / "times.jsonl").open()]
    assert kinds == ["autoencoder", "pretrain", "convert", "finetune-vae", "recon", "recon"]

    # 1. A run with the same start is stopped in the decoder's first step, and goes on.
    for name in ("start", "start.training"):
        shutil.copytree(whole / name, stopped / name)
    start = (stopped / "start" / "config.json").stat().st_mtime_ns
    measures = needed_measures(reproductions("table6"))
    steps: list[StepDone] = []

    def after_a_step() -> bool:
        return bool(steps)

    for event in run_arms(
        stopped,
        paper_arms(measures, quick=True),
        measures,
        quick=True,
        resume=True,
        should_stop=after_a_step,
    ):
        steps += [event] if isinstance(event, StepDone) else []
    assert [step.step for step in steps] == [1]
    assert not (stopped / "results").exists() and not (stopped / "decoder" / "seed-0").exists()
    done = orthus(*words, stopped, "--resume", "auto")
    assert done.exit_code == 0 and "resuming after step 1 of 2" in done.stderr
    assert (stopped / "start" / "config.json").stat().st_mtime_ns == start, "it is kept"
    assert (stopped / "paper.md").read_text() == page

    # 2. Finished work is neither replaced nor done again.
    refused = orthus(*words, whole)
    assert refused.exit_code == 1 and "--resume auto" in refused.stderr
    again = orthus(*words, whole, "--resume", "auto")
    assert again.exit_code == 0 and "mini-recon" not in again.stderr
    assert (whole / "paper.md").read_text() == page

    # 3. Results of other recipes are told, not mixed with those of now.
    result = whole / "results" / "decoder" / "seed-0" / "recon" / "result.json"
    table = json.loads(result.read_text())
    result.write_text(json.dumps({**table, "run": {**table["run"], "recipes": "others"}}))
    refused = orthus(*words, whole, "--resume", "auto")
    assert refused.exit_code == 1 and "of other recipes" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tabel6",), "did you mean 'table6'"),
        (("paper/linaer",), "the arms are"),
        (("table6", "--seeds", "0"), "--seeds"),
        (("table6", "--page", "."), "folder"),
    ],
)
def test_a_wrong_wish_is_told_before_anything_begins(orthus, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = orthus("reproduce", *words, "--quick", "-o", "runs")
    assert done.exit_code in (1, 2) and said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_judge_that_is_not_installed_is_told_before_anything_is_trained(
    orthus, tmp_path, monkeypatch
):
    monkeypatch.setattr("orthus_core.evaluation.efficientnet.PACKAGE", "no_such_package")
    done = orthus("reproduce", "table3", "--quick", "-o", tmp_path / "runs")
    assert done.exit_code == 1 and "orthus-kit[features]" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_plan_tells_each_arms_time_and_state(orthus, tmp_path):
    (tmp_path / "linear" / "seed-0.training").mkdir(parents=True)
    (tmp_path / "times.jsonl").write_text('{"kind": "posttrain", "count": 10, "seconds": 100}\n')
    told = {}
    for folder in (tmp_path, tmp_path / "new"):
        words = ("reproduce", "embedding", "--dry-run", "-o", folder, "--format", "json")
        done = orthus(*words)
        assert done.exit_code == 0, done.stderr
        told[folder] = json.loads(done.stdout)
    own, measured = told.values()
    assert [row["arm"] for row in own["arms"]] == ["softmax", "argmin", "linear"]
    assert [row["state"] for row in own["arms"]] == ["", "", "begun"]
    assert own["arms"][2]["seconds"] > 3 * 800 * 10 > measured["arms"][2]["seconds"] > 60
    assert own["seconds"] == sum(row["seconds"] for row in own["arms"])


def test_what_is_there_is_not_taken_for_ones_own(tmp_path):
    (tmp_path / "softmax" / "base.training").mkdir(parents=True)
    measures = needed_measures(reproductions("table2"))
    events = run_arms(tmp_path, paper_arms(measures), measures)
    with pytest.raises(OutputError, match="the arm softmax"):
        next(events)
