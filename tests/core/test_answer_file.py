"""A file of answers to which several processes add, and one that the disk has no room for."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from orthus_core.errors import OutputError
from orthus_core.results.answer_file import AnswerFile, Question

ASKED = Question("what is this?", "model", {"steps": 1})


def images(path: Path) -> list[str]:
    return [json.loads(line)["image"] for line in path.read_text().splitlines()]


def test_two_that_add_to_one_file_lose_and_double_nothing(tmp_path):
    path = tmp_path / "answers.jsonl"
    one, other = AnswerFile(path, ASKED), AnswerFile(path, ASKED)
    assert one.add("a.png", "hash-a", "a long answer " * 9, 1)
    assert other.add("b.png", "hash-b", "short", 1)
    assert one.add("c.png", "hash-c", "", 1)
    assert not other.add("a.png", "hash-a", "another answer", 1)
    assert other.known["hash-a"].startswith("a long answer")
    assert images(path) == ["a.png", "b.png", "c.png"]


def test_a_file_that_another_has_replaced_is_gone_on_with(tmp_path):
    path = tmp_path / "answers.jsonl"
    one, other = AnswerFile(path, ASKED), AnswerFile(path, ASKED, anew=True)
    for image in ("a.png", "b.png"):
        assert one.add(image, image, "text", 1)
    assert other.add("c.png", "c.png", "text", 1) and images(path) == ["c.png"]
    assert one.add("d.png", "d.png", "text", 1) and other.add("a.png", "a.png", "text", 1)
    assert images(path) == ["c.png", "d.png", "a.png"]


@pytest.mark.parametrize("room", [1, 700])
def test_a_disk_that_takes_half_a_line_leaves_the_whole_ones(tmp_path, room):
    path = tmp_path / "answers.jsonl"
    store = AnswerFile(path, ASKED)
    if room > 1:
        store.add("a.png", "hash-a", "a" * 400, 1)
        assert path.stat().st_size < room
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OutputError, match="the disk is full"):
            store.add("b.png", "hash-b", "b" * 400, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.exists() == (room > 1)
    assert store.add("b.png", "hash-b", "b", 1)
    assert images(path) == (["a.png", "b.png"] if room > 1 else ["b.png"])
