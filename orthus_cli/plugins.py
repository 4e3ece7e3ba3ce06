"""Subcommands are entry points of the group `orthus.commands`: ours are found in the same way as
third-party ones.

An entry point names a function that Typer can read, or a `typer.Typer` with subcommands of its own.
Its module is imported only when its name is called or the help lists it, and a plugin that fails
affects no other command. `ORTHUS_PLUGINS` sets which third-party plugins are loaded: all if unset,
none if empty, otherwise those commands or distributions that it names, separated by commas.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
import typer.main

from orthus_cli.help_sections import GroupedOptions
from orthus_core.errors import OrthusError

GROUP = "orthus.commands"
OURS = "orthus-kit"


@dataclass
class Plugin:
    """One subcommand: where it comes from, and, once it is loaded, the command or its problem."""

    name: str
    entry: EntryPoint | None
    distribution: str
    version: str = ""
    problem: str = ""
    cause: BaseException | None = None

    @property
    def is_ours(self) -> bool:
        return self.distribution == OURS

    @property
    def answers_to(self) -> set[str]:
        """The names by which `ORTHUS_PLUGINS` may select it."""
        return {_normal(self.name), self.distribution}

    @cached_property
    def command(self) -> Any:
        """The command as Typer builds it, or one that reports why it could not be built."""
        if self.entry and not self.problem:
            try:
                return _build(self.name, self.entry.load())
            # A third-party module may do anything on import, even exit the interpreter.
            except (Exception, SystemExit) as error:
                self.problem = f"{type(error).__name__}: {error}".splitlines()[0]
                self.cause = error
        return self._complaint()

    def _complaint(self) -> Any:
        leave = f"update or remove {self.distribution}, or leave it out with ORTHUS_PLUGINS"

        def complain() -> None:
            raise OrthusError(
                f"the command {self.name!r} of {self.distribution} did not load: {self.problem}",
                where=self.entry.value if self.entry else "ORTHUS_PLUGINS",
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

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        self.plugins = plugins

    def __getitem__(self, name: str) -> Any:
        return self.plugins[name].command

    def __iter__(self) -> Iterator[str]:
        return iter(self.plugins)

    def __len__(self) -> int:
        return len(self.plugins)


def discover() -> dict[str, Plugin]:
    """The subcommands that are installed and allowed: ours first, each group by name.

    A third-party plugin cannot take a name of ours or of another plugin; one that is requested but
    missing is listed with its problem.
    """
    found = [_plugin(entry) for entry in entry_points(group=GROUP)]
    plugins = {plugin.name: plugin for plugin in found if plugin.is_ours}
    wanted = _wanted()
    for plugin in sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)):
        if plugin.is_ours or not (wanted is None or plugin.answers_to & wanted):
            continue
        if plugin.name in plugins:
            plugin.problem = f"the name is taken by {plugins[plugin.name].distribution}"
            plugin.name = f"{plugin.name} ({plugin.distribution})"
        plugins[plugin.name] = plugin
    for name in sorted((wanted or set()).difference(*(plugin.answers_to for plugin in found))):
        plugins[name] = Plugin(
            name, None, name, problem="ORTHUS_PLUGINS names it, and it is not installed"
        )
    return plugins


def _plugin(entry: EntryPoint) -> Plugin:
    if entry.dist is None:
        return Plugin(entry.name, entry, "unknown")
    return Plugin(entry.name, entry, _normal(entry.dist.name), entry.dist.version)


def _normal(name: str) -> str:
    """A distribution's name as the packaging specification compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _wanted() -> set[str] | None:
    named = os.environ.get("ORTHUS_PLUGINS")
    if named is None:
        return None
    return {_normal(name.strip()) for name in named.split(",") if name.strip()}


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
