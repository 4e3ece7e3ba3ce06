"""What guidance in an interval, and guidance that rises, are worth:
python benchmarks/guidance_ways.py [--model MODEL] [--preset PRESET] [--limit N]

`orthus eval mini` draws the same prompts from the same seeds with guidance as the model has it, and
in other ways. The table has each score, and beside the first row's the difference with its 95%
interval in pairs, as `orthus eval compare` gives it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from orthus_core import Orthus
from orthus_core.evaluation.official.comparison import ComparedMetric, compare, read_result
from orthus_core.world.benchmark.context import EvalContext, TaskResult
from orthus_core.world.benchmark.mini import evaluate, select_tasks
from orthus_core.world.benchmark.model_under_test import ModelUnderTest
from orthus_core.world.benchmark.report import report_files

WAYS: dict[str, dict[str, Any]] = {
    "constant, at all times": {},
    "times 0 to 800": {"guidance_interval": [0, 800]},
    "times 200 to 999": {"guidance_interval": [200, 999]},
    "times 200 to 800": {"guidance_interval": [200, 800]},
    "times 400 to 999": {"guidance_interval": [400, 999]},
    "linear": {"guidance_schedule": "linear"},
    "linear, twice as far from 1": {"guidance_schedule": "linear", "guidance": 2.0},
    "none": {"guidance": 0.0},
}
"""Changes of the sampling defaults; `guidance` is the factor on what guidance adds to 1."""

SCALES = ("guidance", "edit_guidance", "image_guidance")
SHOWN = {
    "mini-geneval.overall": "mini-geneval",
    "mini-geneval.single_object": "one thing",
    "sprite-recall.3d": "sprite recall",
}
"""Columns of the table, by the names of scores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--limit", type=int, help="samples of each task; all if left out")
    parser.add_argument("--tasks", default="geneval,recall")
    parser.add_argument("--ways", default=",".join(map(str, range(len(WAYS)))), help="numbers")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    orthus = Orthus.open(options.model, device="cpu", dtype="fp32")
    own = dict(orthus.model.config.sampling or {})
    chosen = [[*WAYS][int(number)] for number in options.ways.split(",")]
    tasks = select_tasks(options.tasks.split(","))
    subject = ModelUnderTest(
        orthus.model, orthus.builder.tokenizer, seed=options.seed, preset=options.preset
    )
    bench = EvalContext(subject, limit=options.limit, seed=options.seed)
    print(f"| guidance | {' | '.join(SHOWN.values())} | seconds |")
    print("|---" * (len(SHOWN) + 2) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        first: Path | None = None
        for name in chosen:
            orthus.model.config.sampling = changed(own, WAYS[name])
            place = Path(folder) / str(len(list(Path(folder).iterdir())))
            seconds = write_result(bench, tasks, orthus.about, place)
            first = first or place
            found = compare(read_result(first), read_result(place)).metrics
            by_name = {each.metric: each for each in found}
            columns = [by_name.get(name) for name in SHOWN]
            cells = [cell(each, place == first) if each else "" for each in columns]
            print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def changed(own: dict[str, Any], way: dict[str, Any]) -> dict[str, Any]:
    """A model's sampling defaults with the changes of a way."""
    factor = way.get("guidance", 1.0)
    scales = {name: 1 + factor * (own[name] - 1) for name in SCALES if name in own}
    return own | scales | {name: value for name, value in way.items() if name != "guidance"}


def write_result(bench: EvalContext, tasks: list[str], about: dict[str, Any], place: Path) -> float:
    """Measures the model as it is, writes the report, and returns the processor's seconds; those of
    the first way are also the judge's for the small world.
    """
    begun = time.process_time()
    results = [each for each in evaluate(bench, tasks) if isinstance(each, TaskResult)]
    spent = time.process_time() - begun
    asked = {"seed": bench.seed, "limit": bench.limit, "tasks": tasks, "sampling": {}}
    place.mkdir()
    for name, content in report_files(results, about, asked).items():
        (place / name).write_bytes(content)
    return spent


def cell(found: ComparedMetric, is_first: bool) -> str:
    """A score, and its difference from the first way's with the interval of that."""
    if is_first or found.interval is None:
        return f"{found.b:.3f}"
    low, high = found.interval
    return f"{found.b:.3f} ({found.difference:+.3f} [{low:+.3f}, {high:+.3f}])"


if __name__ == "__main__":
    main()
