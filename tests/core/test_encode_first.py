"""The pictures of data sets are encoded before a training's first step, if that is worth it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orthus_core.data.latent_cache import FeatureCache
from orthus_core.events import Note, Progress
from orthus_core.recipe.training import DataRecipe
from orthus_core.train import encode_first
from orthus_core.train.batches import RowSources, read_rows
from orthus_core.train.distributed import Rank
from orthus_core.train.encode_first import (
    EncodingPlan,
    count_missing,
    encode_for_training,
    pictures_of,
)
from tests.core.toy_data import finished, interleaved


@pytest.fixture
def rows(tmp_path: Path) -> RowSources:
    source = interleaved(tmp_path / "rows", 30)
    return finished(read_rows(DataRecipe(source=str(source), held_out=0.2)))


def cache(folder: Path) -> FeatureCache:
    return FeatureCache("w", lambda x: x.mean((2, 3))[:, None], 8, folder=folder)


def events_of(made, rows, numbers, always=False, should_stop=lambda: False):
    events = [*encode_for_training(made, rows, numbers, always, should_stop)]
    notes = [event.message for event in events if isinstance(event, Note)]
    return notes, [event for event in events if isinstance(event, Progress)]


def test_a_data_set_that_is_read_whole_is_encoded_and_another_time_not_even_counted(rows, tmp_path):
    made = cache(tmp_path / "cache")
    count = len(rows.train.parts[0])
    assert events_of(made, rows, range(0, count - 1)) == ([], []) and len(made) == 0
    assert events_of(made, rows, range(count, 2 * count - 1)) == ([], [])
    (told, *_), progress = events_of(made, rows, range(7, count + 7))
    assert told.startswith(f"{count} pictures to encode, 0 are there already; ")
    assert progress[-1] == Progress("encoding", count, count, "pictures") and len(made) == count
    made.save()
    again = cache(tmp_path / "cache")
    assert events_of(again, rows, range(0, count)) == ([], [])
    assert events_of(cache(tmp_path / "another"), rows, range(0, 3), always=True)[0]


def test_what_does_not_fit_the_disk_is_left_for_later_unless_that_is_asked_for(
    rows, tmp_path, monkeypatch
):
    count = len(rows.train.parts[0])
    made = cache(tmp_path / "cache")
    monkeypatch.setattr(encode_first, "free_disk", lambda folder: made.disk_bytes(count) + 5)
    (told,), _ = events_of(made, rows, range(0, count))
    assert told.endswith("they are encoded as they come") and len(made) == 0
    events_of(made, rows, range(0, count), always=True)
    assert len(made) == count


def test_an_interrupted_one_is_no_whole_one(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("orthus_core.data.latent_cache.CHUNK", 4)
    monkeypatch.setattr(encode_first, "TOGETHER", 4)
    count = len(rows.train.parts[0])
    made = cache(tmp_path / "cache")
    events_of(made, rows, range(0, count), should_stop=lambda: len(made) >= 8)
    assert len(made) == 8
    (told, *_), _ = events_of(made, rows, range(0, count))
    assert told.startswith(f"{count - 8} pictures to encode, 8 are there already; ")
    assert len(made) == count


def test_each_process_encodes_its_share(rows, tmp_path, monkeypatch):
    shares = []
    for shard in range(3):
        monkeypatch.setattr(encode_first, "current_rank", lambda: Rank(shard, 3))  # noqa: B023
        monkeypatch.setattr(encode_first, "all_reduce_sum", lambda values: values)
        made = cache(tmp_path / "cache")
        plan = EncodingPlan(pictures_of(rows))
        finished(count_missing(made, plan))
        finished(iter(encode_first.encode_missing(made, plan, lambda: False)))
        made.save()
        shares.append(plan.encoded)
    assert sum(shares) == 30 and max(shares) - min(shares) <= 2
    assert len(cache(tmp_path / "cache")) == 30


def test_a_process_on_another_disk_without_the_mark_is_not_left_alone(rows, tmp_path, monkeypatch):
    count = len(rows.train.parts[0])
    made = cache(tmp_path / "cache")
    events_of(made, rows, range(0, count))
    monkeypatch.setattr(encode_first, "current_rank", lambda: Rank(0, 2))
    # Every sum is taken together by all processes; the other one has nothing to add.
    monkeypatch.setattr(encode_first, "all_reduce_sum", lambda values: values)
    assert events_of(made, rows, range(0, count))[1], "it counts with the other one"


@pytest.mark.parametrize(("chunk", "times"), [(8, 1), (16, 0)])
def test_the_time_for_the_others_is_told_once_after_whole_chunks(rows, tmp_path, chunk, times):
    plan, made = EncodingPlan(pictures_of(rows)), cache(tmp_path / "cache")
    finished(count_missing(made, plan))
    next((tmp_path / "rows").rglob("*.png")).write_bytes(b"no picture")
    made._chunk = chunk
    events = [*encode_first.encode_missing(made, plan, lambda: False)]
    assert plan.new == 30 and plan.encoded == 29 and len(plan.faults) == 1
    assert sum("for the others" in str(event) for event in events) == times


def test_pictures_are_counted_once_however_many_there_are():
    addresses = [bytes([n]) * 16 for n in (7, 0, 7, 255, 0)]
    found = encode_first.distinct(addresses[:3], [])
    found = encode_first.distinct(addresses[3:], [found])
    assert sorted(each.tobytes() for each in found) == sorted({*addresses})
    assert len(encode_first.distinct([], [])) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (80, "80 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_a_time_is_told_in_words(seconds, text):
    assert encode_first.time_text(seconds) == text
    assert encode_first.size_text(int(seconds * 1e6)).endswith(("KB", "MB", "GB"))


def test_bytes_are_told_in_the_unit_that_they_are_rounded_to():
    counts = (999, 1000, 2_340_000, 999_600_000, 7 * 10**12)
    assert [*map(encode_first.size_text, counts)] == [
        *("999 bytes", "1 KB", "2.34 MB", "1 GB", "7 TB")
    ]
