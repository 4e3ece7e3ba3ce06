"""How long a training takes, and how much disk: from its arithmetic, a card's peak and the share of
the peak that is assumed to be reached.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from orthus_core.checkpoint.parts import part_of
from orthus_core.checkpoint.skeleton import skeleton
from orthus_core.model.config import InterleavedConfig, OrthusConfig
from orthus_core.plan.memory_parts import weights_of
from orthus_core.plan.training_memory import (
    VISION,
    Training,
    adapters_of,
    moments_of,
    moved_weights,
    moves,
    predicted_words,
)
from orthus_core.train.card_rates import peak_flops
from orthus_core.train.flops import FORWARD, TRAINED, Amounts, flops_of, row_costs, vision_flops

# The card whose peak is taken when none is named, and the share of it that is reached, computing
# activations again included: what well-kept trainings of this size report (2204.02311; Llama 2).
CARD = "A100"
REACHED = 0.4


class Arithmetic(NamedTuple):
    """Operations of one step on all cards.

    Attributes:
        useful: What has to be computed (`train.flops`).
        again: What checkpointed layers compute a second time.
    """

    useful: float
    again: float


def step_flops(config: InterleavedConfig, trained: Training) -> Arithmetic:
    """The operations of a training's step."""
    rows = trained.batch * trained.accumulate
    if not trained.has_rows:
        there, back = vision_flops(config.vq_config)
        if trained.linear:  # one product gives the features
            there = 0
        each = there * (3 if trained.trains_encoder else 1) + 3 * back
        return Arithmetic(rows * each, 0)
    model = skeleton(config)
    for name, weight in model.named_parameters():
        weight.requires_grad_(moves(part_of(name), trained))
    costs = row_costs(model, text=trained.command != "build-base")
    costs = costs._replace(token=costs.token + TRAINED * adapters_of(config, trained.lora))
    length, slots = trained.length, 0
    if isinstance(config, OrthusConfig):
        slots = trained.pictures * config.patches
    draws = slots * trained.patch_share * (trained.repeats if config.denoises else 1)
    words = predicted_words(config, trained)
    amounts = Amounts(length, length * (length + 1) / 2, slots, words, draws)
    useful = rows * flops_of(costs, amounts)
    if not trained.checkpoint:
        return Arithmetic(useful, 0)
    model.requires_grad_(False)
    forward = row_costs(model)  # frozen: twice the operations of the forward pass
    computed = Amounts(amounts.tokens, 0, 0, 0, draws)
    again = flops_of(forward, computed) * FORWARD / 4 + costs.pair / 3 * amounts.pairs
    return Arithmetic(useful, rows * again)


def seconds_of(work: Arithmetic, cards: int, peak: float, reached: float = REACHED) -> float:
    """Seconds that a step takes on so many cards of this peak."""
    return (work.useful + work.again) / (cards * peak * reached)


def peak_of(card: str) -> float | None:
    """Peak operations per second of a card by name; None for one that is not known."""
    return peak_flops(card)


class Disk(NamedTuple):
    """Bytes on disk.

    Attributes:
        states: Saved states, one more than are kept.
        model: The finished model, in bf16; or adapters, in fp32.
        features: Features or codes of pictures, if each comes once.
    """

    states: int
    model: int
    features: int


def disk_of(config: InterleavedConfig, trained: Training, steps: int, keep_last: int) -> Disk:
    """What a training writes."""
    moved, maps = moved_weights(config, trained)
    adapters = adapters_of(config, trained.lora)
    count = sum(moved.values()) + adapters
    state = 4 * (count * (2 if trained.averaged else 1) + moments_of(count, maps, trained))
    if trained.linear:  # states hold the encoder and the codes all the same
        of_vision = sum(math.prod(shape) for _, part, shape in weights_of(config) if part in VISION)
        state += 4 * (of_vision - count)
    weights = sum(math.prod(weight.shape) for weight in weights_of(config))
    model = 4 * count if trained.lora.rank else 2 * weights
    features = 0
    if trained.has_rows:
        pictures = steps * trained.accumulate * trained.batch * trained.pictures
        channels = config.feature_channels if isinstance(config, OrthusConfig) else 1
        features = 2 * pictures * config.patches * channels
    return Disk(state * (keep_last + 1), model, features)
