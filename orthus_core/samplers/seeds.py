"""Seeds: given, counted on from one, or drawn at random and then told."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from orthus_core.errors import PromptError

# Torch takes 64 bits; 32 are easier to read off a screen and type again.
LARGEST_DRAWN = 2**32
# What is asked beyond this in one run is a slip of the finger, and would fill the memory.
MOST_PICTURES = 100_000


def choose_seeds(given: Sequence[int], count: int) -> list[int]:
    """A seed for each of `count` pictures.

    None given draws them at random; one given counts on from it; several stand for themselves, and
    `count` must then be 1 (not said) or their number.

    Raises:
        PromptError: When the numbers contradict each other, a seed is no 63-bit whole number, or
            nobody can have meant so many.
    """
    if count > MOST_PICTURES:
        raise PromptError(
            f"{count:,} pictures are asked for",
            where="--num-images",
            hint=f"draw at most {MOST_PICTURES:,} in one run",
        )
    for seed in given:
        if not 0 <= seed < 2**63:
            raise PromptError(
                f"the seed {seed} cannot be used",
                where="--seed",
                hint="give a whole number from 0 to 9223372036854775807",
            )
    if not given:
        return [secrets.randbelow(LARGEST_DRAWN) for _ in range(count)]
    if len(given) == 1:
        return [(given[0] + number) % 2**63 for number in range(count)]
    if count not in (1, len(given)):
        raise PromptError(
            f"{len(given)} seeds for {count} pictures of a prompt",
            where="--seed, --num-images",
            hint="leave out -n, or give one seed to count on from",
        )
    return list(given)
