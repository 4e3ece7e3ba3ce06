"""`orthus eval compare` and `card`: two results side by side, and one result on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthus_cli import options
from orthus_cli.console import reporter


def compare(
    ctx: typer.Context,
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a result, or its result.json.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another of the same benchmark.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="File for the table, too.", show_default=False
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Compare two results of one benchmark.

    Example: orthus eval compare before/ after/

    Prints a table in Markdown: each number of A and B, and B minus A with its 95% interval.
    Questions are paired by id where both results have a samples.jsonl.
    """
    from orthus_core.evaluation.official.comparison import (
        compare,
        comparison_markdown,
        comparison_table,
        read_result,
    )
    from orthus_core.results.output_names import check_free, write_file
    from orthus_core.user_files import user_path

    r = reporter(ctx)
    if output:
        check_free(output, overwrite=overwrite)
    found = compare(*(read_result(user_path(place)) for place in (a, b)))
    table = comparison_markdown(found)
    if output:
        write_file(output, f"{table}\n".encode(), overwrite=overwrite)
    verdicts = [f"{each.metric}: {each.verdict}" for each in found.metrics if each.verdict]
    r.result(comparison_table(found), text=table, quiet=[output] if output else verdicts)


def card(
    ctx: typer.Context,
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="Folder of a result, or its result.json.")
    ],
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            metavar="DIR",
            help="Folder of the pictures; the one that was scored if left out.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a result as a page, with a sheet of its pictures.

    Example: orthus eval card report/

    Puts report.md, report.html and, where there are pictures, sheet.png beside the result. The
    page opens from disk and loads nothing.
    """
    from orthus_core.evaluation.official.comparison import read_result
    from orthus_core.evaluation.official.report_card import report_card
    from orthus_core.results.output_names import check_free, write_file
    from orthus_core.user_files import user_path

    r = reporter(ctx)
    found = read_result(user_path(result))
    files = report_card(found, user_path(pictures) if pictures else None)
    paths = {found.path.with_name(name): content for name, content in files.items()}
    for path in paths:
        check_free(path, overwrite=overwrite)
    for path, content in paths.items():
        write_file(path, content, overwrite=overwrite)
    names = [str(path) for path in paths]
    r.result({"files": names}, text="\n".join(names), quiet=names)
