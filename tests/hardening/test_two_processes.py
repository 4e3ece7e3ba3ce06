"""Two processes that write to one output at once: each ends well or says why not, and what is
there in the end is the whole result of one of them.
"""

from __future__ import annotations

import re
import shutil

import pytest

from tests.core.toy_data import begin_orthus
from tests.hardening.commands_under_test import KINDS, left_behind
from tests.hardening.conftest import Tried
from tests.hardening.tally import KILLS, Tally


def race(tried: Tried, tally: Tally, tries: int) -> None:
    command, results = tried.command, [tried.whole]
    other = tried.place()
    begin_orthus(command.words(other, seed=2), other.with_suffix(".log")).join()
    results.append(command.result(other))
    for number in range(tries):
        place = tried.place(earlier=number % 2 == 1)
        before = place.with_name(f"{place.name}-before")
        shutil.copytree(place, before)
        logs = [place.with_name(f"{place.name}-{seed}.log") for seed in (1, 2)]
        with tally.one(f"try {number} in {place}"), tally.timed():
            processes = [
                begin_orthus(command.words(place, seed=seed), log)
                for seed, log in zip((1, 2), logs, strict=True)
            ]
            for process in processes:
                process.join()
        name = f"try {number} in {place}"
        told = [log.read_text() for log in logs]
        codes = [process.exitcode for process in processes]
        with tally.one(name):
            tally.tries -= 1
            for each in told:
                if "Traceback" in each:
                    tally.found("tracebacks", f"{name}: {each}")
            for what in left_behind(place):
                tally.found("half files", f"{name}: {what} is left")
            assert 0 in codes and set(codes) <= {0, 1}, (codes, told)
            if not tried.look(tally, name, before, place, is_finished=True):
                continue
            for code, each in zip(codes, told, strict=True):
                errors = re.findall(r"^error: ", each, re.MULTILINE)
                assert len(errors) == code, each
            assert command.result(place) in results, "a result of neither"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_into_one_output(kind, tried, record_property):
    tally = Tally(f"two processes: {kind}")
    race(tried(kind), tally, max(1, KILLS // 2 // len(KINDS)))
    tally.finish(record_property)


def test_two_processes_add_answers_to_one_file(tried, record_property):
    """The same, once, so that this file cannot rot."""
    tally = Tally("two processes, smoke")
    race(tried("caption folders"), tally, 1)
    tally.finish(record_property)
