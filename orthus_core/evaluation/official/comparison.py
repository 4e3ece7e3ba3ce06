"""Two results of one benchmark side by side: each number's difference with its 95% interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation.intervals import Interval
from orthus_core.evaluation.official.read_files import read_json, read_json_lines
from orthus_core.evaluation.official.sampled_figures import SampledFigure, sampled_figures
from orthus_core.evaluation.official.score_report import RESULT, SAMPLES
from orthus_core.evaluation.paired import (
    from_two_intervals,
    mcnemar,
    newcombe,
    one_side,
    paired_bootstrap,
)

LAYOUT = f"a folder of an `orthus eval` command with its {RESULT}, or that file"
NEWCOMBE = "Newcombe, paired"
BOOTSTRAP = "paired bootstrap"
UNPAIRED = "from both intervals, unpaired"
# Settings of `orthus eval mini` that decide what is asked, and what they were before results had
# them.
MINI_SETTINGS = {"seed": None, "limit": None, "wordings": "trained"}
# Fields of samples that say what was asked.
ASKED = ("prompt", "question", "gold", "truth", "opening", "instruction", "include")


class EvalResult(NamedTuple):
    """A result.json, and the samples beside it.

    Attributes:
        path: The file.
        task, variant: The benchmark, and the program whose rule counted.
        data_hash: Of the benchmark's files; empty where the result has none.
        table: The whole content.
        values, intervals: Its numbers, and their 95% intervals, by name.
        samples: Records of samples.jsonl; none where that file is missing.
    """

    path: Path
    task: str
    variant: str
    data_hash: str
    table: Mapping[str, Any]
    values: dict[str, float]
    intervals: dict[str, Interval]
    samples: list[dict[str, Any]]


class ComparedMetric(NamedTuple):
    """A number of two results.

    Attributes:
        metric: Its name.
        a, b: The values; over common samples, where it is compared in pairs.
        difference: B minus A.
        interval: 95% interval of the difference; None where the results do not give one.
        method: How the interval was made.
        pairs: Number of units that were compared in pairs.
        unit: What they are.
        p_value: McNemar's, for shares of samples that are right; else None.
    """

    metric: str
    a: float
    b: float
    difference: float
    interval: Interval | None = None
    method: str = ""
    pairs: int = 0
    unit: str = ""
    p_value: float | None = None

    @property
    def verdict(self) -> str:
        """ "B higher", "B lower", or "cannot tell"; empty without an interval."""
        if self.interval is None:
            return ""
        if self.interval.low > 0:
            return "B higher"
        return "B lower" if self.interval.high < 0 else "cannot tell"


class Comparison(NamedTuple):
    """Two results of one benchmark.

    Attributes:
        a, b: The results.
        metrics: Each number that both have.
        notes: What a reader of the differences has to know.
    """

    a: EvalResult
    b: EvalResult
    metrics: list[ComparedMetric]
    notes: list[str]


def read_result(place: Path) -> EvalResult:
    """Reads a result and its samples.

    Raises:
        DataError: When it is missing, or no result of an `orthus eval` command.
    """
    path = place / RESULT if place.is_dir() else place
    table = read_json(path, dict, LAYOUT)
    task = table.get("task", table.get("benchmark"))
    if not isinstance(task, str) or not isinstance(table.get("metrics", table.get("tasks")), dict):
        raise DataError("no result of an evaluation", where=str(path), hint=f"expected: {LAYOUT}")
    values, intervals = _mini_numbers(table) if task == "mini" else _numbers(table)
    beside = path.with_name(SAMPLES)
    samples = read_json_lines(beside, SAMPLES) if path.name == RESULT and beside.is_file() else []
    return EvalResult(
        path,
        task,
        str(table.get("variant", "")),
        str(table.get("data_hash") or ""),
        table,
        values,
        intervals,
        samples,
    )


def compare(a: EvalResult, b: EvalResult) -> Comparison:
    """The differences of two results, B minus A.

    Raises:
        DataError: When they are of different benchmarks, variants, data, settings or questions.
    """
    _check_comparable(a, b)
    notes: list[str] = []
    figures_a, figures_b = ({}, {})
    for one in (a, b):
        if not one.samples:
            notes.append(f"{one.path} has no {SAMPLES} beside it, so nothing is compared in pairs")
    if a.samples and b.samples:
        _check_same_questions(a, b)
        figures_a, figures_b = _figures(a, notes), _figures(b, notes)
    hashes = [
        [each.table.get(name) for name in ("predictions_hash", "answers_hash")] for each in (a, b)
    ]
    if hashes[0][0] and hashes[0] == hashes[1]:
        notes.append("both results are of the same predictions")
    if not a.data_hash and not b.data_hash and a.task != "mini":
        notes.append("neither result names its data: only what the samples ask was compared")
    metrics = []
    left_out = 0
    for name in a.values:
        if name not in b.values:
            continue
        if name in figures_a and name in figures_b:
            found, apart = _in_pairs(name, figures_a[name], figures_b[name])
            left_out = max(left_out, apart)
            if found is not None:
                metrics.append(found)
                continue
        metrics.append(_from_intervals(name, a, b))
    if left_out:
        notes.append(f"{left_out} samples that only one result has are left out")
    return Comparison(a, b, metrics, [*dict.fromkeys(notes)])


def comparison_table(found: Comparison) -> dict[str, Any]:
    """The comparison as a JSON object."""
    return {
        "task": found.a.task,
        "variant": found.a.variant,
        "a": str(found.a.path),
        "b": str(found.b.path),
        "metrics": [
            {
                **each._asdict(),
                "interval": None if each.interval is None else [*each.interval],
                "verdict": each.verdict,
            }
            for each in found.metrics
        ],
        "notes": found.notes,
    }


def comparison_markdown(found: Comparison) -> str:
    """The comparison as a table in Markdown."""
    title = " ".join(filter(None, [found.a.task, f"({found.a.variant})" * bool(found.a.variant)]))
    lines = [
        f"## {title}",
        "",
        f"- A: `{found.a.path}`",
        f"- B: `{found.b.path}`",
        "",
        "| | A | B | B - A | 95% | p | verdict | interval |",
        "|---|---:|---:|---:|---|---:|---|---|",
    ]
    for each in found.metrics:
        bounds = "" if each.interval is None else " to ".join(map(_signed, each.interval))
        method = f"{each.method}, {each.pairs} {each.unit}" if each.pairs else each.method
        p = "" if each.p_value is None else f"{each.p_value:.2g}"
        cells = [each.metric, _plain(each.a), _plain(each.b), _signed(each.difference), bounds, p]
        lines.append(markdown_row([*cells, each.verdict, method]))
    lines += ["", "B - A: the value of B minus that of A. p: McNemar's exact test."]
    lines += [f"\nNote: {note}." for note in found.notes]
    return "\n".join(lines)


def _check_comparable(a: EvalResult, b: EvalResult) -> None:
    where = f"{a.path}, {b.path}"
    if a.task != b.task:
        raise DataError(
            f"the results are of different benchmarks: {a.task} and {b.task}",
            where=where,
            hint="give two results of one benchmark",
        )
    if a.variant != b.variant:
        raise DataError(
            f"the results are of different variants: {a.variant} and {b.variant}",
            where=where,
            hint="programs that measure differently cannot be compared: score both with the same "
            "--variant",
        )
    if a.data_hash != b.data_hash:
        raise DataError(
            "the results are of different data: their data_hash differs",
            where=where,
            hint="score both with the same --data",
        )
    ours, theirs = (each.table.get("settings", {}) for each in (a, b))
    differing = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    if differing:
        name = differing[0]
        raise DataError(
            f"the results were measured differently: {name} {ours[name]} and {theirs[name]}",
            where=where,
            hint="score both by the same program with the same weights",
        )
    for name, before in MINI_SETTINGS.items():
        settings = [each.table.get("run", {}).get(name, before) for each in (a, b)]
        if settings[0] != settings[1]:
            raise DataError(
                f"the results are of different questions: --{name} {settings[0]} and {settings[1]}",
                where=where,
                hint=f"run both with the same --{name}",
            )


def _check_same_questions(a: EvalResult, b: EvalResult) -> None:
    """Check that samples with the same id ask the same."""
    theirs = _samples_by_key(b)
    for key, sample in _samples_by_key(a).items():
        other = theirs.get(key, {})
        for field in ASKED:
            if field in sample and field in other and not _same(sample[field], other[field]):
                raise DataError(
                    f"sample {key[-1]} asks something else in the other result: {sample[field]!r} "
                    f"and {other[field]!r}",
                    where=f"{a.path}, {b.path}",
                    hint="these are results of different questions: score both with the same data",
                )


def _same(one: Any, other: Any) -> bool:
    # A file of results may lack the texts of its questions, and scoring without --data then has "".
    return one == other or "" in (one, other)


def _samples_by_key(result: EvalResult) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Samples by id; those of `mini` have none, and are in the order in which they were asked."""
    seen: Counter[Any] = Counter()
    found = {}
    for sample in result.samples:
        part = sample.get("task", "")
        seen[part] += 1
        found[part, sample.get("id", seen[part])] = sample
    return found


def _figures(result: EvalResult, notes: list[str]) -> dict[str, SampledFigure]:
    """The numbers that the samples give; not those which the result has otherwise."""
    try:
        found = sampled_figures(result.task, result.variant, result.samples)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"samples of another layout: {error!r}",
            where=str(result.path.with_name(SAMPLES)),
            hint="score the predictions again",
        ) from error
    right = {}
    for name, each in found.items():
        if name not in result.values:
            continue
        value = float(each.figure(_counts(each)))
        # VQAv2 is rounded to two digits, everything else to six.
        near = 0.0051 if result.task == "vqav2" else 2e-6 * max(1.0, abs(value))
        if math.isclose(value, result.values[name], rel_tol=0, abs_tol=near):
            right[name] = each
        else:
            notes.append(
                f"{name} of {result.path} is {result.values[name]:.6g}, but {value:.6g} by its "
                "samples, so it is not compared in pairs"
            )
    return right


def _counts(figure: SampledFigure) -> dict[str, Counter[Any]]:
    return {stratum: Counter(units.values()) for stratum, units in figure.units.items()}


def _in_pairs(name: str, a: SampledFigure, b: SampledFigure) -> tuple[ComparedMetric | None, int]:
    """The comparison over units that both have, and the number of others."""
    pairs: dict[str, dict[Any, tuple[Any, Any]]] = {}
    every = {
        (stratum, key) for each in (a, b) for stratum in each.units for key in each.units[stratum]
    }
    for stratum, mine in a.units.items():
        theirs = b.units.get(stratum, {})
        common = {key: (outcome, theirs[key]) for key, outcome in mine.items() if key in theirs}
        if common:
            pairs[stratum] = common
    n = sum(map(len, pairs.values()))
    if not n:
        return None, len(every)
    counts = {stratum: Counter(each.values()) for stratum, each in pairs.items()}
    value_a, value_b = (float(a.figure(one_side(counts, side))) for side in (0, 1))
    p_value = None
    if a.scale:
        (outcomes,) = counts.values()
        only_a, only_b = outcomes[True, False], outcomes[False, True]
        low, high = newcombe(outcomes[True, True], only_a, only_b, outcomes[False, False])
        interval, method = Interval(a.scale * low, a.scale * high), NEWCOMBE
        p_value = mcnemar(only_a, only_b)
    else:
        interval, method = paired_bootstrap(pairs, a.figure), BOOTSTRAP
        interval = Interval(*map(float, interval))
    found = ComparedMetric(
        name, value_a, value_b, value_b - value_a, interval, method, n, a.unit, p_value
    )
    return found, len(every) - n


def _from_intervals(name: str, a: EvalResult, b: EvalResult) -> ComparedMetric:
    values = a.values[name], b.values[name]
    found = ComparedMetric(name, *values, values[1] - values[0])
    if name in a.intervals and name in b.intervals:
        both = from_two_intervals(values[0], a.intervals[name], values[1], b.intervals[name])
        return found._replace(interval=both, method=UNPAIRED)
    return found


def _numbers(table: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Interval]]:
    """Numbers by name, those of parts as `part.name`; and intervals by the same names."""
    values: dict[str, float] = {}
    given = table.get("intervals") or {}
    intervals = {}

    def add(name: str, value: Any, *named: str) -> None:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            values[name] = float(value)
            bounds = next((given[each] for each in (name, *named) if each in given), None)
            if bounds and None not in bounds:
                intervals[name] = Interval(*map(float, bounds))

    for name, value in table["metrics"].items():
        add(name, value)
    for part, value in (table.get("per_category") or {}).items():
        add(part, value, f"{part}.accuracy")
        if isinstance(value, Mapping):
            for name, each in value.items():
                add(f"{part}.{name}", each, f"{name}.accuracy")
    return values, intervals


def _mini_numbers(table: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Interval]]:
    values, intervals = {}, {}
    for task, scores in table["tasks"].items():
        for score in scores:
            if score.get("value") is not None:
                name = f"{task}.{score['name']}"
                values[name] = float(score["value"])
                if None not in score["interval"]:
                    intervals[name] = Interval(*score["interval"])
    return values, intervals


def _plain(value: float) -> str:
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}" if abs(value) <= 1 else f"{value:+.2f}"


def markdown_row(values: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"
