"""`orthus eval predict`, a model's answers to a benchmark, and `orthus eval pope`: scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from orthus_cli import options
from orthus_cli.asked_benchmarks import Asking, form_of, predict_benchmark
from orthus_cli.console import Reporter, Settings, reporter
from orthus_cli.eval_tasks import scored_table, show_scores
from orthus_cli.geneval_detectors import Clip, Detector, DetectorChoice, Weights
from orthus_cli.recipe_options import Flags, number_or, recipe_options
from orthus_core.recipe import GenerateRecipe

MODEL_KEYS = ("model", "lora", "device", "dtype", "quantize", "low_memory")
DRAWING_KEYS = ("preset", "steps", "scheduler", "step_tolerance", "guidance", "noise_scale")
ANSWERS = "answers"
"""Folder of the answers in that of a report."""

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="PATH",
        help="The benchmark's own files and pictures.",
        show_default=False,
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        "--variant", metavar="NAME", help="Program that asks and scores.", show_default=False
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="N|auto",
        parser=number_or("auto"),
        help="Questions or pictures at once; at most 64 questions are.",
    ),
]
Longest = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        help="Most tokens of an answer; 128, and 16 for some tasks of lmms.",
        show_default=False,
    ),
]
Pictures = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--num-images",
        min=1,
        help="Pictures of each prompt.  [default: 4; of hps and edit-clip 1]",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        help="Of a prompt's first picture; the next count on.  [default: 42]",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="N questions or prompts of each split, task, subject or type; all if left out.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Ask all anew, and replace what is there.")
]


Detections = Annotated[
    Path | None,
    typer.Option(
        "--detections",
        metavar="FILE",
        help="What a detector has found in the pictures.",
        show_default=False,
    ),
]
Report = Annotated[
    Path,
    typer.Option("-o", "--output", metavar="DIR", help="Folder for answers and report."),
]


@recipe_options(GenerateRecipe, only=(*MODEL_KEYS, *DRAWING_KEYS))
def predict_task(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Such as pope.")],
    data: Data,
    output: options.OutputFolder,
    variant: Variant = None,
    batch_size: BatchSize = "auto",
    longest: Longest = None,
    pictures: Pictures = None,
    seed: Seed = None,
    limit: Limit = None,
    *,
    flags: Flags,
    overwrite: Overwrite = False,
) -> None:
    """Answer a benchmark's questions, or draw its prompts.

    Example: orthus eval predict pope --data pope/ -m runs/mine -o pope-answers

    The folder then has the official files, which `orthus eval score` reads, and run.json, which
    says how they were made. The same command goes on with a run that was stopped. Processes of a
    launcher (torchrun) share the work.
    """
    from orthus_core.evaluation.official.catalogue import task_named

    about = task_named(task)
    draws = form_of(about).draws
    unused = {f"--{name.replace('_', '-')}": flags[name] for name in DRAWING_KEYS if not draws}
    unused |= {"--max-new-tokens": longest} if draws else {"-n": pictures, "--seed": seed}
    if draws and form_of(about).pictures == 1:
        unused |= {"-n": pictures}  # the official folder has one of each prompt
    if given := [option for option, value in unused.items() if value is not None]:
        what = "draws" if draws else "asks questions, which are answered in the likeliest words"
        raise typer.BadParameter(f"{about.name} {what}: {', '.join(given)} changes nothing")
    r, is_first = _reporter(ctx)
    asking = _asking(
        about.name,
        data,
        _place(output),
        variant,
        flags,
        batch_size=batch_size,
        longest=longest,
        pictures=pictures,
        seed=seed,
        limit=limit,
        overwrite=overwrite,
    )
    run = predict_benchmark(r, asking)
    if run is not None and is_first:
        r.result(_summary(output, run), text=_line(output, run), quiet=[output])


def _question_command(name: str, summary: str) -> Callable[..., None]:
    """The command that asks a benchmark and scores the answers."""

    def command(
        ctx: typer.Context,
        data: Data,
        output: Report,
        variant: Variant = None,
        batch_size: BatchSize = "auto",
        longest: Longest = None,
        limit: Limit = None,
        *,
        flags: Flags,
        overwrite: Overwrite = False,
    ) -> None:
        asking = _asking(
            name,
            data,
            _place(output) / ANSWERS,
            variant,
            flags,
            batch_size=batch_size,
            longest=longest,
            limit=limit,
            overwrite=overwrite,
        )
        _predict_and_score(ctx, asking, _place(output))

    command.__doc__ = f"""{summary}

    Example: orthus eval {name} --data {name}/ -m runs/mine -o {name}-report

    It is `orthus eval predict {name}` into DIR/answers, then `orthus eval score {name}`. The same
    command goes on with a run that was stopped.
    """
    return recipe_options(GenerateRecipe, only=MODEL_KEYS)(command)


@recipe_options(GenerateRecipe, only=(*MODEL_KEYS, *DRAWING_KEYS))
def geneval_task(
    ctx: typer.Context,
    data: Data,
    output: Report,
    variant: Variant = None,
    batch_size: BatchSize = "auto",
    pictures: Pictures = None,
    seed: Seed = None,
    limit: Limit = None,
    detections: Detections = None,
    detector: Detector = None,
    weights: Weights = None,
    clip: Clip = None,
    *,
    flags: Flags,
    overwrite: Overwrite = False,
) -> None:
    """Draw GenEval's prompts, and judge what a detector sees.

    Example: orthus eval geneval --data geneval/ -m runs/mine -o geneval-report

    It is `orthus eval predict geneval` into DIR/answers, then `orthus eval score geneval` on what a
    detector finds in these pictures: here (--detector), or elsewhere (--detections).
    """
    choice = DetectorChoice(detector, weights, clip)
    if detector and detections:
        raise typer.BadParameter("give --detector or --detections, not both")
    choice.check()
    asking = _asking(
        "geneval",
        data,
        _place(output) / ANSWERS,
        variant,
        flags,
        batch_size=batch_size,
        pictures=pictures,
        seed=seed,
        limit=limit,
        overwrite=overwrite,
    )
    _predict_and_score(ctx, asking, _place(output), detections, choice)


QUESTION_COMMANDS = {
    name: _question_command(name, summary)
    for name, summary in {
        "pope": "Ask POPE's questions, and score the answers.",
        "mme": "Ask MME's questions, and score the answers.",
        "vqav2": "Ask VQAv2's questions, and score the answers.",
        "gqa": "Ask GQA's questions, and score the answers.",
        "mmmu": "Ask MMMU's questions, and score the answers.",
    }.items()
}


def _asking(
    name: str,
    data: Path,
    folder: Path,
    variant: str | None,
    flags: dict[str, Any],
    **settings: Any,
) -> Asking:
    """What is asked, by the task's first variant where none is named; `settings` are `Asking`'s."""
    from orthus_core.evaluation.official.catalogue import task_named

    about = task_named(name)
    named = variant or next(iter(about.variants))
    return Asking(about, _place(data), folder, named, flags, **settings)


def _predict_and_score(
    ctx: typer.Context,
    asking: Asking,
    output: Path,
    detections: Path | None = None,
    detector: DetectorChoice | None = None,
) -> None:
    """Asks, then scores into the folder, result.json last."""
    from orthus_core.evaluation.official.score_report import RESULT, limited_keys, report_files
    from orthus_core.evaluation.official.task import ScoringRequest
    from orthus_core.results.output_names import check_free, write_file

    r, is_first = _reporter(ctx)
    check_free(output / RESULT, overwrite=asking.overwrite)
    run = predict_benchmark(r, asking)
    if run is None or not is_first:
        return
    r.say(_line(asking.folder, run))
    about = asking.task
    looks = detections is not None or (detector is not None and detector.name is not None)
    if form_of(about).draws and not looks:
        r.result(
            _summary(asking.folder, run),
            text=f"{asking.folder}: {run['n_asked']} pictures; detect things in them, "
            f"then: orthus eval score {about.name} --predictions FILE --data {asking.data}; or "
            f"--predictions {asking.folder} --detector mask2former --weights DIR --clip DIR",
            quiet=[asking.folder],
        )
        return
    predictions = _place(detections) if detections else asking.folder
    request = ScoringRequest(predictions, asking.data, asking.variant)
    if asking.limit is not None:
        request = request._replace(keys=limited_keys(about, request, asking.limit))
    table, found = scored_table(r, about, request, detector, asking.flags.get("device"))
    files = report_files(table, found)
    for name in sorted(files, key=lambda name: name == RESULT):
        write_file(output / name, files[name], overwrite=True)
    show_scores(r, table, output, files)


def _reporter(ctx: typer.Context) -> tuple[Reporter, bool]:
    """The reporter, which is silent in all but the first process, and whether this is that."""
    from orthus_core.train.distributed import current_rank

    if current_rank().is_first:
        return reporter(ctx), True
    return Reporter(Settings("quiet", verbosity=-1)), False


def _place(path: Path) -> Path:
    from orthus_core.user_files import user_path

    return user_path(path)


def _summary(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    return {"folder": str(folder), **{name: run[name] for name in run if name != "files"}}


def _line(folder: Path, run: dict[str, Any]) -> str:
    """One line about a whole set of answers."""
    spent, draws = run["time"], run["asked"]["draws"]
    what = f"{run['n']} prompts drawn" if draws else f"{run['n']} questions answered"
    alike = f", {run['n_asked']} of them different" if run["n_asked"] < run["n"] else ""
    left = f", {run['n_not_asked']} did not fit the context" if run["n_not_asked"] else ""
    share = f"{100 * spent['share_in_model']:.1f}%" if spent["share_in_model"] is not None else "-"
    return f"{folder}: {what}{alike}{left}; {share} of {spent['all_s']:.0f} s in the model"
