"""`orthus plugins`: which distribution each command and data format comes from, and what did not
load.
"""

from __future__ import annotations

import typer

from orthus_cli.console import reporter
from orthus_cli.plugins import discover
from orthus_core.entry_points import Plugin


def plugins(ctx: typer.Context) -> None:
    """List the commands, and where each comes from.

    Data formats that other packages add are listed too. What did not load is listed with the
    reason.
    """
    from orthus_core.data.formats.sniff import discover_formats

    commands, formats = [], []
    for plugin in discover().values():
        _ = plugin.command  # the problem is known once it was built
        commands.append(_row("command", plugin))
    for plugin in discover_formats().values():
        _ = plugin.format
        formats.append(_row("data format", plugin))
    r = reporter(ctx)
    for rows in (commands, formats):
        if rows:
            r.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    names = [row["command"] for row in commands if not row["problem"]]
    r.result({"plugins": commands, "data_formats": formats}, text="", quiet=names)


def _row(kind: str, plugin: Plugin) -> dict[str, str]:
    return {
        kind: plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "target": plugin.entry.value if plugin.entry else "",
        "problem": plugin.problem,
    }
