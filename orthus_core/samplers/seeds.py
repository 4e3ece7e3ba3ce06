"""Seeds: given, counted up from a given one, or random; and the random streams of each seed.

A seed has a stream of random numbers for the noise of its images and another for its text, so that
the noise does not depend on the text. Both are told apart here, in whole numbers of 32 bits:
torch's generator on the CPU takes 64 and ignores the upper half.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from orthus_core.errors import PromptError

# Torch's generator on the CPU (mt19937) uses the lower 32 bits of a seed. Random seeds stay below
# this, which is also easier to read and type again.
GENERATOR_SEEDS = 2**32
# The largest seed of 64 bits with a sign.
MOST_SEED = 2**63 - 1
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
        given = [secrets.randbelow(GENERATOR_SEEDS)]
    if len(given) == 1:
        return [(given[0] + number) % 2**63 for number in range(count)]
    if count not in (1, len(given)):
        raise PromptError(
            f"{len(given)} seeds for {count} pictures of a prompt",
            where="--seed, --num-images",
            hint="leave out -n, or give one seed to count on from",
        )
    return list(given)


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seeds of the candidates for one image: its own, then others that follow from it.

    They are spread out, because the seeds next to it are those of the next images; and a larger
    count has all those of a smaller one.
    """
    others = (hashlib.sha256(f"{seed}/{number}".encode()).digest() for number in range(1, count))
    return [seed, *(int.from_bytes(digest[:4], "big") for digest in others)]


def image_stream(seed: int) -> int:
    """The number that starts the generator of a seed's image noise: the seed itself if it fits into
    32 bits, and otherwise a hash of all its bits.
    """
    return seed if 0 <= seed < GENERATOR_SEEDS else _hashed(f"image/{seed}")


def text_stream(seed: int) -> int:
    """The number that starts the generator of a seed's text, which is not that of its images."""
    return _hashed(f"text/{seed}")


def _hashed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
