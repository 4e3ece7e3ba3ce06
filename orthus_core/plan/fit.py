"""Suggest changes that make a job fit, the smallest first, each with the memory it would need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orthus_core.model.config import DiscreteConfig, InterleavedConfig
from orthus_core.plan.memory_parts import Drawing, drawing_memory, total
from orthus_core.plan.training_memory import Training, training_memory
from orthus_core.recipe.training import LoraRecipe

# Most cards that are suggested, and the rank of suggested adapters.
MOST_CARDS = 64
RANK = 16


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
    """Changes until a training fits into `room` bytes of each card, each with those before it.

    Rows cut from the batch are accumulated over several batches, so that a step keeps its rows.
    Where that is not enough, more cards and adapters are listed, even those that do not fit.

    Args:
        table: Table of the recipe that configures the optimiser.
    """
    found: list[Change] = []

    def fits(words: Sequence[str], changed: Training) -> bool:
        needed = total(training_memory(config, changed, device))
        found.append(Change(" ".join(words), needed))
        return needed <= room

    words: list[str] = []
    # 1. What changes no number of the training.
    if trained.has_rows and not trained.checkpoint:
        words.append("--set devices.checkpoint_activations=true")
        trained = trained._replace(checkpoint=True)
        if fits(words, trained):
            return found
    whole, shorter = trained, list[str]()
    for rows in divisors_below(whole.rows):
        times = whole.rows // rows
        trained = whole._replace(batch=rows * whole.gpus, accumulate=whole.accumulate * times)
        shorter = batch_options(table, trained)
        if fits([*words, *shorter], trained):
            return found
        if rows > 1:  # smaller batches are one change, the last of them
            found.pop()
    # 2. What changes the training, or takes more.
    words += shorter
    if trained.averaged:
        words.append(f"--set {table}.ema_decay=0")
        trained = trained._replace(averaged=False)
        if fits(words, trained):
            return found
    if not trained.has_rows:
        return found
    of_all = trained.batch * trained.accumulate
    for cards in (trained.gpus * 2**n for n in range(1, 7)):
        if cards > MOST_CARDS or of_all % cards:
            break
        rows = max(1, of_all // cards // whole.accumulate)
        more = trained._replace(gpus=cards, batch=rows * cards, accumulate=of_all // (rows * cards))
        kept = [word for word in words if word not in shorter]
        if fits([f"--gpus {cards}", *kept, *batch_options(table, more)], more):
            break
        found.pop()
    # A discrete Chameleon is trained as a whole (`discrete_posttrain.check_keys`).
    takes_adapters = trained.command == "posttrain" and not isinstance(config, DiscreteConfig)
    if takes_adapters and not trained.lora.rank:
        adapters = trained._replace(lora=LoraRecipe(rank=RANK))
        fits([*words, f"--set lora.rank={RANK}"], adapters)
    return found


def batch_options(table: str, trained: Training) -> list[str]:
    """The options that set a batch's rows and the number of batches of a step."""
    return [
        f"--set {table}.batch_size={trained.batch}",
        f"--set {table}.accumulate={trained.accumulate}",
    ]


def divisors_below(count: int) -> list[int]:
    """The divisors of a number that are less than it, in descending order."""
    return [each for each in range(count // 2, 0, -1) if count % each == 0]


def _until(steps: list[tuple[str, int]], room: int) -> list[Change]:
    changes = []
    for what, needed in steps:
        changes.append(Change(what, needed))
        if needed <= room:
            break
    return changes
