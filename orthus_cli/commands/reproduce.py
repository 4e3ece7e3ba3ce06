"""`orthus reproduce`: the paper's claims, trained and decided in the small world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli.console import Reporter, reporter
from orthus_cli.options import DryRun, ResumeStages
from orthus_cli.training import stop_after_step
from orthus_core.errors import OutputError
from orthus_core.user_files import user_path

if TYPE_CHECKING:
    from orthus_core.reproduce.claims import Reproduction
    from orthus_core.reproduce.paper_arms import Arm

QUICK_FOLDER = Path("runs/paper-quick")


def reproduce(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="table1 to table6, mse, tau, noise, diversity, all, or an arm such as "
            "paper/linear.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Folder for models, states and results; runs/paper if left out, and "
            "runs/paper-quick with --quick.",
            show_default=False,
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            metavar="FILE",
            help="Page to write, such as docs/paper.md; paper.md in DIR if left out.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            help="Trainings of each arm; each arm's own, mostly three, if left out.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="A few steps of each arm: a rehearsal in minutes, without verdicts."
        ),
    ] = False,
    resume: ResumeStages = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Begin anew: the models, states and results of these arms in DIR are replaced.",
        ),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Test the paper's claims in the small world.

    Trains the arms of a table from one common start, evaluates them, and writes a page with each
    claim, the paper's numbers, ours with 95% intervals, and a verdict. --dry-run says what each arm
    takes, Ctrl-C saves, --resume auto goes on.
    """
    r = reporter(ctx)
    folder = user_path(output or (QUICK_FOLDER if quick else Path("runs/paper")))
    chosen, arms, measures = _chosen(what, seeds, quick=quick)
    if dry_run:
        _show_plan(r, folder, arms, measures)
        return

    from transformers.utils import logging

    from orthus_core.atomic import write_text
    from orthus_core.output_checks import probe_file
    from orthus_core.reproduce.paper_page import page_arms, paper_page
    from orthus_core.reproduce.paper_run import run_arms

    file = user_path(page) if page else folder / "paper.md"
    if file.is_dir():
        raise OutputError(
            "the page is a file, and this is a folder",
            where=str(page),
            hint="name a file with --page, such as docs/paper.md",
        )
    probe_file(file)
    logging.disable_progress_bar()
    with stop_after_step(lambda: r.say("finishing this step, then saving")) as should_stop:
        events = run_arms(
            folder,
            arms,
            measures,
            quick=quick,
            resume=bool(resume),
            overwrite=overwrite,
            should_stop=should_stop,
        )
        for _ in r.track(events):
            pass
        if should_stop():
            raise KeyboardInterrupt
    known = page_arms(folder, quick=quick)
    write_text(file, paper_page(folder, known, quick=quick))
    rows = [] if quick else _verdicts(folder, chosen, known)
    r.table(("claim", "difference", "verdict"), [tuple(row.values()) for row in rows])
    r.result(
        {"page": str(file), "folder": str(folder), "claims": rows}, text=str(file), quiet=[file]
    )


def _chosen(
    what: str, seeds: int | None, *, quick: bool
) -> tuple[list[Reproduction], list[Arm], dict[str, list[str]]]:
    """What is reproduced: the tables, their arms with all stages, and the measures of each arm."""
    from orthus_core.reproduce.claims import REPRODUCTIONS, needed_measures, reproductions, with_arm
    from orthus_core.reproduce.paper_arms import FOLDER, paper_arms

    if what.startswith(f"{FOLDER}/"):
        (arm,) = paper_arms([what.removeprefix(f"{FOLDER}/")], seeds=seeds, quick=quick)
        of_arm = with_arm([*REPRODUCTIONS.values()], arm.name)
        return [], [arm], {arm.name: needed_measures(of_arm)[arm.name]}
    chosen = reproductions(what)
    measures = needed_measures(chosen)
    return chosen, paper_arms(measures, seeds=seeds, quick=quick), measures


def _show_plan(r: Reporter, folder: Path, arms: list[Arm], measures: dict[str, list[str]]) -> None:
    from orthus_core.reproduce.arm_results import state_of, tasks_of
    from orthus_core.reproduce.arm_times import expected_times, own_rates, spoken

    tasks = {name: tasks_of(each) for name, each in measures.items()}
    rates = own_rates(folder)
    rows: list[dict[str, Any]] = []
    for arm, found in zip(arms, expected_times(arms, tasks, rates), strict=True):
        rows.append(
            {
                "arm": arm.name,
                "seeds": found.seeds,
                "stages": found.stages,
                "steps": found.steps,
                "training": spoken(found.training),
                "evaluation": spoken(found.evaluation),
                "state": state_of(folder, arm, measures[arm.name]),
                "about": arm.recipe.about,
                "seconds": round(found.seconds),
                "tasks": tasks[arm.name],
            }
        )
    shown = ("arm", "seeds", "stages", "steps", "training", "evaluation", "state", "about")
    r.table(shown, [[row[name] for name in shown] for row in rows])
    total = sum(row["seconds"] for row in rows)
    by = "of this run" if rates else "that was measured on one core of a server processor"
    r.result(
        {"dry_run": True, "folder": str(folder), "seconds": total, "arms": rows},
        text=f"about {spoken(total)} in all from nothing, by the rate {by}; a stage that arms "
        "share is counted once",
        quiet=[total],
    )


def _verdicts(
    folder: Path, chosen: list[Reproduction], arms: dict[str, Arm]
) -> list[dict[str, str]]:
    from orthus_core.reproduce.paper_page import decided_claims

    return [
        {"claim": claim.statement, "difference": difference, "verdict": word}
        for each in chosen
        for claim, difference, word in decided_claims(folder, each, arms)
    ]
