"""docs/tour.md shows what each command prints: they run, and print that."""

from __future__ import annotations

import re

import pytest

from benchmarks import tour
from orthus_cli.plugins import discover

TOY = next(number for number, stop in enumerate(tour.STOPS) if stop.before == tour.TOYS)
ANEW = "run `python benchmarks/tour.py` and look at what changed in docs/tour.md"


def agree(stop: tour.Stop, output: str) -> bool:
    """Whether an output has the stop's pattern, if it has one."""
    found = tour.normal(output)
    return not stop.pattern or bool(re.fullmatch(stop.pattern, found, re.DOTALL))


def test_the_tour_stops_at_each_command_of_ours():
    ours = {name for name, plugin in discover().items() if plugin.is_ours}
    assert {stop.command for stop in tour.STOPS} == ours - tour.UNTIL_STOPPED
    assert ours >= tour.UNTIL_STOPPED


def test_the_page_shows_the_commands_in_their_order():
    page = tour.read(tour.PAGE.read_text(encoding="utf-8"))
    assert list(page) == [stop.line for stop in tour.STOPS], ANEW


@pytest.mark.parametrize("stops", [tour.STOPS[:TOY], tour.STOPS[TOY:]], ids=["bundled", "toy"])
def test_the_page_shows_what_the_commands_print(stops, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORTHUS_PLUGINS", "")
    page = tour.read(tour.PAGE.read_text(encoding="utf-8"))
    for stop, output in tour.outputs(stops):
        shown = page[stop.line]
        if stop.pattern:
            assert agree(stop, output), f"{stop.line} printed\n{tour.normal(output)}"
            assert agree(stop, shown), f"{ANEW}: {stop.line} shows\n{tour.normal(shown)}"
        else:
            assert tour.normal(output) == tour.normal(shown), f"{ANEW}: {stop.line}"


def test_what_differs_by_more_than_numbers_is_seen():
    stop, other = tour.STOPS[0], "mini on cpu, fp32\nout.png: a snowman, seed 2"
    assert tour.normal("mini on cuda:0, bf16\nout.png: a snowman, seed 1") == tour.normal(other)
    assert tour.normal(other) != tour.normal(other.replace("snowman", "fox"))
    replayed = next(stop for stop in tour.STOPS if stop.command == "caption")
    assert not agree(replayed, "mini on cpu, fp32") and agree(stop, "anything")
    page = tour.rendered(iter([(stop, "drawing: 16/16 patches\ndone")]))
    assert tour.read(page) == {stop.line: "drawing: 16/16 patches\ndone"}
    assert tour.tidy("drawing: 3/16 patches, 2 s each\ndrawing: 16/16 patches\n") == (
        "drawing: 16/16 patches"
    )
