"""Suggest changes that make a job fit, the smallest first, each with the memory it would need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orthus_core.model.config import InterleavedConfig
from orthus_core.plan.memory_parts import Drawing, Training, drawing_memory, total, training_memory


class Change(NamedTuple):
    """A change, as it is typed, and the number of bytes needed with it."""

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
    """Cumulative changes until the drawing fits into `room` bytes; the last is the slowest.

    Args:
        bits: Bits that weights can be quantised to, in descending order.
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
        # Quantised weights must stay in memory, so this replaces quantisation.
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
    """Changes until a training fits; rows cut from the batch are accumulated over several batches.

    Args:
        table: Table of the recipe that configures the optimiser.
    """
    steps: list[tuple[str, Training]] = []
    rows = trained.batch
    while trained.batch > 1:
        trained = trained._replace(batch=trained.batch // 2)
        what = f"--set {table}.batch_size={trained.batch} --set {table}.accumulate="
        steps.append((f"{what}{-(-rows // trained.batch)}", trained))
    fitting = [(what, total(training_memory(config, each, device))) for what, each in steps]
    # Halvings are reported as one change: the first that fits, or the last.
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
