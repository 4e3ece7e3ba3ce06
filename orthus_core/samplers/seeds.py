"""Seeds of images: given, counted up from a given one, or random."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from orthus_core.errors import PromptError

# Random seeds stay below this. Torch takes 64 bits, but 32 are easier to read and type again.
LARGEST_DRAWN = 2**32
# More images than this in one run are a typing error, and would fill the memory.
MOST_PICTURES = 100_000


def choose_seeds(given: Sequence[int], count: int) -> list[int]:
    """A seed for each of `count` images.

    Args:
        given: Given seeds. From a single one they count up, and without any from a random one, so
            that one number brings all of them back; several are used as they are.
        count: Number of images; with several seeds it must be 1 (the default) or their number.

    Raises:
        PromptError: When seeds and count contradict each other, a seed is not an integer from 0 to
            2^63 - 1, or `count` is above `MOST_PICTURES`.
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
        given = [secrets.randbelow(LARGEST_DRAWN)]
    if len(given) == 1:
        return [(given[0] + number) % 2**63 for number in range(count)]
    if count not in (1, len(given)):
        raise PromptError(
            f"{len(given)} seeds for {count} pictures of a prompt",
            where="--seed, --num-images",
            hint="leave out -n, or give one seed to count on from",
        )
    return list(given)
