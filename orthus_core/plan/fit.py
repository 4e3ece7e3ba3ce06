"""What to change so that something fits: the smallest step first, each with what it would take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orthus_core.model.config import InterleavedConfig
from orthus_core.plan.memory_parts import Drawing, Training, drawing_memory, total, training_memory


class Change(NamedTuple):
    """Something to change, as it is typed, and the bytes that are taken then."""

    what: str
    bytes: int


def drawing_changes(
    config: InterleavedConfig,
    asked: Drawing,
    room: int,
    device: str = "cuda",
    *,
    bits: Sequence[int] = (8, 4),
) -> list[Change]:
    """Changes in turn, each on top of the ones before, until the drawing fits into `room` bytes;
    the last is the slowest.

    Args:
        bits: To which weights can be quantised, the most first.
    """
    steps: list[tuple[str, Drawing]] = []
    if asked.pictures > 1:
        asked = asked._replace(pictures=1)
        steps.append(("--batch-size 1", asked))
    if asked.dtype == "fp32" and not asked.quantise:
        asked = asked._replace(dtype="bf16")
        steps.append(("--dtype bf16", asked))
    for fewer in bits:
        if not asked.quantise or fewer < asked.quantise:
            asked = asked._replace(quantise=fewer)
            steps.append((f"--quantize {fewer}", asked))
    if not asked.fetched:
        # Quantised weights are held, so it is instead of them.
        steps.append(("--low-memory", asked._replace(quantise=None, fetched=True)))
    return _until(
        [(what, total(drawing_memory(config, each, device))) for what, each in steps], room
    )


def training_changes(
    config: InterleavedConfig,
    trained: Training,
    room: int,
    device: str = "cuda",
    *,
    table: str = "optim",
) -> list[Change]:
    """The same for a training; rows that are not in a batch are accumulated over several.

    Args:
        table: Of its recipe that says how weights move.
    """
    steps: list[tuple[str, Training]] = []
    rows = trained.batch
    while trained.batch > 1:
        trained = trained._replace(batch=trained.batch // 2)
        what = f"--set {table}.batch_size={trained.batch} --set {table}.accumulate="
        steps.append((f"{what}{-(-rows // trained.batch)}", trained))
    fitting = [(what, total(training_memory(config, each, device))) for what, each in steps]
    # Halving is one change, however often it is done: the first that fits, or the last.
    found = [one for one in fitting if one[1] <= room][:1] or fitting[-1:]
    if trained.averaged and (not found or found[0][1] > room):
        without = trained._replace(averaged=False)
        found.append(
            (f"--set {table}.ema_decay=0", total(training_memory(config, without, device)))
        )
    return [Change(*one) for one in found]


def _until(steps: list[tuple[str, int]], room: int) -> list[Change]:
    changes = []
    for what, needed in steps:
        changes.append(Change(what, needed))
        if needed <= room:
            break
    return changes
