"""Two results side by side: differences and intervals by hand, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from orthus_core.errors import DataError
from orthus_core.evaluation.intervals import Interval, wilson
from orthus_core.evaluation.official.comparison import (
    BOOTSTRAP,
    NEWCOMBE,
    UNPAIRED,
    compare,
    comparison_markdown,
    read_result,
)
from orthus_core.evaluation.paired import (
    from_two_intervals,
    mcnemar,
    newcombe,
    paired_bootstrap,
)


def write(folder: Path, samples: list[dict[str, Any]] | None, **table: Any) -> Path:
    folder.mkdir(exist_ok=True)
    whole = {"task": "mmmu", "variant": "official", "data_hash": "1", "per_category": {}}
    (folder / "result.json").write_text(json.dumps({**whole, "intervals": {}, **table}))
    if samples is not None:
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / "samples.jsonl").write_text(lines)
    return folder


def answered(right: str) -> list[dict[str, Any]]:
    """A sample for each letter: `x` is right."""
    return [{"id": f"q{n}", "prompt": f"{n}?", "right": c == "x"} for n, c in enumerate(right)]


def mmmu(folder: Path, right: str, **more: Any) -> Path:
    return write(
        folder, answered(right), metrics={"overall": right.count("x") / len(right)}, **more
    )


def compared(a: Path, b: Path):
    found = compare(read_result(a), read_result(b))
    return found, {each.metric: each for each in found.metrics}


def test_newcombe_by_hand():
    # 10 pairs: both right 4, only A 1, only B 3, none 2. A 0.5, B 0.7; 4 x 2 - 1 x 3 = 5 = n / 2,
    # so no correlation is left and the reaches are those of independent shares.
    (low_a, high_a), (low_b, high_b) = wilson(5, 10), wilson(7, 10)
    low, high = newcombe(4, 1, 3, 2)
    assert low == pytest.approx(0.2 - math.hypot(0.7 - low_b, high_a - 0.5))
    assert high == pytest.approx(0.2 + math.hypot(high_b - 0.7, 0.5 - low_a))
    # 40, 10, 30, 20: phi = (800 - 300 - 50) / sqrt(50 x 50 x 70 x 30) = 0.19640.
    (low_a, high_a), (low_b, high_b) = wilson(50, 100), wilson(70, 100)
    low, high = newcombe(40, 10, 30, 20)
    phi = 450 / math.sqrt(50 * 50 * 70 * 30)
    down, up = 0.7 - low_b, high_a - 0.5
    assert low == pytest.approx(0.2 - math.sqrt(down**2 + up**2 - 2 * phi * down * up))
    assert 0 < low < 0.2 < high < 0.33
    assert newcombe(5, 0, 0, 5)[0] < 0 < newcombe(5, 0, 0, 5)[1]  # not empty where all agree
    assert newcombe(40, 30, 10, 20) == pytest.approx((-high, -low))


def test_mcnemar_by_hand():
    assert mcnemar(1, 5) == pytest.approx(2 * (1 + 6) / 64)
    assert mcnemar(0, 0) == 1 and mcnemar(3, 3) == 1
    assert mcnemar(0, 2000) < 1e-300 or mcnemar(0, 2000) == 0


def test_independent_intervals_by_hand():
    # 3-4-5 triangles on both sides.
    found = from_two_intervals(10, Interval(6, 14), 20, Interval(17, 23))
    assert found == (5, 15)


def test_the_paired_bootstrap_keeps_pairs_and_strata():
    def mean(drawn):
        means = [
            sum(value * n for value, n in counts.items()) / sum(counts.values())
            for counts in drawn.values()
        ]
        return sum(means) / len(means)

    # B is A + 1 in every unit: whatever is drawn, the difference is 1.
    pairs = {"s": {n: (n * n, n * n + 1) for n in range(20)}}
    assert paired_bootstrap(pairs, mean) == pytest.approx((1, 1))
    # Within strata all differences are equal, so strata that keep their sizes leave no doubt.
    strata = {"s": {n: (0, 1) for n in range(9)}, "t": {n: (0, 0) for n in range(3)}}
    assert paired_bootstrap(strata, mean) == pytest.approx((0.5, 0.5))


def test_shares_are_paired_by_id_in_any_order(tmp_path):
    a, b = mmmu(tmp_path / "a", "xxxxx....."), mmmu(tmp_path / "b", "xxxx.xxx..")
    lines = (b / "samples.jsonl").read_text().splitlines(keepends=True)
    (b / "samples.jsonl").write_text("".join(reversed(lines)))
    found, metrics = compared(a, b / "result.json")
    overall = metrics["overall"]
    assert (overall.a, overall.b, overall.difference) == pytest.approx((0.5, 0.7, 0.2))
    assert overall.interval == pytest.approx(newcombe(4, 1, 3, 2))
    assert (overall.method, overall.pairs, overall.unit) == (NEWCOMBE, 10, "questions")
    assert overall.p_value == pytest.approx(2 * (1 + 4) / 16)
    assert overall.verdict == "cannot tell" and not found.notes
    text = comparison_markdown(found)
    assert "| overall | 0.5000 | 0.7000 | +0.2000 |" in text and "Newcombe, paired, 10" in text


def test_a_clear_difference_is_told_and_its_direction(tmp_path):
    a, b = mmmu(tmp_path / "a", "x" * 30 + "." * 30), mmmu(tmp_path / "b", "x" * 50 + "." * 10)
    assert compared(a, b)[1]["overall"].verdict == "B higher"
    assert compared(b, a)[1]["overall"].verdict == "B lower"


def test_samples_that_only_one_has_are_left_out_and_said(tmp_path):
    a, b = mmmu(tmp_path / "a", "xx.."), mmmu(tmp_path / "b", "xx..xx")
    found, metrics = compared(a, b)
    assert (metrics["overall"].a, metrics["overall"].b, metrics["overall"].pairs) == (0.5, 0.5, 4)
    assert found.notes == ["2 samples that only one result has are left out"]


def test_pictures_of_mme_and_prompts_of_geneval_are_drawn_whole(tmp_path):
    def mme(folder, hits):
        samples = [
            {"id": f"count/{picture}.jpg/{2 * picture + n}", "prompt": "?", "right": n < hit}
            for picture, hit in enumerate(hits)
            for n in (0, 1)
        ]
        score = 50 * sum(hits) / len(hits) + 100 * hits.count(2) / len(hits)
        parts = {"count": {"score": score, "acc": 0.5}}
        metrics = {"perception": score, "cognition": None}
        return write(folder, samples, task="mme", metrics=metrics, per_category=parts)

    # In half of the pictures one answer of two became right: +25, and +50 for both right.
    found = compared(mme(tmp_path / "a", [1] * 8), mme(tmp_path / "b", [1, 2] * 4))[1]
    assert found["perception"].difference == pytest.approx(75)
    assert (found["count.score"].pairs, found["count.score"].unit) == (8, "pictures")
    # k of 8 pictures drawn with a gain give 150 k / 8; 2.5% of draws have k <= 1, or k >= 7.
    assert found["perception"].interval == pytest.approx((150 / 8, 150 * 7 / 8))
    assert found["perception"].method == BOOTSTRAP and found["count.acc"].interval is None

    def geneval(folder, rows):
        samples = [
            {"id": f"{folder.name}/{n}", "prompt": prompt, "tag": tag, "right": right}
            for n, (tag, prompt, right) in enumerate(rows)
        ]
        tags = {tag: [right for t, _, right in rows if t == tag] for tag, _, _ in rows}
        parts = {tag: sum(each) / len(each) for tag, each in tags.items()}
        metrics = {"overall": sum(parts.values()) / len(parts)}
        return write(folder, samples, task="geneval", metrics=metrics, per_category=parts)

    a = [("colors", "a", False)] * 4 + [("position", "b", False)] * 2
    b = [("colors", "a", True)] * 4 + [("position", "b", False)] * 2
    found = compared(geneval(tmp_path / "c", a), geneval(tmp_path / "d", b))[1]
    assert (found["overall"].difference, found["overall"].pairs) == (0.5, 2)
    assert (found["colors"].difference, found["colors"].unit) == (1, "prompts")


def test_pope_f1_comes_from_its_samples(tmp_path):
    def pope(folder, said):
        # Truth: yes, yes, yes, no in each split.
        samples = [
            {"id": f"{split}/{n}", "prompt": "?", "parsed": word, "gold": gold, "answer": word}
            for split in ("random", "popular")
            for n, (word, gold) in enumerate(zip(said, ("yes", "yes", "yes", "no"), strict=True))
        ]
        pairs = [(sample["parsed"], sample["gold"]) for sample in samples]
        hits = pairs.count(("yes", "yes"))
        f1 = 2 * hits / (2 * hits + sum(a != b for a, b in pairs)) if hits else 0
        return write(folder, samples, task="pope", metrics={"f1": round(f1, 6)})

    a, b = ["yes", "no", "no", "no"], ["yes", "yes", "no", "yes"]
    found = compared(pope(tmp_path / "a", a), pope(tmp_path / "b", b))[1]["f1"]
    # 2 / (2 + 2) and 4 / (4 + 2).
    assert found.difference == pytest.approx(4 / 6 - 2 / 4) and found.pairs == 8


def test_numbers_that_samples_do_not_give_are_not_paired(tmp_path):
    intervals = {"overall": [0.4, 0.6]}
    a = mmmu(tmp_path / "a", "xx..", intervals=intervals)
    wrong = json.loads((a / "result.json").read_text())
    b = write(tmp_path / "b", answered("xxx."), **{**wrong, "metrics": {"overall": 0.9}})
    found, metrics = compared(a, b)
    assert metrics["overall"].method == UNPAIRED and metrics["overall"].b == 0.9
    assert "0.9, but 0.75 by its samples" in found.notes[0]
    (b / "samples.jsonl").unlink()
    assert "no samples.jsonl beside it" in compared(a, b)[0].notes[0]
    fid = {"task": "fid", "metrics": {"fid": 10.0}}
    found, metrics = compared(*(write(tmp_path / name, None, **fid) for name in "cd"))
    assert metrics["fid"].interval is None and metrics["fid"].verdict == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "gqa"}, "different benchmarks: mmmu and gqa"),
        ({"variant": "lmms"}, "different variants: official and lmms"),
        ({"data_hash": "2"}, "different data"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(tmp_path, change, message):
    a, b = mmmu(tmp_path / "a", "xx.."), mmmu(tmp_path / "b", "xx..", **change)
    with pytest.raises(DataError, match=message):
        compared(a, b)


def test_other_questions_and_files_that_are_no_results_are_refused(tmp_path):
    a, b = mmmu(tmp_path / "a", "xx.."), mmmu(tmp_path / "b", "xx..")
    samples = (b / "samples.jsonl").read_text()
    (b / "samples.jsonl").write_text(samples.replace("1?", "one?"))
    with pytest.raises(DataError, match="sample q1 asks something else"):
        compared(a, b)
    (b / "samples.jsonl").write_text(samples.replace('"right"', '"correct"'))
    with pytest.raises(DataError, match="samples of another layout"):
        compared(a, b)
    (b / "result.json").write_text("{}")
    with pytest.raises(DataError, match="no result of an evaluation"):
        read_result(b)
    with pytest.raises(DataError, match="no such file"):
        read_result(tmp_path / "c")


def test_results_of_the_small_world_are_paired_by_their_order(tmp_path):
    def mini(folder, right, seed=1, **run):
        rows = [*zip(("count", "count", "color"), right, strict=True)]
        samples = [
            {"task": "mini-vqa", "part": part, "question": f"{n}?", "right": is_right}
            for n, (part, is_right) in enumerate(rows)
        ]
        parts = {"count": sum(right[:2]) / 2, "color": float(right[2])}
        mean = sum(parts.values()) / 2
        values = {"overall": mean, "accuracy": mean, **parts}
        scores = [{"name": k, "value": v, "interval": [0, 1]} for k, v in values.items()]
        folder = write(folder, samples)
        table = {"benchmark": "mini", "run": {"seed": seed, **run}, "tasks": {"mini-vqa": scores}}
        (folder / "result.json").write_text(json.dumps(table))
        return folder

    a = mini(tmp_path / "a", [True, False, False])
    found = compared(a, mini(tmp_path / "b", [True, True, True]))[1]
    assert found["mini-vqa.overall"].difference == pytest.approx(0.75)
    assert found["mini-vqa.count"].method == NEWCOMBE
    assert found["mini-vqa.accuracy"].method == BOOTSTRAP
    with pytest.raises(DataError, match="--seed 1 and 2"):
        compared(a, mini(tmp_path / "c", [True] * 3, seed=2))
    # Results of earlier versions do not name their wordings, which were the trained ones.
    assert compared(a, mini(tmp_path / "d", [True] * 3, wordings="trained"))[1]
    with pytest.raises(DataError, match="--wordings trained and held-out"):
        compared(a, mini(tmp_path / "e", [True] * 3, wordings="held-out"))
