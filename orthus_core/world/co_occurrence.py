"""How often things are shown, and with what: a few are popular, and each has its companions.

A model that guesses from habit says yes to what is common, and to what usually stands beside the
thing it sees. Both habits are planted here, so that questions about what is absent can test them
(popular and adversarial negatives as in POPE, 2305.10355).
"""

from __future__ import annotations

import random
from collections.abc import Collection
from functools import cache

from orthus_core.world.cast import CAST
from orthus_core.world.splits import pair_held_out, stable_share

POPULAR: tuple[str, ...] = tuple(sorted(CAST, key=lambda noun: stable_share("popular", noun))[:12])
POPULAR_WEIGHT = 3.0
COMPANIONS = 3
# Of things that join another, how many are one of its companions; by weight alone about 1 in 28.
COMPANION_CHANCE = 0.35


@cache
def companions(noun: str) -> tuple[str, ...]:
    """The three things that most often stand beside a thing; no pair of them is held out."""
    others = [other for other in CAST if other != noun and not pair_held_out(noun, other)]
    return tuple(sorted(others, key=lambda o: stable_share("companion", noun, o))[:COMPANIONS])


def sample_noun(rng: random.Random, nouns: Collection[str]) -> str:
    """One of the nouns, popular ones more often."""
    nouns = list(nouns)
    return rng.choices(nouns, [POPULAR_WEIGHT if n in POPULAR else 1.0 for n in nouns])[0]


def sample_companion(rng: random.Random, noun: str, nouns: Collection[str]) -> str:
    """Another of the nouns to stand beside a first, its companions more often."""
    near = [other for other in companions(noun) if other in nouns]
    if near and rng.random() < COMPANION_CHANCE:
        return rng.choice(near)
    return sample_noun(rng, [other for other in nouns if other != noun])
