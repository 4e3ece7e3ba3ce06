"""A disk that takes no more at a random byte: said in one message, and nothing half or lost.

The operating system's limit on the size of a file stands for the disk, so that whoever writes the
bytes (Python, safetensors, torch) is refused in the middle of them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.hardening.commands_under_test import KINDS, left_behind
from tests.hardening.conftest import Tried, run_here
from tests.hardening.tally import KILLS, SEED, Tally

resource = pytest.importorskip("resource")


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows past this size, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_up(tried: Tried, tally: Tally, tries: int) -> None:
    rng, command = random.Random(f"{SEED} {tally.kind}"), tried.command
    for number in range(tries):
        place, size = tried.place(earlier=rng.random() < 0.5), rng.choice(tried.sizes)
        before = place.with_name(f"{place.name}-before")
        shutil.copytree(place, before)
        size = rng.randrange(max(1, size))
        name = f"try {number}, room for {size} bytes, in {place}"
        with tally.one(name), room_for(size):
            done = run_here(command.words(place))
        told = f"{name}: exit {done.exit_code}, {done.stderr}"
        with tally.one(name):
            tally.tries -= 1
            if done.exception and not isinstance(done.exception, SystemExit):
                tally.found("tracebacks", f"{told} {done.exception!r}")
            tried.look(tally, name, before, place)
            if done.exit_code:
                assert done.exit_code == 1 and "the disk is full" in done.stderr, told
                for what in left_behind(place):
                    tally.found("half files", f"{name}: {what} is left")
            with tally.timed():
                tried.finish(place)
            assert command.result(place) == tried.whole, "another result"
        for folder in (place, before):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_said_and_costs_nothing(kind, tried, record_property):
    tally = Tally(f"full disk: {kind}")
    fill_up(tried(kind), tally, max(1, KILLS // len(KINDS)))
    tally.finish(record_property)


def test_a_full_disk_under_answers_is_said_and_costs_nothing(tried, record_property):
    """The same, three times, so that this file cannot rot."""
    tally = Tally("full disk, smoke")
    fill_up(tried("caption folders"), tally, 3)
    tally.finish(record_property)
