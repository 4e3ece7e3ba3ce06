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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO, TypeVar

import typer

from orthus_core.errors import OrthusError, OutputError
from orthus_core.events import ImageBegun, Note, PatchDone, Progress, StepDone

if TYPE_CHECKING:
    import rich.console
    import rich.progress

Format = Literal["auto", "human", "json", "quiet"]
E = TypeVar("E")

SHORTEST_BAR, LONGEST_BAR = 8, 40
"""Columns of a bar: what is said beside it leaves it so many, and it takes no more."""
LINE_EVERY = 30.0
"""Seconds between two lines of progress where no bar can be drawn."""


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
        if self.settings.format == "human" or _looked_at(sys.stdout):
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
        elif content is not None and not _looked_at(sys.stdout) and _takes_bytes(sys.stdout):
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
        return self.settings.verbosity >= 0 and _looked_at(sys.stderr)

    def room(self) -> tuple[int, int]:
        """Columns and lines of the terminal that a picture may take, the bar's line left free."""
        size = _console(sys.stderr).size
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
                    show("training", event.step, event.total, "steps", ", ".join(figures[:3]))
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
        elif not _looked_at(sys.stderr):
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
        if any(map(is_half, value)) and not _looked_at(sys.stdout) and _takes_bytes(sys.stdout):
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


class Show(Protocol):
    """Something that shows how far a stage has come."""

    def __call__(self, stage: str, done: int, total: int, unit: str, figures: str, /) -> None: ...


class Pace:
    """Rate and remaining time of a stage, measured from its first event.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._began = 0.0
        self._first = 0

    def __call__(self, stage: str, done: int, total: int, unit: str) -> str:
        """Text such as `12.5 patches/s, 0:42 left`; empty until there is something to measure."""
        if stage != self._stage or done < self._first:
            self._stage, self._began, self._first = stage, self._clock(), done
        passed, made = self._clock() - self._began, done - self._first
        if passed <= 0 or made <= 0:
            return ""
        rate = made / passed
        speed = f"{rate:.3g} {unit}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
        return f"{speed}, {_duration((total - done) / rate)} left"


class Lines:
    """Progress without a terminal: a line at intervals, and one when a stage is done."""

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._pace = Pace(clock)
        self._last = clock()

    def __call__(self, stage: str, done: int, total: int, unit: str, figures: str, /) -> None:
        pace = self._pace(stage, done, total, unit)
        if done < total and self._clock() - self._last < LINE_EVERY:
            return
        self._last = self._clock()
        parts = (f"{stage}: {done}/{total} {unit}", pace if done < total else "", figures)
        self._say(", ".join(part for part in parts if part))


class Bar:
    """One bar on stderr for the current stage, with a picture above it if there is one to show."""

    def __init__(self) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn

        self.picture: rich.console.RenderableType | None = None
        self._pace = Pace()
        self._running = False
        self._stage: tuple[str, rich.progress.TaskID] | None = None
        console = _console(sys.stderr)
        self._drawn_bar = BarColumn()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            self._drawn_bar,
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[about]}", markup=False),
            console=console,
        )
        self._live = Live(
            get_renderable=self._renderable,
            console=console,
            refresh_per_second=10,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __call__(self, stage: str, done: int, total: int, unit: str, figures: str, /) -> None:
        rate, _, left = self._pace(stage, done, total, unit).rpartition(", ")
        of_loss = [figure for figure in figures.split(", ") if not figure.startswith("lr ")]
        # The name, the count and the spaces between four columns are always shown.
        room = self._live.console.width - len(f"{stage} {done}/{total}") - 3
        about = _fitting(
            (unit, rate, left, *of_loss), (left, rate, unit, *of_loss), room - SHORTEST_BAR
        )
        self._drawn_bar.bar_width = max(1, min(LONGEST_BAR, room - len(about)))
        if self._stage is None or self._stage[0] != stage:
            if self._stage is not None:
                self._progress.remove_task(self._stage[1])
            self._stage = stage, self._progress.add_task(stage, total=total, about=about)
        self._progress.update(self._stage[1], completed=done, total=total, about=about)
        if not self._running:
            self._live.start()
            self._running = True

    def pause(self) -> None:
        if self._running:
            self._live.stop()
            self._running = False

    def _renderable(self) -> rich.console.RenderableType:
        from rich.console import Group

        bar = self._progress.get_renderable()
        return bar if self.picture is None else Group(self.picture, bar)


def _fitting(shown: Sequence[str], wanted: Sequence[str], room: int) -> str:
    """As many parts as there is room for, chosen in order of priority."""
    kept: list[str] = []
    for part in wanted:
        if part and len(", ".join([*kept, part])) <= room:
            kept.append(part)
    return ", ".join(part for part in shown if part in kept)


def begun_for_the_model(event: ImageBegun) -> str:
    """The message for a picture that the model did not begin itself."""
    number = event.image + 1 if event.panel is None else event.panel
    instead = "would have ended" if event.ending else "was still writing"
    return f"picture {number} was begun for the model, which {instead}"


def printable(text: str) -> str:
    """The text without control characters, so that a file's name cannot steer the terminal, and
    without surrogates, which represent bytes that are not valid text."""
    return "".join(
        char
        if char in "\n\t" or not (ord(char) < 32 or 127 <= ord(char) < 160 or is_half(char))
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def _takes_bytes(stream: TextIO | None) -> bool:
    return hasattr(stream, "buffer")


def is_half(char: str) -> bool:
    """Whether it is a surrogate: half a character, or a byte that is no text."""
    return 0xD800 <= ord(char) < 0xE000


def stream_of(*, err: bool = False) -> TextIO | None:
    """Standard output, or standard error; None where there is none."""
    return sys.stderr if err else sys.stdout


def encoding_of(stream: TextIO | None) -> str:
    """The encoding that a stream is written in."""
    return getattr(stream, "encoding", None) or "utf-8"


def _json(data: Mapping[str, Any]) -> str:
    """One JSON object; characters that stdout cannot encode are escaped."""
    text = json.dumps(_finite(data), indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(encoding_of(sys.stdout))
    except UnicodeEncodeError:
        return json.dumps(_finite(data), indent=2, default=str)
    return text


def silence(stream: TextIO | None) -> None:
    """Leads a stream that cannot be written to any more to nowhere, so that what is still in its
    buffer is no error at exit.
    """
    with suppress(OSError, ValueError, AttributeError):
        assert stream is not None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def occupy_closed() -> None:
    """Opens standard streams that the shell closed (`2>&-`) on nothing.

    Otherwise the next file that is opened would take their number, and what a library prints would
    land in it. Standard error stands for all that is said aside, so that Python gets it back;
    standard output stays None, because a result that nobody can see is an error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, for the whole run


def _looked_at(stream: TextIO | None) -> bool:
    """Whether a person sees this stream on a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def _coloured(word: str, colour: str) -> str:
    plain = "NO_COLOR" in os.environ or not _looked_at(sys.stderr)
    return word if plain else typer.style(word, fg=colour, bold=True)


def _console(stream: TextIO | None) -> rich.console.Console:
    from rich.console import Console

    # In a pipe no line is cut: the reader may be a program, or a wider screen.
    looked_at = _looked_at(stream)
    return Console(
        file=stream,
        force_terminal=looked_at,
        width=None if looked_at else 10_000,
        markup=False,
        highlight=False,
        emoji=False,
    )


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
    console = _console(sys.stdout)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()


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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
