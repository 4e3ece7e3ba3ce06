"""docs/orthus.1, the manual page, from the commands: `python -m orthus_cli.manual > docs/orthus.1`.

Source: man(7) and groff_man(7): TH, SH, SS, TP, PP; a line of text must not begin with a control
character, and hyphens of options are written as minus signs.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from orthus_cli.app import app
from orthus_cli.help_sections import COMMAND_GROUPS, OPTION_GROUPS
from orthus_cli.plugins import discover
from orthus_core.version import __version__

_HEAD = f"""\
.\\" Change the commands, not this page: python \\-m orthus_cli.manual > docs/orthus.1
.TH ORTHUS 1 "" "orthus {__version__}" "User Commands"
.SH NAME
orthus \\- read and draw text and pictures with one model
"""
_AFTER = {
    "EXIT STATUS": (
        ("0", "Done."),
        ("1", "An error; its message says what went wrong, where, and what to do next."),
        ("2", "Wrong usage."),
        ("130", "Stopped with Ctrl-C."),
    ),
    "ENVIRONMENT": (
        ("ORTHUS_PLUGINS", "Names of the plugins to load; empty for none but our own commands."),
        ("ORTHUS_CACHE", "Folder of what is computed once and kept."),
        ("HF_HOME", "Folder of downloaded models, as for other tools of the Hugging Face hub."),
        ("NO_COLOR", "If set, tables have no colours."),
    ),
    "EXAMPLES": (
        ('orthus generate "a snowman" -o out.png', "Draw a picture with the bundled model."),
        ("orthus info out.png", "Show how it was made, and the command that draws it again."),
        ("orthus --install-completion", "Let the shell complete commands, options and names."),
    ),
}


def manual() -> str:
    """The whole page, in roff."""
    root = typer.main.get_command(app)
    ctx: Any = root.make_context("orthus", [], resilient_parsing=True)
    lines = [_HEAD.rstrip(), ".SH SYNOPSIS", ".B orthus", text("[OPTIONS] COMMAND [ARGS]...")]
    lines += [".SH DESCRIPTION", *_paragraphs(root.help)]
    lines += [".SH OPTIONS", *_options(root, ctx)]
    plugins = discover()
    for heading, names in COMMAND_GROUPS.items():
        lines.append(f".SH {heading.upper()}")
        for name in names:
            lines += _command(plugins[name].command, f"orthus {name}")
    for heading, entries in _AFTER.items():
        lines.append(f".SH {heading}")
        for term, description in entries:
            lines += _entry(term, description)
    return "\n".join(lines) + "\n"


def _command(command: Any, called: str) -> Iterator[str]:
    """A command's usage, description and options; those of its subcommands after it."""
    ctx = command.make_context(called, [], resilient_parsing=True)
    yield f".SS {_quoted(called)}"
    yield f".B {text(called)}"
    yield text(" ".join(command.collect_usage_pieces(ctx)))
    yield ".PP"
    yield from _paragraphs(command.help)
    yield from _options(command, ctx)
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _command(inner, f"{called} {name}")


def _options(command: Any, ctx: Any) -> Iterator[str]:
    """Arguments and options in the order of the help, under its headings."""
    sections: dict[str, list[tuple[str, str]]] = {"": []} | {group: [] for group in OPTION_GROUPS}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record and parameter.name != "help":
            heading = getattr(parameter, "rich_help_panel", None) or ""
            sections.setdefault(heading, []).append(record)
    for heading, records in sections.items():
        if heading and records:
            yield ".PP"
            yield f".I {text(heading)}"
        for names, description in records:
            yield from _entry(names, description)


def _entry(term: str, description: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_quoted(term)}"
    yield text(" ".join(description.split())) or "\\&"


def _paragraphs(written: str | None) -> Iterator[str]:
    """The paragraphs of a docstring."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(written or ""))):
        if number:
            yield ".PP"
        if line := " ".join(paragraph.split()):
            yield text(line)


def text(plain: str) -> str:
    """Plain text as a line of roff."""
    escaped = plain.replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _quoted(plain: str) -> str:
    """Plain text as one argument of a macro."""
    return '"' + text(plain).replace('"', "\\(dq") + '"'


if __name__ == "__main__":
    sys.stdout.write(manual())
