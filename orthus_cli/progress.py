"""How far long work has come: a bar in a terminal, a line at intervals elsewhere.

rich is imported when a bar is drawn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from orthus_cli.streams import looked_at

if TYPE_CHECKING:
    import rich.console
    import rich.progress


SHORTEST_BAR, LONGEST_BAR = 8, 40
"""Columns of a bar: what is said beside it leaves it so many, and it takes no more."""


LINE_EVERY = 30.0
"""Seconds between two lines of progress where no bar can be drawn."""

LEAST_WAITING = 0.01
"""Share of a training's time that is worth telling when it is spent waiting for data."""


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
        console = rich_console(sys.stderr)
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


def speed_words(figures: Mapping[str, float]) -> str:
    """The most telling of a training's figures of speed (`StepDone.speed`), for a line of progress;
    "" without any.
    """
    known = {name.removeprefix("speed/"): value for name, value in figures.items()}
    words = []
    for name, unit in (("tokens_per_second", "tokens/s"), ("pictures_per_second", "pictures/s")):
        if value := known.get(name):
            words.append(f"{_short(value)} {unit}")
    if value := known.get("mfu"):
        words.append(f"MFU {value:.0%}")
    elif value := known.get("flops_per_second"):
        words.append(f"{_short(value)}FLOP/s")
    if value := known.get("memory_gb"):
        words.append(f"{value:.1f} GB")
    if (value := known.get("waiting", 0)) >= LEAST_WAITING:
        words.append(f"waiting {value:.0%}")
    return ", ".join(words)


def _short(value: float) -> str:
    for letter, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def rich_console(stream: TextIO | None) -> rich.console.Console:
    from rich.console import Console

    # In a pipe no line is cut: the reader may be a program, or a wider screen.
    seen = looked_at(stream)
    return Console(
        file=stream,
        force_terminal=seen,
        width=None if seen else 10_000,
        markup=False,
        highlight=False,
        emoji=False,
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
