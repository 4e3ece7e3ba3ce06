"""What installed distributions add to orthus through entry points: commands and data formats.

An entry point is imported when it is loaded and not before. Whatever is wrong with it is kept as
its `problem` and hurts nothing else. The environment variable `ORTHUS_PLUGINS` says which
distributions besides ours are looked at: unset is all, empty is none, otherwise names of entry
points or distributions, with commas between.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

OURS = "orthus-kit"
COMMANDS = "orthus.commands"
DATA_FORMATS = "orthus.data_formats"
VARIABLE = "ORTHUS_PLUGINS"


@dataclass
class Plugin:
    """One entry point: where it comes from and, once it was loaded, what is wrong with it."""

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
        """The names that `ORTHUS_PLUGINS` may mean it by."""
        return {normal_name(self.name), self.distribution}

    def load_target(self) -> Any:
        """What the entry point names; None where it has a problem, or now gets one."""
        if self.entry is None or self.problem:
            return None
        try:
            return self.entry.load()
        # A module of someone else's may do anything on import, also leave the interpreter.
        except (Exception, SystemExit) as error:
            self.fail(error)
            return None

    def fail(self, error: BaseException) -> None:
        """Keep an error as the problem."""
        self.problem = f"{type(error).__name__}: {error}".splitlines()[0]
        self.cause = error


AnyPlugin = TypeVar("AnyPlugin", bound=Plugin)


def installed(group: str, kind: type[AnyPlugin], taken: dict[str, str]) -> dict[str, AnyPlugin]:
    """The allowed entry points of a group that are not ours, by name.

    Args:
        group: `COMMANDS` or `DATA_FORMATS`.
        kind: The class that holds them.
        taken: Names that are in use, and by which distribution. One that wants such a name is
            listed under another one with its problem.
    """
    wanted, owners = allowed_names(), dict(taken)
    plugins: dict[str, AnyPlugin] = {}
    found = [plugin for plugin in every(group, kind) if not plugin.is_ours]
    for plugin in sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)):
        if wanted is not None and not plugin.answers_to & wanted:
            continue
        if plugin.name in owners:
            plugin.problem = f"the name is taken by {owners[plugin.name]}"
            plugin.name = f"{plugin.name} ({plugin.distribution})"
        owners[plugin.name] = plugin.distribution
        plugins[plugin.name] = plugin
    return plugins


def every(group: str, kind: type[AnyPlugin]) -> list[AnyPlugin]:
    """All entry points of a group, allowed or not."""
    plugins = []
    for entry in entry_points(group=group):
        if entry.dist is None:
            plugins.append(kind(entry.name, entry, "unknown"))
        else:
            name = normal_name(entry.dist.name)
            plugins.append(kind(entry.name, entry, name, entry.dist.version))
    return plugins


def missing_names() -> list[str]:
    """The names in `ORTHUS_PLUGINS` that no installed entry point answers to."""
    groups = (COMMANDS, DATA_FORMATS)
    answered = {name for group in groups for p in every(group, Plugin) for name in p.answers_to}
    return sorted((allowed_names() or set()) - answered)


def allowed_names() -> set[str] | None:
    """The names in `ORTHUS_PLUGINS`; None when it is not set and all are allowed."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return None
    return {normal_name(name.strip()) for name in named.split(",") if name.strip()}


def imported(name: str) -> Any:
    """What `package.module.name` names.

    Raises: ImportError or AttributeError when it does not exist, ValueError for a name without a
        dot.
    """
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def normal_name(name: str) -> str:
    """A distribution's name as the packaging specification compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
