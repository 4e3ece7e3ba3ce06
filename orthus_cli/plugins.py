"""Subcommands are entry points of the group `orthus.commands`: ours are found in the same way as
third-party ones.

An entry point names a function that Typer can read, or a `typer.Typer` with subcommands of its own.
Its module is imported only when its name is called or the help lists it, and a plugin that fails
affects no other command. `ORTHUS_PLUGINS` sets which third-party plugins are loaded
(`orthus_core.entry_points`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import typer
import typer.main

from orthus_cli.help_sections import GroupedOptions
from orthus_core.entry_points import (
    COMMANDS,
    OURS,
    VARIABLE,
    Plugin,
    every,
    installed,
    missing_names,
)
from orthus_core.errors import OrthusError


class CommandPlugin(Plugin):
    """One subcommand: where it comes from, and once asked, the command or what is wrong with it."""

    @cached_property
    def command(self) -> Any:
        """The command as Typer builds it, or one that says why that did not work."""
        target = self.load_target()
        if self.entry and not self.problem:
            try:
                return _build(self.name, target)
            except (Exception, SystemExit) as error:
                self.fail(error)
        return self._complaint()

    def _complaint(self) -> Any:
        leave = f"update or remove {self.distribution}, or leave it out with {VARIABLE}"

        def complain() -> None:
            raise OrthusError(
                f"the command {self.name!r} of {self.distribution} did not load: {self.problem}",
                where=self.entry.value if self.entry else VARIABLE,
                hint=f"install {OURS} again" if self.is_ours else leave,
            ) from self.cause

        command = _build(self.name, complain)
        command.hidden = True
        command.help = f"Did not load: {self.problem}"
        command.ignore_unknown_options = True
        command.allow_extra_args = True
        return command


class Commands(Mapping[str, Any]):
    """Subcommands by name, each imported when it is looked up."""

    def __init__(self, plugins: Mapping[str, CommandPlugin]) -> None:
        self.plugins = plugins

    def __getitem__(self, name: str) -> Any:
        return self.plugins[name].command

    def __iter__(self) -> Iterator[str]:
        return iter(self.plugins)

    def __len__(self) -> int:
        return len(self.plugins)


def discover() -> dict[str, CommandPlugin]:
    """The subcommands that are installed and allowed: ours first, each group by name.

    A third-party plugin cannot take a name of ours or of another plugin; one that is requested but
    missing is listed with its problem.
    """
    ours = {p.name: p for p in every(COMMANDS, CommandPlugin) if p.is_ours}
    plugins = ours | installed(COMMANDS, CommandPlugin, dict.fromkeys(ours, OURS))
    for name in missing_names():
        problem = f"{VARIABLE} names it, and it is not installed"
        plugins[name] = CommandPlugin(name, None, name, problem=problem)
    return plugins


def _build(name: str, target: Any) -> Any:
    """The command built from a function or a Typer object.

    Raises:
        TypeError: When it is neither.
    """
    parent = typer.Typer(rich_markup_mode=None, add_completion=False)
    parent.callback()(_group)
    if isinstance(target, typer.Typer):
        parent.add_typer(target, name=name)
    elif callable(target) and not isinstance(target, type):
        parent.command(name, cls=GroupedOptions)(target)
    else:
        raise TypeError(f"it is a {type(target).__name__}, and must be a function or a typer.Typer")
    return typer.main.get_command(parent).commands[name]  # type: ignore[attr-defined]


def _group() -> None:
    """A callback makes Typer keep subcommands apart, even if there is only one."""
