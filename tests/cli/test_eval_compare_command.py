"""eval compare, run as a user runs it, on results of eval score."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def results(orthus, tmp_path):
    """Two results of GQA: the first has questions 1 to 4 right, the second 3 to 10."""
    types = {"structural": "query", "semantic": "obj", "detailed": ""}
    about = {"question": "What?", "imageId": "1", "isBalanced": True, "types": types}
    questions = {str(n): {**about, "answer": "dog"} for n in range(1, 11)}
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    for name, right in (("a", range(1, 5)), ("b", range(3, 11))):
        said = [
            {"questionId": k, "prediction": "dog" if int(k) in right else "cat"} for k in questions
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
        words = ["--predictions", tmp_path / f"{name}.json", "--data", tmp_path]
        done = orthus("eval", "score", "gqa", *words, "-o", tmp_path / name)
        assert done.exit_code == 0, done.stderr
    return tmp_path / "a", tmp_path / "b"


def test_two_results_of_eval_score_are_compared(orthus, results, tmp_path):
    done = orthus("eval", "compare", *results, "-o", tmp_path / "table.md")
    assert done.exit_code == 0, done.stderr
    assert "| accuracy | 40.00 | 80.00 | +40.00 |" in done.stdout
    assert (tmp_path / "table.md").read_text() == done.stdout
    told = json.loads(orthus("eval", "compare", *results, "--format", "json").stdout)
    accuracy = told["metrics"][0]
    assert accuracy["metric"] == "accuracy" and accuracy["pairs"] == 10
    # Question 1 and 2 are lost, 5 to 10 won: 2 (1 + 8 + 28) / 256.
    assert accuracy["p_value"] == pytest.approx(2 * 37 / 256)
    low, high = accuracy["interval"]
    assert low < 40 < high and accuracy["verdict"] == "cannot tell"
    assert {each["metric"] for each in told["metrics"]} >= {"open", "binary"}
    again = orthus("eval", "compare", *results, "-o", tmp_path / "table.md")
    assert again.exit_code == 1 and "--overwrite" in again.stderr


def test_results_of_other_rules_are_refused(orthus, results, tmp_path):
    words = ["--predictions", tmp_path / "b.json", "--data", tmp_path, "--variant", "strict"]
    assert orthus("eval", "score", "gqa", *words, "-o", tmp_path / "strict").exit_code == 0
    done = orthus("eval", "compare", results[0], tmp_path / "strict")
    assert done.exit_code == 1 and "different variants: llava and strict" in done.stderr
