"""The report of a scoring: result.json, with all that is needed to repeat it, and samples.jsonl."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from orthus_core.errors import ArgumentError, DataError
from orthus_core.evaluation.official.answer_folder import PIECES, RUN, read_run
from orthus_core.evaluation.official.read_files import check_there, data_hash
from orthus_core.evaluation.official.task import (
    OfficialScores,
    OfficialTask,
    ScoringRequest,
    first_items,
)
from orthus_core.evaluation.scorer_variants import check_variant
from orthus_core.version import __version__

RESULT = "result.json"
SAMPLES = "samples.jsonl"


def score_predictions(task: OfficialTask, request: ScoringRequest) -> OfficialScores:
    """Scores predictions in the official form.

    Raises:
        ArgumentError: When the task has no such variant, or cannot be scored from files.
        DataError: When files are missing or do not belong together.
    """
    if task.score is None:
        raise ArgumentError(
            f"{task.name} cannot be scored from files of predictions",
            hint=f"`orthus eval describe {task.name}` says what it needs",
        )
    check_variant(request.variant, task.variants)
    if request.detections is None:
        check_there(request.predictions, task.predictions)
    if request.data is not None:
        check_there(request.data, "; ".join(task.files))
    run = _run_of(request)
    asked = (run or {}).get("asked") or {}
    if asked.get("task", task.name) != task.name:
        raise DataError(
            f"these are answers to {asked['task']}, not to {task.name}",
            where=str(request.predictions),
            hint=f"orthus eval score {asked['task']} --predictions {request.predictions}",
        )
    limit = asked.get("limit")
    if limit and request.data is not None and request.keys is None:
        request = request._replace(keys=limited_keys(task, request, limit))
    found = task.score(request)
    return replace(found, notes=[*found.notes, *_notes_on(task, request, run)])


def limited_keys(task: OfficialTask, request: ScoringRequest, limit: int) -> frozenset[str]:
    """The questions that a run with this limit has asked."""
    assert task.items is not None and task.form is not None and request.data is not None
    items = task.items(request.data, request.variant)
    return frozenset(item.key for item in first_items(items, limit, task.form.together))


def _run_of(request: ScoringRequest) -> dict[str, Any] | None:
    """How `orthus eval predict` made the predictions; None for those of others."""
    place = request.predictions
    run = read_run(place if place.is_dir() else place.parent)
    return run if run and (place.is_dir() or place.name in (run.get("files") or ())) else None


def _notes_on(
    task: OfficialTask, request: ScoringRequest, run: Mapping[str, Any] | None
) -> Iterator[str]:
    """What a reader has to know about answers that were made here."""
    if run is None:
        return
    asked, place = run.get("asked") or {}, request.predictions
    if asked.get("variant", request.variant) != request.variant:
        yield f"the questions were asked as {asked['variant']} asks them"
    if request.data is not None and task.form is not None and "data_hash" in asked:
        try:
            same = data_hash(task.form.files(request.data)) == asked["data_hash"]
        except DataError:
            same = True  # such as answers without their questions
        if not same:
            yield "the questions of --data are not those that were asked, though their ids are"
    if asked.get("limit"):
        yield f"only {asked['limit']} questions of each part were asked (--limit)"
    if run.get("n_not_asked"):
        yield f"{run['n_not_asked']} questions did not fit the model's context and were not asked"
    folder = place if place.is_dir() else place.parent
    files = (run.get("files") or {}).items()
    changed = [
        name
        for name, known in files
        if not (folder / name).is_file()
        or hashlib.sha256((folder / name).read_bytes()).hexdigest() != known
    ]
    if changed:
        yield f"{', '.join(changed[:3])}: not as the model has written it"


def result_table(
    task: OfficialTask, request: ScoringRequest, found: OfficialScores
) -> dict[str, Any]:
    """The content of result.json."""
    import numpy as np

    predictions = request.predictions
    parts = [predictions] if predictions.is_file() else sorted(predictions.rglob("*.*"))
    # How long answers took, and pieces of them, are no answers.
    ours = (predictions / RUN, predictions / PIECES)
    parts = [path for path in parts if not {path, *path.parents} & {*ours}]
    run = _run_of(request)
    return {
        "task": task.name,
        "variant": request.variant,
        "rule": task.variants[request.variant],
        "n": found.n,
        "n_missing": found.n_missing,
        "n_unparsed": found.n_unparsed,
        "metrics": _numbers(found.metrics),
        "per_category": _numbers(found.per_category),
        "intervals": _numbers({name: [*bounds] for name, bounds in found.intervals.items()}),
        "paper": task.paper,
        "notes": [*found.notes],
        "data": str(request.data or ""),
        "data_hash": data_hash(found.files) if found.files else "",
        **({"run": run} if run else {}),
        "predictions": str(predictions),
        "predictions_hash": data_hash(path for path in parts if path.is_file()),
        "versions": {
            "orthus": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }


def report_files(table: Mapping[str, Any], found: OfficialScores) -> dict[str, bytes]:
    """The content of the report's files, by file name."""
    lines = [json.dumps(_numbers(sample), ensure_ascii=False) for sample in found.samples]
    return {
        RESULT: (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode(),
        SAMPLES: ("\n".join(lines) + "\n").encode(),
        **found.extra_files,
    }


def table_rows(table: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Rows for people: name, value, 95% interval; the benchmark's numbers, then those of parts."""
    for name, value in table["metrics"].items():
        yield name, _figure(value), _bounds(table["intervals"].get(name))
    for part, value in table["per_category"].items():
        values = value if isinstance(value, Mapping) else {"accuracy": value}
        for name, each in values.items():
            if not isinstance(each, Mapping):
                yield f"{part}.{name}", _figure(each), _bounds(_interval(table, part, name))


def _interval(table: Mapping[str, Any], part: str, name: str) -> Any:
    """Intervals are named after a part and a metric, or a kind within a group of parts."""
    found = table["intervals"]
    return found.get(f"{part}.{name}") or found.get(f"{name}.accuracy")


def _figure(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"


def _bounds(bounds: Any) -> str:
    return f"{_figure(bounds[0])} to {_figure(bounds[1])}" if bounds else ""


def _numbers(value: Any) -> Any:
    """The same with numbers that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_numbers(each) for each in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
