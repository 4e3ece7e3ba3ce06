"""Heartbeats of processes that train together: when one ends, the others say so and end as well.

A process that waits for another in a collective operation waits for hours, since the first one may
be writing a large state. So each has a thread that counts up a number at the place where the
processes met, and looks whether those of the others grow.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

from orthus_core.errors import TrainingError

BEAT = 4.0
"""Seconds between two beats."""
LONGEST_SILENCE = 36.0
"""Seconds without a beat after which a process counts as dead."""
GRACE = 8.0
"""Seconds that the training has to end by itself, with its own message, before its process is
ended."""
FORGOTTEN = "lost the place where the processes met, so the first one or its launcher has ended"
# Words of torch's errors when a collective operation lacks one of its processes.
LOST = ("connection", "socket", "gloo", "nccl", "peer", "broken pipe", "timed out")


class Heartbeat:
    """The beats of one process.

    Args:
        shard, shards: Its number and that of all.
    """

    def __init__(self, shard: int, shards: int) -> None:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[reportPrivateImportUsage]

        # A connection of its own: the collective operations wait on theirs.
        place = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=LONGEST_SILENCE),
        )
        # A launcher that starts the processes again keeps the place.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = PrefixStore(f"orthus/heartbeat/{attempt}", place)
        self.shard, self.shards = shard, shards
        self.word = ""  # which other process has ended, once one has
        self.heard = threading.Event()
        self.ended = threading.Event()
        # The last beat of each other process, and after how many looks it was first seen. Time is
        # counted in own looks, so that processes which were stopped together go on together.
        self._seen: dict[int, tuple[str, int]] = {}
        self._looks = 0
        self.trainings = 0
        self.last_word = ""
        self.start()

    def start(self) -> None:
        """Begin to beat, for the first or for another training of this process."""
        self.ended.clear()
        self.store.set(self._key("beat", self.shard), "0")
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _key(self, name: str, shard: int) -> str:
        return f"{self.trainings}/{name}/{shard}"

    def end(self, word: str) -> None:
        """Tell the others that this process ends: "" when its training is through."""
        if not self.ended.is_set():
            self.ended.set()
            self.last_word = word
            with suppress(Exception):  # there may be nobody left to tell
                self.store.set(self._key("end", self.shard), word or "through")

    def wait_to_be_heard(self) -> None:
        """Wait, at most for two beats, until the others have ended or had time to hear that this
        process has not finished: the place where they look it up may end with it.
        """
        others = [self._key("end", each) for each in range(self.shards) if each != self.shard]
        end = time.monotonic() + 2 * BEAT
        with suppress(Exception):
            while self.last_word and not self.store.check(others) and time.monotonic() < end:
                time.sleep(0.1)

    def _beat(self) -> None:
        count = 0
        while not self.ended.wait(BEAT):
            count += 1
            try:
                self.store.set(self._key("beat", self.shard), str(count))
                self.word = self._others()
            except Exception:  # whatever the connection ends with
                self.word = FORGOTTEN
            if self.word and not self.ended.is_set():
                self.heard.set()
                if not self.ended.wait(GRACE):
                    self._end_process()
                return

    def _others(self) -> str:
        """Which other process has ended; "" when none has."""
        self._looks += 1
        for other in range(self.shards):
            if other == self.shard:
                continue
            if self.store.check([self._key("end", other)]):
                word = self.store.get(self._key("end", other)).decode(errors="replace")
                if word == "through":
                    continue
                return f"process {other} has ended: {word}"
            there = self.store.check([self._key("beat", other)])
            beat = self.store.get(self._key("beat", other)).decode() if there else ""
            if other not in self._seen or self._seen[other][0] != beat:
                self._seen[other] = beat, self._looks
                continue
            silence = (self._looks - self._seen[other][1]) * BEAT
            if silence > LONGEST_SILENCE:
                return f"process {other} has not been heard of for {silence:.0f} seconds"
        return ""

    def _end_process(self) -> None:
        """End this process while its training waits for a dead one, which nothing interrupts."""
        error = other_has_ended(self.word)
        with suppress(Exception):
            sys.stderr.write(f"error: {error}\n")
            sys.stderr.flush()
        with suppress(Exception):
            self.store.set(self._key("end", self.shard), error.message)
        os._exit(1)


_own: Heartbeat | None = None


def begin(shard: int, shards: int) -> None:
    """Begin the beats of this process."""
    global _own
    _own = Heartbeat(shard, shards)


def resume() -> None:
    """Beat again in a process that has trained before."""
    if _own is not None and _own.ended.is_set():
        _own.trainings += 1
        _own.start()


def end(word: str) -> bool:
    """Tell the others that this process ends, and why: "" when its training is through. Returns
    whether it is. Only the first call counts.
    """
    if _own is None:
        return False
    _own.end(word)
    return not _own.word


def wait_to_be_heard() -> None:
    """Before this process ends: give the others time to hear why."""
    if _own is not None and not _own.word:
        _own.wait_to_be_heard()


def word_on(error: Exception) -> str:
    """Which other process has ended, if that is the cause of an error; "" when it is not."""
    if _own is None or not isinstance(error, RuntimeError | OSError | ValueError):
        return ""
    if not any(word in str(error).lower() for word in LOST):
        return ""
    _own.heard.wait(LONGEST_SILENCE + 3 * BEAT)
    return _own.word


def other_has_ended(word: str) -> TrainingError:
    """The error of a training that cannot go on without another process."""
    return TrainingError(
        f"{word}; so this one ends as well",
        where="the processes that train together",
        hint="look at that process's own output for the cause; --resume auto goes on from the last "
        "saved state",
    )
