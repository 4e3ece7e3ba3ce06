"""What is wrong is counted in its column, fails the test, and is seen by those who look for it."""

from __future__ import annotations

import os

import pytest

from tests.bad_inputs.pictures import encoded, plain
from tests.hardening.commands_under_test import KINDS, left_behind, lost_files, reads
from tests.hardening.tally import FAULTS, Tally, table


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_in_its_column_and_fails(fault):
    tally, shown = Tally("a kind"), []
    with tally.one("one"), tally.timed():
        pass
    tally.found(fault, "what it was")
    with pytest.raises(AssertionError, match=f"{fault}: what it was"):
        tally.finish(lambda name, row: shown.append(row))
    head, _, row = (line.split("|") for line in table(shown))
    counts = {name.strip(): count.strip() for name, count in zip(head, row, strict=True)}
    assert [counts[each] for each in FAULTS] == ["1" if each == fault else "0" for each in FAULTS]
    assert counts["tries"] == "1" and counts["p50"].endswith(" s")


def test_what_a_try_raises_is_counted_and_the_next_one_is_made():
    tally = Tally("a kind")
    with tally.one("first"):
        raise KeyError("a slip")
    with tally.one("second"):
        raise AssertionError("not that")
    assert tally.tries == 2
    assert [len(tally.faults[name]) for name in FAULTS] == [1, 0, 0, 1]
    with pytest.raises(AssertionError, match="nothing was tried"):
        Tally("none").finish(lambda name, row: None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", encoded(plain())),
        ("a.json", b'{"a": [1, 2]}'),
        ("a.jsonl", b'{"a": 1}\n{"b": 2}\n'),
        ("a.html", b"<html></html>\n"),
    ],
)
def test_a_half_file_is_seen(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert reads(path)
    path.write_bytes(content[: 2 * len(content) // 3])
    assert not reads(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_or_missing_result_of_each_command_is_seen(kind, tried):
    ready = tried(kind)
    place = ready.place()
    ready.finish(place)
    before = ready.place(earlier=True)
    assert ready.command.half(place) == [] and ready.command.result(place) == ready.whole
    assert ready.command.lost(before, before, ready.whole) == []
    for path in sorted(place.rglob("*")):
        if path.suffix in (".safetensors", ".png", ".jsonl", ".bin") and path.is_file():
            os.truncate(path, path.stat().st_size - 7)
    assert ready.command.half(place) or ready.command.result(place) != ready.whole
    if kind in ("story", "conversion"):  # whose mark says that all is there
        place = ready.place()
        ready.finish(place)
        for path in (*place.rglob("*.png"), *place.rglob("model.safetensors")):
            path.unlink()
        assert ready.command.half(place)


def test_a_lost_file_and_what_is_left_behind_are_seen(tmp_path):
    before, place = tmp_path / "before", tmp_path / "place"
    for folder in (before, place):
        folder.mkdir()
        (folder / "old").write_text("old")
        (folder / "notes.txt").write_text("mine")
    assert lost_files(before, place, False) == [] and left_behind(place) == []
    (place / ".old.partial-12").write_text("half")
    (place / "old").unlink()
    (place / "notes.txt").unlink()
    assert lost_files(before, place, False) == ["notes.txt", "notes.txt", "old"]
    assert lost_files(before, place, True) == ["notes.txt"]
    assert left_behind(place) == [".old.partial-12"]
