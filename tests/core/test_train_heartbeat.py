"""When a process counts another one as dead."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from orthus_core.train import heartbeat
from orthus_core.train.heartbeat import BEAT, LONGEST_SILENCE, Heartbeat


@pytest.fixture
def one(monkeypatch) -> Heartbeat:
    """The first of two processes, whose thread does not run."""
    from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

    place = TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=30))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(place.port))
    monkeypatch.setattr(Heartbeat, "_beat", lambda self: None)
    found = Heartbeat(0, 2)
    found.place = place  # type: ignore[attr-defined]  # kept open
    return found


def test_a_process_that_does_not_beat_for_long_is_dead(one):
    one.store.set(one._key("beat", 1), "1")
    silent = int(LONGEST_SILENCE / BEAT)
    assert [one._others() for _ in range(1 + silent)] == [""] * (1 + silent)
    assert "process 1 has not been heard of for 40 seconds" in one._others()


def test_a_process_that_beats_lives(one):
    for beat in range(3 * int(LONGEST_SILENCE / BEAT)):
        one.store.set(one._key("beat", 1), str(beat // 5))
        assert one._others() == ""


def test_processes_that_were_stopped_together_go_on(one, monkeypatch):
    """As by ctrl-z and fg, or where all processes of a machine are frozen for a while."""
    one.store.set(one._key("beat", 1), "1")
    assert one._others() == one._others() == ""
    later = time.monotonic() + 1000
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: later)
    assert one._others() == ""
