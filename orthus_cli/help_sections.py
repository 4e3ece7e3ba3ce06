"""How help is laid out: options and commands under headings, and no line cut off.

An option's heading is its `rich_help_panel`, as anywhere in Typer. The pages are plain text,
because that starts faster than rich and looks the same in a pipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

WHAT = "What to draw"
ASK = "What to ask"
HOW = "How it is sampled"
WHERE = "Where it goes"
MODEL = "Model and device"
RECIPE = "Recipe and earlier results"

OPTION_GROUPS = (WHAT, ASK, HOW, WHERE, MODEL, RECIPE)
"""Headings of options, in the order they are printed."""

COMMAND_GROUPS = {
    "Draw": ("generate", "edit", "story", "caption", "ui", "serve"),
    "Train": (
        *("convert", "pretrain", "finetune-vae", "build-base", "posttrain"),
        *("merge", "distill", "starter", "data", "recipes"),
    ),
    "Measure": ("eval", "bench", "plan", "reproduce"),
    "Look": ("info", "replay", "doctor", "plugins"),
}
"""Our commands under their headings, in the order they are printed; what is not here is "Other"."""

OTHER = "Other"
# A longer name or option gets a line of its own.
WIDEST = 30
Rows = list[tuple[str, str]]


class GroupedOptions(TyperCommand):
    """A command that lists its options under headings if each of them has one."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        shown = [(each, each.get_help_record(ctx)) for each in self.get_params(ctx)]
        sections: dict[str, Rows] = {"Arguments": []}
        sections |= {group: [] for group in OPTION_GROUPS}
        for option, record in shown:
            if record is None:
                continue
            panel = getattr(option, "rich_help_panel", None)
            if option.param_type_name == "argument":
                sections["Arguments"].append(record)
            elif panel is None and option.name != "help":
                return super().format_options(ctx, formatter)
            else:
                sections.setdefault(panel or OTHER, []).append(record)
        _write(formatter, sections)


class CommandList(TyperGroup):
    """A group that lists each command with its complete first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        names = self.list_commands(ctx)
        found = [(name, self.get_command(ctx, name)) for name in names]
        _write(
            formatter,
            self.sections(
                {name: first_sentence(each) for name, each in found if each and not each.hidden}
            ),
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the first word; where there is none, what was probably meant is said."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name):
            return super().resolve_command(ctx, args)

        from orthus_cli.suggestions import suggest_command

        said = suggest_command(name, self.list_commands(ctx))
        return ctx.fail(f"no command {name!r}" + (f": {said}" if said else ""))

    def sections(self, about: Mapping[str, str]) -> dict[str, Rows]:
        """Rows of commands and what they do, by heading."""
        return {"Commands": list(about.items())}


def first_sentence(command: Any) -> str:
    """The first sentence of a command's help, for lists of commands."""
    whole = len(command.help or "") + 1  # Typer would cut a longer one off, and not at a sentence
    return command.get_short_help_str(whole)


def by_purpose(about: Mapping[str, str]) -> dict[str, Rows]:
    """The root's commands under their headings."""
    left = dict(about)
    sections = {
        heading: [(name, left.pop(name)) for name in names if name in left]
        for heading, names in COMMAND_GROUPS.items()
    }
    return {**sections, OTHER: list(left.items())}


def _write(formatter: Any, sections: Mapping[str, Rows]) -> None:
    """Writes sections with rows, their second columns aligned."""
    names = [name for rows in sections.values() for name, _ in rows]
    width = min(max(map(len, names), default=0), WIDEST)
    for heading, rows in sections.items():
        if rows:
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), said) for name, said in rows], WIDEST)
