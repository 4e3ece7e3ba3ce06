"""`orthus bench`: how fast pictures are drawn, beside the release's algorithm."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli.console import Reporter, reporter
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_core.errors import PromptError
from orthus_core.recipe import GenerateRecipe

if TYPE_CHECKING:
    import torch

    from orthus_core.bench.tables import Table

KINDS = ("race", "head", "presets")
# Pictures that every preset draws.
PRESET_PICTURES = 8
# Batch sizes for the head alone, besides one patch.
HEAD_PICTURES = (1, 8)


@recipe_options(GenerateRecipe, only=("steps", "guidance", "device", "dtype"))
def bench(
    ctx: typer.Context,
    only: Annotated[
        str, typer.Option("--only", metavar="KINDS", help="Of race,head,presets; all if left out.")
    ] = "",
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME",
            help="Of the race: mini, mid, mid-full-head, 7b; repeat for more.",
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,N", help="Pictures the engine draws at once.")
    ] = "1,4,8,16",
    patches: Annotated[
        int | None,
        typer.Option("--patches", min=1, help="Time so many of each picture, and reckon the rest."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of every side.")] = 3,
    *,
    flags: Flags,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Make the page's tables anew from this run.")
    ] = False,
    page: Annotated[Path, typer.Option("--page", metavar="FILE", help="That page.")] = Path(
        "docs/benchmarks.md"
    ),
) -> None:
    """Time drawing, beside the algorithm of the release.

    Example: orthus bench --shape mid --batch 1,8

    Both draw the same pictures from the same weights and noise, by turns, and the largest
    difference between them is told. Medians of the repeats; a release picture is always drawn by
    itself, as its algorithm does.
    """
    r = reporter(ctx)
    kinds = _kinds(only)
    batches = _numbers(batch)

    from orthus_core.bench import tables
    from orthus_core.bench.heads import head_laps
    from orthus_core.bench.model_sizes import check_shape, model_of, random_head
    from orthus_core.bench.page import check_page, write_sections
    from orthus_core.bench.preset_timings import preset_laps
    from orthus_core.bench.race import Race, course_of, race
    from orthus_core.device import pick_device, pick_dtype
    from orthus_core.results.output_names import check_writable, write_file

    # 1. Sections to measure, the output, and the machine.
    steps, guidance = flags["steps"], flags["guidance"]
    where = pick_device(flags["device"] or "auto")
    precision = pick_dtype(flags["dtype"], where)
    chosen = (shapes or ["mini", "mid"]) if "race" in kinds else []
    for name in chosen:
        check_shape(name, patches)
    sections = [f"race {name} {where.type}" for name in chosen]
    sections += [f"{kind} {where.type}" for kind in kinds if kind != "race"]
    if write:
        check_page(page, sections)
        check_writable(page)
    if json_file:
        check_writable(json_file)
    machine = _machine(where, precision)
    r.say(", ".join(f"{name} {value}" for name, value in machine.items()))
    measured: dict[str, Any] = {}
    made: dict[str, Table] = {}

    def finished(section: str, found: Any, table: Table) -> None:
        measured[section], made[section] = found, table
        r.table(table.columns, table.rows, title=section)
        r.say(table.note)

    # 2. Pictures, ours and the release's, by turns.
    for name in chosen:
        model = model_of(name, where, precision)
        course = course_of(
            model,
            steps=steps,
            guidance=guidance,
            batches=batches,
            patches=patches,
            repeats=repeats,
        )
        (result,) = _results(r, race(model, course))
        assert isinstance(result, Race)
        about = {"course": course._asdict(), **dataclasses.asdict(result)}
        finished(f"race {name} {where.type}", about, tables.race_table(result))
        del model
    # 3. The released head by itself.
    if "head" in kinds:
        head = random_head(where, precision)
        laps = _results(r, head_laps(head, steps or 100, HEAD_PICTURES, repeats))
        finished(f"head {where.type}", _all(laps), tables.head_table(laps))
    # 4. Speed and error of the presets.
    if "presets" in kinds:
        model = model_of("mini", where, precision)
        laps = _results(r, preset_laps(model, PRESET_PICTURES, repeats))
        finished(f"presets {where.type}", _all(laps), tables.preset_table(laps))
    # 5. The figures.
    figures = {"machine": machine, **measured}
    if json_file:
        write_file(json_file, _json_bytes(figures), overwrite=True)
    if write:
        about = ", ".join(f"{name} {value}" for name, value in machine.items())
        write_sections(
            page, {s: f"{t.markdown()}\n\nMeasured on: {about}." for s, t in made.items()}
        )
        r.say(f"{page}: {', '.join(made)}")
    r.result(figures, text="")


def _kinds(only: str) -> list[str]:
    named = [kind.strip() for kind in only.split(",") if kind.strip()]
    for kind in named:
        if kind not in KINDS:
            raise PromptError(
                f"there is nothing to measure called {kind!r}",
                where="--only",
                hint=f"use {', '.join(KINDS)}",
            )
    return [kind for kind in KINDS if kind in (named or KINDS)]


def _numbers(batch: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in batch.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise PromptError(
            f"{batch!r} is no list of batch sizes", where="--batch", hint="such as 1,4,8,16"
        )
    return numbers


def _machine(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    import platform

    import torch

    from orthus_core.model.compiled_loop import library

    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    return {
        "device": f"{device.type} ({name})",
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
    } | ({"steps": "compiled" if library() else "not compiled"} if device.type == "cpu" else {})


def _results(r: Reporter, events: Iterable[Any]) -> list[Any]:
    """The results, while progress is shown."""
    from orthus_core.events import Progress

    return [event for event in r.track(events) if not isinstance(event, Progress)]


def _all(laps: Iterable[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(lap) for lap in laps]


def _json_bytes(figures: dict[str, Any]) -> bytes:
    return (json.dumps(figures, indent=2) + "\n").encode()
