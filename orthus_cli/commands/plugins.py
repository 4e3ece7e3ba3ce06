"""`orthus plugins`: which distribution each command comes from, and what did not load."""

from __future__ import annotations

import typer

from orthus_cli.console import reporter
from orthus_cli.plugins import discover


def plugins(ctx: typer.Context) -> None:
    """List the commands, and where each comes from.

    What did not load is listed with the reason.
    """
    found = []
    for plugin in discover().values():
        _ = plugin.command  # building it reveals any problem
        found.append(
            {
                "command": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "target": plugin.entry.value if plugin.entry else "",
                "problem": plugin.problem,
            }
        )
    r = reporter(ctx)
    r.table(tuple(found[0]) if found else (), [tuple(row.values()) for row in found])
    names = [row["command"] for row in found if not row["problem"]]
    r.result({"plugins": found}, text="", quiet=names)
