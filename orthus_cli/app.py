"""The one Typer object: global options, subcommands from entry points, errors in three lines.

Exit codes: 0 done, 1 an error (`OrthusError`, or one unforeseen), 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import copy
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from orthus_cli.console import Format, Reporter, Settings
from orthus_cli.help_sections import CommandList, Rows, by_purpose
from orthus_cli.plugins import Commands, discover
from orthus_cli.streams import occupy_closed
from orthus_core.errors import OrthusError
from orthus_core.version import __version__

GLOBALS = ("format", "verbose", "quiet", "debug")
"""Options of the root command that may also stand after a subcommand's name."""


class OrthusGroup(CommandList):
    """The root command; its subcommands are the installed entry points."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = Commands(discover())  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = self.commands.get(cmd_name)
        if command is not None:
            _accept_globals(command, [option for option in self.params if option.name in GLOBALS])
            _expand_home(command)
        return command

    def sections(self, about: Mapping[str, str]) -> dict[str, Rows]:
        return by_purpose(about)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        super().format_commands(ctx, formatter)
        plugins = self.commands.plugins.values()  # type: ignore[attr-defined]
        failed = [(plugin.name, plugin.problem) for plugin in plugins if plugin.problem]
        if failed:
            with formatter.section("Failed to load"):
                formatter.write_dl(failed)
        if not self.commands:
            formatter.write("\nNo commands are registered: install the package with pip first.\n")

    def invoke(self, ctx: Any) -> None:
        code = self._run(ctx)
        settings = ctx.obj or Settings()
        try:
            Reporter(settings).check_printed()
        except OrthusError as error:
            _report(ctx, error)
            code = code or 1
        # A reader that closed its pipe is not told, but a script may want to know.
        raise typer.Exit(code or int(settings.reader_left))

    def _run(self, ctx: Any) -> int:
        """Runs the command and reports its error; returns the exit code."""
        try:
            super().invoke(ctx)
        except OrthusError as error:
            _report(ctx, error)
        except KeyboardInterrupt:
            Reporter(Settings()).say("stopped")
            return 130
        except typer.Exit as ended:
            return ended.exit_code
        except (typer.Abort, typer.TyperException):
            raise
        except Exception as error:
            _report(ctx, _unforeseen(error))
        else:
            return 0
        return 1

    def main(self, *words: Any, standalone_mode: bool = True, **settings: Any) -> Any:
        """Runs as Typer does, and survives streams that take neither help nor usage errors."""
        if not standalone_mode:
            return super().main(*words, standalone_mode=False, **settings)
        r = Reporter(Settings())
        try:
            code = super().main(*words, standalone_mode=False, **settings)
        except typer.TyperException as error:
            _add_suggestion(error)
            r.usage(error)
            code = error.exit_code
        except typer.Abort:
            r.say("stopped")
            code = 1
        except OrthusError as error:  # of an option that prints, such as --version
            r.error(error)
            code = 1
        except OSError as error:  # while Typer wrote help
            code = r.refused(error)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=OrthusGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        r = Reporter(Settings())
        r.result({"version": __version__}, text=f"orthus {__version__}")
        r.check_printed()
        raise typer.Exit()


@app.callback()
def orthus(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    format: Annotated[
        Format,
        typer.Option("--format", help="How results are printed; json is one object on stdout."),
    ] = "auto",
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Say more.", show_default=False)
    ] = 0,
    quiet: Annotated[
        int, typer.Option("-q", "--quiet", count=True, help="Say less.", show_default=False)
    ] = 0,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the code an error arose.")
    ] = False,
) -> None:
    """Orthus: one model that reads and draws text and pictures.

    These options may also stand after the command.
    """
    ctx.obj = Settings(format, verbose - quiet, debug)


def _accept_globals(command: Any, options: list[Any]) -> None:
    """Lets a command, and its subcommands, take the global options; its own options take
    precedence.
    """
    taken = {word for param in command.params for word in (*param.opts, *param.secondary_opts)}
    for option in options:
        if taken.isdisjoint(option.opts):
            twin = copy.copy(option)
            twin.expose_value, twin.hidden = False, True
            twin.default, twin.callback = None, _remember
            command.params.append(twin)
    for inner in getattr(command, "commands", {}).values():
        _accept_globals(inner, options)


def _expand_home(command: Any) -> None:
    """Lets each path of a command, and of its subcommands, begin with `~`: shells leave it alone
    after `=` and in quotes.
    """
    for inner in getattr(command, "commands", {}).values():
        _expand_home(inner)
    if command.callback is None:
        return
    types = inspect.signature(command.callback, eval_str=True).parameters
    for param in command.params:
        if param.name in types and _takes_paths(types[param.name].annotation):
            param.process_value = _expanding(param.process_value)


def _takes_paths(annotation: Any) -> bool:
    """Whether a parameter's type is a path, several, or none."""
    return annotation is Path or any(map(_takes_paths, typing.get_args(annotation)))


def _expanding(process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A parameter's processing of what was typed, with home folders put in first."""

    def expand(typed: Any) -> Any:
        if isinstance(typed, (list, tuple)):
            return type(typed)(map(expand, typed))
        if isinstance(typed, str) and typed.startswith(("~", "./~")):
            from orthus_core.user_files import user_path

            return str(user_path(typed))
        return typed

    return lambda ctx, typed: process(ctx, expand(typed))


def _remember(ctx: Any, option: Any, value: Any) -> None:
    settings: Settings = ctx.find_root().obj
    if not value:  # not given here
        return
    if option.name in ("verbose", "quiet"):
        settings.verbosity += value if option.name == "verbose" else -value
    else:
        setattr(settings, option.name, value)


def _report(ctx: Any, error: OrthusError) -> None:
    settings = ctx.obj or Settings(debug=ctx.params.get("debug", False))
    if settings.debug:
        traceback.print_exc()
    Reporter(settings).error(error)


def _add_suggestion(error: Any) -> None:
    """Adds what was probably meant to a usage error about an option."""
    from orthus_cli.suggestions import suggest_option, suggest_value

    command = getattr(getattr(error, "ctx", None), "command", None)
    name = getattr(error, "option_name", None)
    said = ""
    if name and command and hasattr(error, "possibilities"):  # an option that does not exist
        said, error.possibilities = suggest_option(name, command), None
    elif {"--device", "--dtype"} & {*getattr(getattr(error, "param", None), "opts", ())}:
        said = suggest_value(str(error).partition("'")[2].partition("'")[0])
    if said:
        error.message = f"{error.message.rstrip('.')}: {said}"


def _unforeseen(error: Exception) -> OrthusError:
    """An unexpected exception as an `OrthusError`."""
    name = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        what, where = error.strerror, str(error.filename or "")
    else:
        what, where = (str(error).splitlines() or [""])[0], ""
    return OrthusError(
        f"{name}: {what}" if what else name,
        where=where,
        hint="run again with --debug to see where it arose",
    )


def main() -> None:
    """Entry point of the `orthus` script."""
    occupy_closed()
    app(prog_name="orthus")
