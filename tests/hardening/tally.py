"""What the tries of one kind came to: counted by a test, and shown as a row of the table at the
end of the run.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SEED = int(os.environ.get("ORTHUS_HARDENING_SEED", "0"))
"""Of everything that is drawn at random here: a failure can be looked at again."""

KILLS = int(os.environ.get("ORTHUS_HARDENING_TRIES", "100"))
FUZZED = int(os.environ.get("ORTHUS_HARDENING_FUZZED", "500"))

FAULTS = ("tracebacks", "half files", "lost files", "wrong answers")
PROPERTY = "hardening"


class Tally:
    """Tries of one kind.

    Attributes:
        kind: The row's name in the table.
        seconds: How long each measured try took.
        faults: What was wrong, by its column, in words that say which try it was.
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.tries, self.seconds = kind, 0, list[float]()
        self.faults: dict[str, list[str]] = {name: [] for name in FAULTS}

    def found(self, fault: str, what: Any) -> None:
        self.faults[fault].append(str(what))

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """A try: what it raises is a fault, and the next one is still made."""
        self.tries += 1
        try:
            yield
        except AssertionError as error:
            self.found("wrong answers", f"{name}: {error}"[:2000])
        except Exception as error:
            self.found("tracebacks", f"{name}: {type(error).__name__}: {error}"[:2000])

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - began)

    def row(self) -> list[str]:
        """The row of the table."""
        times = sorted(self.seconds)
        spread = (
            statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
        )
        shown = [f"{spread[at]:.2f} s" if times else "" for at in (49, 98)]
        counts = [str(len(self.faults[name])) for name in FAULTS]
        return [self.kind, str(self.tries), *counts, *shown]

    def finish(self, record_property: Callable[[str, object], None]) -> None:
        """Hand the row to the table, and fail the test where anything was wrong."""
        record_property(PROPERTY, self.row())
        assert self.tries, "nothing was tried"
        told = [f"{name}: {what}" for name in FAULTS for what in self.faults[name]]
        assert not told, "\n".join(told)


def table(rows: list[list[str]]) -> list[str]:
    """The lines of the table, in Markdown, so that a page can hold it."""
    head = ["kind", "tries", *FAULTS, "p50", "p99"]
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [("-" * (width - (at > 0))) + ":" * (at > 0) for at, width in enumerate(widths)]
    return [line(head), f"| {' | '.join(rule)} |", *map(line, rows)]
