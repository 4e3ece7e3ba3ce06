"""Commands that are killed without warning leave nothing half and lose nothing, and the same
command goes on to the result of a run that was not interrupted.

A quarter of the kills come at a random time; the others right before a random file operation (a
file opened to write, a rename, a removal, a new folder), or right after a file was opened and is
still empty, where what is on disk is least in order. No
operation comes twice before all have come, and the last ones, which put a result in its place, come
by turns with the others.
"""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.core.toy_data import begin_orthus
from tests.hardening.commands_under_test import KINDS, left_behind
from tests.hardening.conftest import Tried
from tests.hardening.tally import KILLS, SEED, Tally

NEVER = 10**9
LAST = 20
"""So many operations put a result in its place."""


class Killer:
    """Kills one command at moments of its whole run."""

    def __init__(self, tried: Tried, tally: Tally) -> None:
        self.tried, self.tally = tried, tally
        self.random = random.Random(f"{SEED} {tally.kind}")
        # The server that processes are forked from starts with the first one, which takes seconds.
        begin_orthus(["--version"], tried.folder / "version.log").join()
        self.seconds, self.operations = self._whole_run()
        self._moments = self._each_operation()

    def _each_operation(self) -> Iterator[int]:
        first_of_last = max(1, self.operations - LAST)
        while True:
            early, late = list(range(1, first_of_last)), []
            for _ in range(max(1, len(early) // LAST)):
                late += self.random.sample(
                    range(first_of_last, self.operations + 1), self.operations + 1 - first_of_last
                )
            self.random.shuffle(early)
            yield from (each for pair in zip_longest(late, early) for each in pair if each)

    def _whole_run(self) -> tuple[float, int]:
        """How long a run takes that nobody ends, and how many file operations it does."""
        place = self.tried.place(earlier=True)
        log, began = place.with_suffix(".log"), time.perf_counter()
        process = begin_orthus(self.tried.command.words(place), log, dies_at=NEVER)
        process.join()
        assert process.exitcode == 0, log.read_text()
        return time.perf_counter() - began, int(Path(f"{log}.operations").read_text())

    def kill(self, place: Path, name: str) -> None:
        """Kill it once, and look at what there is."""
        log, command = place.with_suffix(".log"), self.tried.command
        before = place.with_name(f"{place.name}-before")
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(place, before)
        at_operation = self.random.random() < 0.75
        operation = next(self._moments) if at_operation else None
        within = self.random.random() < 0.5
        process = begin_orthus(command.words(place), log, dies_at=operation, dies_within=within)
        if not at_operation:
            timer = threading.Timer(self.random.uniform(0, self.seconds), process.kill)
            timer.start()
        process.join()
        if not at_operation:
            timer.cancel()
        told = log.read_text() if log.exists() else ""
        if "Traceback" in told:
            self.tally.found("tracebacks", f"{name}: {told}")
        assert process.exitcode in (0, -signal.SIGKILL), f"{process.exitcode}: {told}"
        self.tried.look(self.tally, name, before, place)

    def go_on(self, place: Path, name: str) -> None:
        with self.tally.timed():
            self.tried.finish(place)
        for what in left_behind(place):
            self.tally.found("half files", f"{name}: {what} is still there")
        assert self.tried.command.result(place) == self.tried.whole, "another result"

    def run(self, tries: int) -> None:
        """One to three kills in a row, then the run that goes on; and again."""
        made = 0
        while made < tries:
            place = self.tried.place(earlier=self.random.random() < 0.5)
            for _ in range(min(self.random.randint(1, 3), tries - made)):
                made += 1
                with self.tally.one(name := f"kill {made} in {place}"):
                    self.kill(place, name)
            with self.tally.one(name):
                self.tally.tries -= 1  # it belongs to the kills before it
                self.go_on(place, name)
            for folder in (place, place.with_name(f"{place.name}-before")):
                shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_killed_command_goes_on_and_has_lost_nothing(kind, tried, record_property):
    tally = Tally(f"SIGKILL: {kind}")
    Killer(tried(kind), tally).run(max(1, KILLS // len(KINDS)))
    tally.finish(record_property)


def test_a_killed_story_goes_on_and_has_lost_nothing(tried, record_property):
    """The same, once, so that this file cannot rot."""
    tally = Tally("SIGKILL, smoke")
    Killer(tried("story"), tally).run(1)
    tally.finish(record_property)
