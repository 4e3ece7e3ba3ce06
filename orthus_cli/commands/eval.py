"""`orthus eval`: benchmarks with scores beside chance and ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orthus_cli import eval_tasks, options
from orthus_cli.commands.eval_compare import card, compare
from orthus_cli.commands.eval_pictures import edit_clip, fid, folder, hps
from orthus_cli.commands.eval_predict import QUESTION_COMMANDS, geneval_task, predict_task
from orthus_cli.commands.eval_recon import recon
from orthus_cli.console import reporter
from orthus_cli.drawing import open_model
from orthus_cli.help_sections import CommandList
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_core.recipe import CaptionRecipe, GenerateRecipe

if TYPE_CHECKING:
    from orthus_core.world.benchmark.context import TaskResult

app = typer.Typer(
    cls=CommandList,
    help="Measure how good a model is.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

COLUMNS = ("task", "score", "value", "95%", "n", "chance", "on truth", "ceiling")


@app.callback()
def benchmarks() -> None:
    """Measure how good a model is."""


app.command("list")(eval_tasks.list_tasks)
app.command("describe")(eval_tasks.describe_task)
app.command("predict")(predict_task)
app.command("score")(eval_tasks.score_task)
for name, command in QUESTION_COMMANDS.items():
    app.command(name)(command)
app.command("geneval")(geneval_task)


@app.command("mini")
@recipe_options(GenerateRecipe, only=("preset", "steps", "model", "device", "dtype"))
def mini(
    ctx: typer.Context,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the report.")
    ] = Path("eval-mini"),
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="About this many samples of each task.")
    ] = None,
    only: Annotated[
        str,
        typer.Option("--only", metavar="TASKS", help="Such as geneval,recall; all if left out."),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is asked and drawn.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Prompts at once.")] = 32,
    wordings: Annotated[
        Literal["trained", "held-out"],
        typer.Option("--wordings", help="Of prompts, questions and instructions."),
    ] = "trained",
    *,
    flags: Flags,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure a model on the small world.

    Example: orthus eval mini --limit 20

    Everything that is asked was held out of training, and every answer is known exactly. Each score
    stands beside chance, the judge's verdict on true pictures, and on true pictures that went
    through the model's autoencoder, which no drawing can be expected to pass.
    """
    from orthus_core.atomic_folder import check_folder
    from orthus_core.results.output_names import write_folder
    from orthus_core.world.benchmark.context import EvalContext, TaskResult
    from orthus_core.world.benchmark.mini import TASKS, evaluate, select_tasks
    from orthus_core.world.benchmark.model_under_test import ModelUnderTest
    from orthus_core.world.benchmark.report import RESULT, SAMPLES, report_files, score_table
    from orthus_core.world.world import World

    r = reporter(ctx)
    tasks = select_tasks([name.strip() for name in only.split(",") if name.strip()])
    check_folder(output, mark=RESULT, overwrite=overwrite)
    steps, preset = flags.pop("steps"), flags.pop("preset")
    named = {name: value for name, value in flags.items() if value is not None}
    loaded = open_model(r, CaptionRecipe(**named))  # type: ignore[arg-type]
    subject = ModelUnderTest(loaded.model, loaded.tokenizer, batch_size, seed, steps, preset)
    words = "trained" if wordings == "trained" else "held out"
    world = World.open(testing=True, wordings=words)
    bench = EvalContext(subject, world, limit=limit, seed=seed)
    asked = {
        "seed": seed,
        "limit": limit,
        "tasks": tasks,
        "wordings": wordings,
        "sampling": subject.sampling().to_dict(),
    }

    results: list[TaskResult] = []
    try:
        for event in r.track(evaluate(bench, tasks)):
            if isinstance(event, TaskResult):
                results.append(event)
                r.detail(f"{event.task}: {event.scores[0].value:.3f}")
    finally:
        # Results from before Ctrl-C are kept.
        if results:
            files = report_files(results, loaded.about, asked)
            replaced = (RESULT, SAMPLES, *(f"{task}.png" for task in TASKS))
            write_folder(output, files, mark=RESULT, replaces=replaced, overwrite=overwrite)

    r.table(COLUMNS, [row for result in results for row in _rows(result)])
    r.result(
        {
            "folder": str(output),
            "model": loaded.about,
            **asked,
            "scores": {
                result.task: [score_table(score) for score in result.scores] for result in results
            },
        },
        text=f"{output}: {RESULT}, samples.jsonl and a sheet of each task",
        quiet=[output],
    )


app.command("recon")(recon)
app.command("fid")(fid)
app.command("hps")(hps)
app.command("edit-clip")(edit_clip)
app.command("folder")(folder)
app.command("compare")(compare)
app.command("card")(card)


def _rows(result: TaskResult) -> list[tuple[str, ...]]:
    return [
        (
            result.task if score is result.scores[0] else "",
            score.name,
            _figure(score.value),
            f"{_figure(score.interval.low)} to {_figure(score.interval.high)}",
            str(score.n),
            *(_figure(bound) for bound in (score.chance, score.truth, score.ceiling)),
        )
        for score in result.scores
    ]


def _figure(value: float | None) -> str:
    """Shares with three digits, decibels with two: "0.853", "27.41", "" when there is none."""
    if value is None:
        return ""
    if 0 < value < 0.001:
        return f"{value:.1g}"
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.2f}"
