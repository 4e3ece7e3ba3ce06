"""Scores and seconds by the number of denoising steps:
python benchmarks/step_curves.py [--model MODEL] [--student MODEL] [--limit N] [--write]

`orthus eval mini` judges drawings of the same prompts, from the same seeds, with each solver over
its own times, over the model's time grids (found for the occasion where it has none), and with a
flow map head where the model, or a student of it, has one. Seconds are medians of runs that take
turns. The table is that of docs/benchmarks.md; all of it takes hours, `--limit 40` some minutes.

Legend: N images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from orthus_core import Orthus
from orthus_core.bench.page import check_page, write_sections
from orthus_core.bench.tables import Table, seconds
from orthus_core.checkpoint.model_folder import open_model
from orthus_core.distill.time_grids import TimeGrids, find_time_grids
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams, Task
from orthus_core.world.benchmark.context import EvalContext, TaskResult
from orthus_core.world.benchmark.mini import evaluate, select_tasks
from orthus_core.world.benchmark.model_under_test import ModelUnderTest
from orthus_core.world.benchmark.scores import Score

STEPS = (1, 2, 4, 8, 16, 25, 100)
# For a number of steps that nobody waits for, its own times are as good.
MOST_OF_GRIDS = 25
FLOW_MAP = "flow-map"
WAYS = ("ddim", "ddim grid", "dpm++", "dpm++ grid", "unipc", "unipc grid", FLOW_MAP)
CAPTIONS = ("a snowman", "a fox", "an owl", "a strawberry left of a lemon")
SHOWN = {("mini-geneval", "overall"), ("mini-geneval", "two_object"), ("sprite-recall", "3d")}


class Row(NamedTuple):
    """A way to draw: a number of steps of a solver, over its own times or a grid of the model's.

    Attributes:
        is_student: Whether the student draws.
    """

    solver: str
    steps: int
    time_grid: tuple[int, ...] = ()
    is_student: bool = False

    @property
    def times(self) -> str:
        return "grid" if self.time_grid else "own"

    def params(self, own: SamplingParams) -> SamplingParams:
        """A model's parameters with these steps in every patch."""
        return replace(
            own,
            steps=self.steps,
            last_steps=None,
            scheduler=self.solver,
            time_grid=self.time_grid or None,
        )


@dataclass
class Subject(ModelUnderTest):
    """A model that draws in one of the ways."""

    row: Row = field(kw_only=True)

    def sampling(self, task: Task = "picture") -> SamplingParams:
        return self.row.params(super().sampling(task))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--student", help="model with a flow map head; --model if it has one")
    parser.add_argument("--steps", default=",".join(map(str, STEPS)))
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--tasks", default="geneval,recall", help="empty for seconds alone")
    parser.add_argument("--limit", type=int, help="samples of each task; all if left out")
    parser.add_argument("--batch", default="1,8", help="pictures drawn at once, to be timed")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way, to be timed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--write", action="store_true", help="make the page's table anew")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    options = parser.parse_args(words)
    section = f"steps {Path(options.model).name} cpu"
    if options.write:
        check_page(options.page, [section])
    teacher = Orthus.open(options.model, device="cpu", dtype="fp32")
    student = student_of(teacher, options.student)
    steps = [int(number) for number in options.steps.split(",")]
    wanted = options.ways.split(",")
    rows = [*rows_of(wanted, steps, options.model, has_student=student is not None)]
    models = [(student if row.is_student else None) or teacher for row in rows]
    batches = [int(count) for count in options.batch.split(",")]
    taken = times_of(rows, models, batches, options.repeats)
    tasks = select_tasks(options.tasks.split(",")) if options.tasks else []
    scores: list[dict[str, Score]] = []
    for row, model, lap in zip(rows, models, taken, strict=True):
        scores.append(scores_of(row, model, tasks, options.limit))
        print(json.dumps({**row._asdict(), "seconds": lap, **scores[-1]}), flush=True)
    table = table_of(rows, scores, taken, batches, options.limit)
    print(table.markdown())
    if options.json:
        found = [
            {**row._asdict(), "seconds": lap, "scores": of_row}
            for row, lap, of_row in zip(rows, taken, scores, strict=True)
        ]
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.write:
        write_sections(options.page, {section: table.markdown()})


def student_of(teacher: Orthus, name: str | None) -> Orthus | None:
    """The model with a flow map head: the one that is named, or the teacher if it has one."""
    student = Orthus.open(name, device="cpu", dtype="fp32") if name else teacher
    has_flow_map = FLOW_MAP in SOLVERS and getattr(student.model.config, "flow_map_head", False)
    if name and not has_flow_map:
        raise SystemExit(f"{name} has no flow map head: make one with `orthus distill head`")
    return student if has_flow_map else None


def rows_of(
    ways: Sequence[str], steps: Sequence[int], model: str, *, has_student: bool
) -> Iterator[Row]:
    """The ways in order, each with its numbers of steps; those of a student where there is one."""
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise SystemExit(f"there is no way {unknown[0]!r}: use {', '.join(WAYS)}")
    of_grid = [way.removesuffix(" grid") for way in ways if way.endswith(" grid")]
    grids = grids_of(model, of_grid, max(n for n in [0, *steps] if n <= MOST_OF_GRIDS))
    for way in ways:
        solver = way.removesuffix(" grid")
        for number in steps:
            if way == FLOW_MAP:
                if has_student:
                    yield Row(solver, number, is_student=True)
            elif solver == way:
                yield Row(solver, number)
            elif times := grids.get(solver, {}).get(number):
                yield Row(solver, number, times)


def grids_of(
    model: str, solvers: Sequence[str], most: int
) -> dict[str, dict[int, tuple[int, ...]]]:
    """Time grids of solvers by number of steps: the model's own, or ones that are found now."""
    opened = open_model(model, device="cpu", dtype="fp32")
    stored = (getattr(opened.model.config, "sampling", None) or {}).get("time_grids", {})
    grids = {
        solver: {int(steps): tuple(times) for steps, times in stored[solver]["times"].items()}
        for solver in solvers
        if solver in stored
    }
    missing = {solver: most for solver in solvers if solver not in stored}
    if missing and most:
        for event in find_time_grids(opened, missing):
            if isinstance(event, TimeGrids):
                grids[event.solver] = event.times
    return grids


def times_of(
    rows: Sequence[Row], models: Sequence[Orthus], batches: Sequence[int], repeats: int
) -> list[dict[int, float]]:
    """Seconds a picture of each way by batch size; all take turns, after a run that warms up."""
    taken: list[dict[int, list[float]]] = [{batch: [] for batch in batches} for _ in rows]
    for repeat in range(repeats + 1):
        for row, model, laps in zip(rows, models, taken, strict=True):
            params = row.params(SamplingParams.resolve(model.model.config))
            for batch in batches:
                captions = [CAPTIONS[number % len(CAPTIONS)] for number in range(batch)]
                prompts = [
                    model.builder.picture(caption, params)._replace(seed=seed)
                    for seed, caption in enumerate(captions)
                ]
                begun = time.perf_counter()
                for _ in generate(model.model, prompts, params, batch):
                    pass
                if repeat:
                    laps[batch].append((time.perf_counter() - begun) / batch)
    return [{batch: median(of_batch) for batch, of_batch in laps.items()} for laps in taken]


def scores_of(row: Row, model: Orthus, tasks: Sequence[str], limit: int | None) -> dict[str, Score]:
    """The scores that are shown, by their names."""
    if not tasks:
        return {}
    subject = Subject(model.model, model.builder.tokenizer, row=row)
    results = evaluate(EvalContext(subject, limit=limit), tasks)
    return {
        f"{result.task} {score.name}": score
        for result in results
        if isinstance(result, TaskResult)
        for score in result.scores
        if (result.task, score.name) in SHOWN
    }


def table_of(
    rows: Sequence[Row],
    scores: Sequence[dict[str, Score]],
    taken: Sequence[dict[int, float]],
    batches: Sequence[int],
    limit: int | None,
) -> Table:
    """One line for each way; speeds are against the most steps of DDIM, or of the first way."""
    names = [*dict.fromkeys(name for of_row in scores for name in of_row)]
    reference = max(range(len(rows)), key=lambda at: (rows[at].solver == "ddim", rows[at].steps))
    lines = []
    for row, of_row, laps in zip(rows, scores, taken, strict=True):
        timed = [
            cell
            for batch in batches
            for cell in (seconds(laps[batch]), f"{taken[reference][batch] / laps[batch]:.1f}x")
        ]
        cells = [_with_interval(of_row[name]) if name in of_row else "" for name in names]
        lines.append((row.solver, row.times, str(row.steps), *cells, *timed))
    columns = [name for batch in batches for name in (f"s a picture, {batch} at once", "faster")]
    samples = "all samples" if limit is None else f"at most {limit} samples of a task"
    return Table(
        ("solver", "times", "steps", *names, *columns),
        lines,
        f"Scores with 95% intervals, {samples}; {torch.get_num_threads()} threads.",
    )


def _with_interval(score: Score) -> str:
    low, high = score.interval
    return f"{score.value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
