"""Co-occurrence of things: a few are popular, and each one has companions.

A model that guesses from statistics says yes to what is common, and to what usually appears beside
the thing it sees. The training data contain both biases on purpose, so that questions about absent
things can test for them (popular and adversarial negatives as in POPE, 2305.10355).
"""

from __future__ import annotations

import random
from collections.abc import Collection
from functools import cache

from orthus_core.world.cast import CAST
from orthus_core.world.splits import pair_held_out, stable_share

# What people type first.
POPULAR: tuple[str, ...] = (
    "dog",
    "cat",
    "rabbit",
    "robot",
    "car",
    "house",
    "tree",
    "flower",
    "apple",
    "star",
    "heart",
    "ball",
)
POPULAR_WEIGHT = 3.0
COMPANIONS = 3
# Share of second things that are a companion of the first. By weight alone it is about 1 in 40.
COMPANION_CHANCE = 0.35


@cache
def companions(noun: str) -> tuple[str, ...]:
    """The three things that most often appear beside a thing; none of these pairs is held out."""
    others = [other for other in CAST if other != noun and not pair_held_out(noun, other)]
    return tuple(sorted(others, key=lambda o: stable_share("companion", noun, o))[:COMPANIONS])


def sample_noun(rng: random.Random, nouns: Collection[str]) -> str:
    """One of the nouns at random; popular ones are more likely."""
    nouns = list(nouns)
    return rng.choices(nouns, [POPULAR_WEIGHT if n in POPULAR else 1.0 for n in nouns])[0]


def sample_companion(rng: random.Random, noun: str, nouns: Collection[str]) -> str:
    """One of the other nouns at random; companions of `noun` are more likely."""
    near = [other for other in companions(noun) if other in nouns]
    if near and rng.random() < COMPANION_CHANCE:
        return rng.choice(near)
    return sample_noun(rng, [other for other in nouns if other != noun])
