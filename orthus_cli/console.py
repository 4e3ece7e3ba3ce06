"""Output of commands: results to stdout, all else to stderr, drawn only for a person at a terminal.

    r = reporter(ctx)
    r.say("mini on cpu, fp32")                # stderr, silent with -q
    for event in r.track(generate(...)):    # in a terminal: a bar with rate and time left
        ...
    r.result({"files": names}, quiet=names)   # stdout: text, one JSON object, or bare names

rich is imported when something is drawn, never when a command starts.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import typer

from orthus_core.errors import OrthusError, OutputError
from orthus_core.events import ImageBegun, Note, PatchDone, Progress, StepDone
from orthus_core.shell_words import shell_quoted

if TYPE_CHECKING:
    import rich.console
    import rich.progress
from orthus_cli.progress import Bar, Lines, Show, rich_console, speed_words
from orthus_cli.streams import (
    encoding_of,
    is_half,
    looked_at,
    printable,
    silence,
    stream_of,
    takes_bytes,
)

Format = Literal["auto", "human", "json", "quiet"]
E = TypeVar("E")


@dataclass
class Settings:
    """Values of the global options; stored in `ctx.obj` of the root command.

    Attributes:
        lost: Whether letters of the result were printed as question marks.
        unprinted: Why standard output did not take the result; empty while it does.
        reader_left: Whether the reader of standard output closed its pipe, as `head` does.
    """

    format: Format = "auto"
    verbosity: int = 0
    debug: bool = False
    lost: bool = False
    unprinted: str = ""
    reader_left: bool = False


def reporter(ctx: typer.Context) -> Reporter:
    """The reporter of the command that runs in this context."""
    settings = ctx.find_root().obj
    return Reporter(settings if isinstance(settings, Settings) else Settings())


class Reporter:
    """Writes output in the format that the user chose.

    | format | a table | the result |
    |---|---|---|
    | human | drawn, also into a pipe | text |
    | auto | drawn in a terminal, tab-separated in a pipe | text |
    | json | - | one JSON object, and nothing else on stdout |
    | quiet | - | bare values, one a line |
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._bar: Bar | None = None
        self._answered = False

    @property
    def verbose(self) -> bool:
        return self.settings.verbosity > 0

    @property
    def is_json(self) -> bool:
        return self.settings.format == "json"

    # To stderr

    def say(self, message: str) -> None:
        """Writes a line about the run, unless -q is set."""
        if self.settings.verbosity >= 0:
            self._aside(message)

    def detail(self, message: str) -> None:
        """Writes a line that is shown only with -v."""
        if self.verbose:
            self._aside(message)

    def detail_command(self, words: Sequence[str]) -> None:
        """Writes a command as it can be pasted from here, only with -v."""
        self.detail(shell_quoted(words, encoding_of(stream_of(err=True))))

    def warn(self, message: str) -> None:
        """Writes a line that is shown even with -q."""
        self._aside(f"{_coloured('warning:', 'yellow')} {printable(message)}", clean=False)

    def error(self, error: OrthusError) -> None:
        """Writes what went wrong, where, and what to do next."""
        self._aside(f"{_coloured('error:', 'red')} {printable(str(error))}", clean=False)

    def usage(self, error: typer.TyperException) -> None:
        """Writes what is wrong with how a command was called."""
        shown = io.StringIO()
        show = getattr(error, "show", None)
        if show:
            show(shown)
        self._emit(printable(shown.getvalue() or f"Error: {error}\n"), err=True, nl=False)

    def refused(self, error: OSError) -> int:
        """Reports that standard output did not take what Typer wrote; returns the exit code."""
        silence(sys.stdout)
        if error.errno == errno.EPIPE:
            return 1
        self.settings.unprinted = error.strerror or str(error)
        try:
            self.check_printed()
        except OutputError as unprinted:
            self.error(unprinted)
        return 1

    # To stdout

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = ""
    ) -> None:
        """Writes rows for people; `result` gives programs the same."""
        if self.settings.format in ("json", "quiet"):
            return
        self._pause()
        cells = [[printable(_cell(value)) for value in row] for row in rows]
        if self.settings.format == "human" or looked_at(sys.stdout):
            self._emit(_drawn_table(columns, cells, title), nl=False)
        else:
            for row in (columns, *cells):
                self._emit("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))

    def result(
        self,
        data: Mapping[str, Any],
        *,
        text: str | None = None,
        quiet: Iterable[object] = (),
        content: bytes | None = None,
    ) -> None:
        """Writes what the command found or made; called once, at the end of a command.

        Args:
            data: The result as JSON can hold it.
            text: The same for people; lines of `key: value` when None, nothing when "" (a table has
                shown it all).
            quiet: Bare values for scripts, such as the paths of the files written.
            content: Bytes of a file that is shown; a pipe gets them as they are, whatever its
                encoding, so that what is saved from it is that file.
        """
        assert not self._answered, "a command has one result"
        self._answered = True
        self._pause()
        if self.is_json:
            self._emit(_json(data))
        elif content is not None and not looked_at(sys.stdout) and takes_bytes(sys.stdout):
            self._emit(content)
        elif self.settings.format == "quiet":
            for value in quiet:
                self._emit(self._bare(str(value)))
        elif text is None:
            for name, value in data.items():
                self._emit(printable(f"{name}: {_cell(value)}"))
        elif text:
            self._emit(printable(text))

    def write(self, text: str) -> None:
        """Writes a piece of text as it arrives, for people only; no line break is added."""
        if self.settings.format in ("auto", "human"):
            self._pause()
            self._emit(printable(text), nl=False)

    def styled(self, runs: Iterable[tuple[str, str]]) -> None:
        """Writes runs of text, each with a style of rich, for people only. In a pipe, and without
        colours, `**` stands on both sides of what is bold.
        """
        if self.settings.format not in ("auto", "human"):
            return
        self._pause()
        clean = [(printable(text), style) for text, style in runs]
        if looked_at(sys.stdout) and "NO_COLOR" not in os.environ:
            self._emit(_drawn_text(clean), nl=False)
        else:
            for style, alike in groupby(clean, key=lambda run: run[1]):
                text = "".join(text for text, _ in alike)
                self._emit(_marked(text) if style == "bold" else text, nl=False)

    def check_printed(self) -> None:
        """Says what of the output was not printed as it is.

        Raises:
            OutputError: When standard output took none of it, or not all.
        """
        settings = self.settings
        if settings.lost:
            settings.lost = False
            self.warn(
                f"letters that {encoding_of(sys.stdout)} lacks are printed as ?; "
                "PYTHONIOENCODING=utf-8 prints them all, and --format json escapes them"
            )
        if settings.unprinted:
            reason, settings.unprinted = settings.unprinted, ""
            raise OutputError(
                f"the result could not be printed: {reason}",
                where="standard output",
                hint="files that were written are kept",
            )

    # Long work

    @property
    def can_show(self) -> bool:
        """Whether a picture can be shown while it is drawn, that is, stderr is a terminal."""
        return self.settings.verbosity >= 0 and looked_at(sys.stderr)

    def room(self) -> tuple[int, int]:
        """Columns and lines of the terminal that a picture may take, the bar's line left free."""
        size = rich_console(sys.stderr).size
        return size.width, max(1, size.height - 3)

    def show(self, picture: rich.console.RenderableType | None) -> None:
        """Puts a picture above the bar while one is drawn, or takes it away."""
        if self._bar:
            self._bar.picture = picture

    def track(self, events: Iterable[E], *, images: int | None = None) -> Iterator[E]:
        """Passes events on and shows their progress; it prints notes, and reports pictures that
        were begun for the model.

        Args:
            events: Events from `orthus_core`.
            images: Number of pictures to be drawn, if known; otherwise they are counted as they
                begin.
        """
        patches: dict[tuple[int, int], PatchDone] = {}
        with self._showing() as show, _closing(events):
            for event in events:
                if isinstance(event, Note):
                    self.say(event.message)
                elif isinstance(event, ImageBegun) and event.forced:
                    self.say(begun_for_the_model(event))
                elif isinstance(event, Progress):
                    show(event.stage, event.done, event.total, event.unit, "")
                elif isinstance(event, StepDone):
                    figures = [f"{name} {value:.4g}" for name, value in event.metrics.items()]
                    said = ", ".join(filter(None, [*figures[:3], speed_words(event.speed)]))
                    show("training", event.step, event.total, "steps", said)
                elif isinstance(event, PatchDone):
                    patches[event.row, event.image] = event
                    done = sum(patch.done for patch in patches.values())
                    total = event.total * max(images or 0, len(patches))
                    show("drawing", done, total, "patches", "")
                yield event

    @contextmanager
    def _showing(self) -> Iterator[Show]:
        if self.settings.verbosity < 0:
            yield lambda *_: None
        elif not looked_at(sys.stderr):
            yield Lines(self.say)
        else:
            self._bar = Bar()
            try:
                yield self._bar
            finally:
                self._bar.pause()
                self._bar = None

    def _pause(self) -> None:
        """Takes the bar off the screen before something is written; the next event redraws it."""
        if self._bar:
            self._bar.pause()

    def _aside(self, message: str, *, clean: bool = True) -> None:
        self._pause()
        self._emit(printable(message) if clean else message, err=True)

    def _bare(self, value: str) -> str | bytes:
        """A value for a script: in a pipe a file name is its bytes, UTF-8 or not, because it has to
        lead to the file.
        """
        if any(map(is_half, value)) and not looked_at(sys.stdout) and takes_bytes(sys.stdout):
            with suppress(UnicodeEncodeError):
                return value.encode(encoding_of(sys.stdout), "surrogateescape") + b"\n"
        return printable(value)

    def _emit(self, text: str | bytes, *, err: bool = False, nl: bool = True) -> None:
        """Writes to a standard stream: the one place that does.

        What the stream's encoding lacks (an emoji on an old console) becomes a question mark. A
        stream that does not take it never ends the work: standard error is left out from then on,
        and what standard output did not get is said at the end by `check_printed`.
        """
        stream = stream_of(err=err)
        if stream is None:
            self._fail("it is closed", err=err)
            return
        shown = text
        if isinstance(text, str):
            encoding = encoding_of(stream)
            shown = text.encode(encoding, "replace").decode(encoding, "replace")
            # An aside repeats what is known; a result may be all that there is.
            self.settings.lost |= shown != text and not err
        try:
            typer.echo(shown, err=err, nl=nl and isinstance(text, str))
        except (OSError, ValueError) as error:  # ValueError: closed by Python code
            silence(stream)
            if getattr(error, "errno", None) == errno.EPIPE:
                self.settings.reader_left |= not err
            else:
                self._fail(getattr(error, "strerror", None) or str(error), err=err)

    def _fail(self, reason: str, *, err: bool) -> None:
        if not err:
            self.settings.unprinted = self.settings.unprinted or reason


@contextmanager
def _closing(events: Iterable[Any]) -> Iterator[None]:
    """Closes a generator when its reader stops, so that its resources are released at once."""
    try:
        yield
    finally:
        close = getattr(events, "close", None)
        if close:
            close()


def begun_for_the_model(event: ImageBegun) -> str:
    """The message for a picture that the model did not begin itself."""
    number = event.image + 1 if event.panel is None else event.panel
    instead = "would have ended" if event.ending else "was still writing"
    return f"picture {number} was begun for the model, which {instead}"


def _json(data: Mapping[str, Any]) -> str:
    """One JSON object; characters that stdout cannot encode are escaped."""
    text = json.dumps(_finite(data), indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(encoding_of(sys.stdout))
    except UnicodeEncodeError:
        return json.dumps(_finite(data), indent=2, default=str)
    return text


def _coloured(word: str, colour: str) -> str:
    plain = "NO_COLOR" in os.environ or not looked_at(sys.stderr)
    return word if plain else typer.style(word, fg=colour, bold=True)


def _drawn_table(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title=Text(title) if title else None,
        title_justify="left",
    )
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    console = rich_console(sys.stdout)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()


def _drawn_text(runs: Iterable[tuple[str, str]]) -> str:
    from rich.text import Text

    console = rich_console(sys.stdout)
    with console.capture() as capture:
        console.print(Text.assemble(*runs), end="")
    return capture.get()


def _marked(text: str) -> str:
    """The text in `**`, with the spaces at its end after them."""
    words = text.rstrip()
    return f"**{words}**{text[len(words) :]}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return str(value)


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON cannot write."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
