"""`orthus eval list`, `describe` and `score`: official benchmarks, and predictions of any model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli import options
from orthus_cli.console import Reporter, reporter
from orthus_cli.geneval_detectors import Clip, Detector, DetectorChoice, Weights

if TYPE_CHECKING:
    from orthus_core.evaluation.official.task import (
        OfficialScores,
        OfficialTask,
        ScoringRequest,
    )


def list_tasks(ctx: typer.Context) -> None:
    """List the benchmarks.

    Example: orthus eval list
    """
    from orthus_core.evaluation.official.catalogue import TASKS

    r = reporter(ctx)
    r.table(
        ("task", "measures", "variants", "scored from files", "paper"),
        [
            (
                task.name,
                task.measures,
                ", ".join(task.variants),
                "yes" if task.score else "no",
                task.paper,
            )
            for task in TASKS.values()
        ],
    )
    r.result(
        {
            "tasks": [
                {
                    "name": task.name,
                    "measures": task.measures,
                    "variants": [*task.variants],
                    "scored_from_files": task.score is not None,
                    "paper": task.paper,
                }
                for task in TASKS.values()
            ]
        },
        text="",
        quiet=TASKS,
    )


def describe_task(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Such as pope.")],
) -> None:
    """Say what a benchmark needs and how it is scored.

    Example: orthus eval describe pope
    """
    from orthus_core.evaluation.official.catalogue import task_named
    from orthus_core.evaluation.official.task import LONGEST_ANSWER

    r = reporter(ctx)
    found = task_named(task)
    about = {name: value for name, value in found._asdict().items() if not callable(value)}
    about |= {"score": found.score is not None, "items": found.items is not None}
    about["form"] = found.form is not None
    default = next(iter(found.variants))
    lines = [f"{found.name}: {found.measures}", "", "Files"]
    lines += [f"  {line}" for line in found.files]
    for title, text in (
        ("Where they come from", found.source),
        ("Predictions", found.predictions),
        ("Prompt", found.prompt),
        ("Metric", found.metric),
    ):
        lines += ["", title, f"  {text}"]
    lines += ["", "Variants"]
    for name, rule in found.variants.items():
        lines.append(f"  {name}{' (default)' if name == default else ''}: {rule}")
    lines += ["", "Paper (2412.00127)", f"  {found.paper}"]
    if found.form:
        longest = found.form.longest
        own = "".join(f"; {name}: {longest[name]}" for name in found.variants if name in longest)
        how = (
            f"pictures of each prompt: {found.form.pictures}; seeds count up from 42"
            if found.form.draws
            else f"the likeliest words, at most {LONGEST_ANSWER} tokens{own}"
        )
        lines += ["", "Decoding", f"  {how}", ""]
        if not found.command:
            lines += [f"orthus eval {found.name} --data PATH -m MODEL -o DIR"]
        lines += [f"orthus eval predict {found.name} --data PATH -m MODEL -o ANSWERS"]
    if found.command:
        lines += [*([] if found.form else [""]), found.command]
    if found.score:
        lines += [*([] if found.form else [""])]
        lines += [f"orthus eval score {found.name} --predictions PATH --data PATH"]
    r.result({**about, "default_variant": default}, text="\n".join(lines), quiet=found.files)


def score_task(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Such as pope.")],
    predictions: Annotated[
        Path,
        typer.Option(
            "--predictions",
            metavar="PATH",
            help="File or folder of predictions, in the official form.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="PATH", help="The benchmark's own files.", show_default=False
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant", metavar="NAME", help="Program whose rule counts.", show_default=False
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", help="Count questions without a prediction as wrong, and say so."
        ),
    ] = False,
    detector: Detector = None,
    weights: Weights = None,
    clip: Clip = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="Of the detector: auto, cpu, cuda or mps."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder for the report.", show_default=False
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Score predictions of any model.

    Example: orthus eval score gqa --predictions answers.json --data gqa/ -o gqa-report

    `orthus eval describe TASK` says which files it reads and what the variants are. With
    --detector, the predictions of geneval are the folder of its pictures.
    """
    from orthus_core.atomic_folder import check_folder
    from orthus_core.evaluation.official.catalogue import task_named
    from orthus_core.evaluation.official.score_report import (
        RESULT,
        SAMPLES,
        report_files,
    )
    from orthus_core.evaluation.official.task import ScoringRequest
    from orthus_core.results.output_names import write_folder
    from orthus_core.user_files import user_path

    r = reporter(ctx)
    about = task_named(task)
    request = ScoringRequest(
        user_path(predictions),
        user_path(data) if data else None,
        variant or next(iter(about.variants)),
        allow_missing,
    )
    choice = DetectorChoice(detector, weights, clip)
    if detector and about.name != "geneval":
        raise typer.BadParameter(f"{about.name} has no detector", param_hint="--detector")
    choice.check()
    if output:
        check_folder(output, mark=RESULT, overwrite=overwrite)
    table, found = scored_table(r, about, request, choice, device)
    files = report_files(table, found) if output else {}
    if output:
        replaced = (RESULT, SAMPLES, *found.extra_files)
        write_folder(output, files, mark=RESULT, replaces=replaced, overwrite=overwrite)
    show_scores(r, table, output, files)


def scored_table(
    r: Reporter,
    about: OfficialTask,
    request: ScoringRequest,
    detector: DetectorChoice | None = None,
    device: str | None = None,
) -> tuple[dict[str, Any], OfficialScores]:
    """Scores predictions, and says what a reader of the numbers has to know.

    Args:
        r: The reporter.
        about: The benchmark.
        request: What is to be scored.
        detector: What looks at pictures first, in GenEval.
        device: Where it runs.

    Raises:
        ArgumentError, DataError: As `score_predictions`.
        OrthusError: As `DetectorChoice.look`.
    """
    from dataclasses import replace

    from orthus_core.evaluation.official.score_report import result_table, score_predictions

    detected = None
    if detector and detector.name is not None:
        detected = detector.look(r, request.predictions, request.data, device)
        request = request._replace(detections=detected.records)
    found = score_predictions(about, request)
    if detected:
        found = replace(found, extra_files={**found.extra_files, **detected.files})
    for note in found.notes:
        r.say(note)
    if found.n_missing:
        r.warn(f"{found.n_missing} of {found.n} have no prediction and count as wrong")
    if found.n_unparsed:
        r.say(f"{found.n_unparsed} of {found.n} predictions hold no answer that the rule can read")
    table = result_table(about, request, found)
    return {**table, "settings": detected.settings} if detected else table, found


def show_scores(
    r: Reporter, table: Mapping[str, Any], output: Path | None, files: Iterable[str]
) -> None:
    """Shows the numbers, and where the report is."""
    from orthus_core.evaluation.official.score_report import table_rows

    r.table((f"{table['task']} ({table['variant']})", "value", "95%"), table_rows(table))
    text = f"{output}: {', '.join(files)}" if output else ""
    r.result(table, text=text, quiet=[output] if output else [])
