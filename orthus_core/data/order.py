"""Which row of which source comes when: functions of one number, so that a training's only state is
its step.

Everything is computed from 64-bit hashes, which are the same on every machine and with every
version of every library.

Legend: N rows of a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

BLOCK = 1000
"""Number of consecutive rows of a mixture in which every source has its quota."""

# SplitMix64: Steele, Lea, Flood: Fast splittable pseudorandom number generators. OOPSLA 2014.
_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_64 = 2**64 - 1

# Rounds of the permutation's network: four make it pseudorandom for good round functions (Luby,
# Rackoff 1988); halves of a few bits need more.
_ROUNDS = 8


def splitmix64(values: np.ndarray) -> np.ndarray:
    """A hash of each number, uint64 [...]: one step of SplitMix64 from it."""
    with np.errstate(over="ignore"):
        mixed = values.astype(np.uint64) + np.uint64(_GAMMA)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
        return mixed ^ (mixed >> np.uint64(31))


def hash_of(*numbers: int) -> int:
    """A 64-bit hash of some whole numbers in order."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ (number & _64)) + _GAMMA & _64
        mixed = (mixed ^ (mixed >> 30)) * _FIRST & _64
        mixed = (mixed ^ (mixed >> 27)) * _SECOND & _64
        mixed ^= mixed >> 31
    return mixed


def is_held_out(keys_N: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Whether each row is kept from training: bool [N].

    It depends on the row's own key alone, so it stays the same when rows are added or reordered;
    the number of such rows is about the share of all.

    Args:
        keys_N: Keys of the rows (`Rows.keys`), uint64.
        share: Fraction of held-out rows.
        seed: Seed of the choice.
    """
    hashes_N = splitmix64(keys_N ^ np.uint64(hash_of(seed)))
    # Compared without the lowest bits, which a float does not have.
    return (hashes_N >> np.uint64(11)).astype(np.float64) < share * 2**53


class Permutation:
    """An order of the numbers 0 .. N - 1, without a table: the number at each place is computed.

    A Feistel network permutes a power of four that is at least N; a result that is no number of
    the set is permuted again (cycle walking: Black, Rogaway: Ciphers with arbitrary finite domains.
    2002).

    Args:
        count: The number N of numbers, at least 1.
        seed: Seed of the order.
    """

    def __init__(self, count: int, seed: int) -> None:
        assert count > 0, "an order of nothing has no places"
        self.count = count
        self._half = max(1, ((count - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [hash_of(seed, number) for number in range(_ROUNDS)]

    def __call__(self, place: int) -> int:
        """The number at a place."""
        assert 0 <= place < self.count, "a place of the order"
        number = self._once(place)
        while number >= self.count:
            number = self._once(number)
        return number

    def _once(self, number: int) -> int:
        left, right = number >> self._half, number & self._mask
        for key in self._keys:
            mixed = (right ^ key) * _FIRST & _64
            mixed = (mixed ^ (mixed >> 29)) * _SECOND & _64
            left, right = right, left ^ (mixed >> 40 & self._mask)
        return left << self._half | right


class MixtureOrder:
    """The source of each row of a mixture, and the row's number among those of that source.

    In each block of 1,000 rows a source has as many rows as its weight says, at least one; the seed
    orders them within the block. A single source has all rows in turn.

    Args:
        weights: Weight of each source, above 0.
        seed: Seed of the order.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.quotas = quotas_of(weights)
        self._seed = seed
        self._of_block = lru_cache(maxsize=8)(self._block)

    def __call__(self, number: int) -> tuple[int, int]:
        """(source, n) of row `number` of the mixture: it is row n of those of this source."""
        if len(self.quotas) == 1:
            return 0, number
        block, place = divmod(number, BLOCK)
        sources, ranks = self._of_block(block)
        source = int(sources[place])
        return source, block * self.quotas[source] + int(ranks[place])

    def counts(self, number: int) -> list[int]:
        """Number of rows of each source among the first `number` rows."""
        if len(self.quotas) == 1:
            return [number]
        block, place = divmod(number, BLOCK)
        sources, _ = self._of_block(block)
        begun = np.bincount(sources[:place], minlength=len(self.quotas))
        return [block * quota + int(more) for quota, more in zip(self.quotas, begun, strict=True)]

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each place of a block, and how many of that source come before it."""
        start = np.uint64(hash_of(self._seed, block))
        with np.errstate(over="ignore"):
            order = np.argsort(splitmix64(start + np.arange(BLOCK, dtype=np.uint64)), kind="stable")
        sources = np.repeat(np.arange(len(self.quotas)), self.quotas)[order]
        ranks = np.empty(BLOCK, np.int64)
        for source, quota in enumerate(self.quotas):
            ranks[sources == source] = np.arange(quota)
        return sources, ranks


def quotas_of(weights: Sequence[float]) -> list[int]:
    """Rows of each source in a block: proportional to the weights by largest remainders, and at
    least one of each.
    """
    assert 0 < len(weights) <= BLOCK and min(weights) > 0, "every source has a weight"
    exact = [weight / sum(weights) * BLOCK for weight in weights]
    quotas = [max(1, int(each)) for each in exact]
    while sum(quotas) < BLOCK:
        quotas[max(range(len(exact)), key=lambda n: exact[n] - quotas[n])] += 1
    while sum(quotas) > BLOCK:
        above = [n for n, quota in enumerate(quotas) if quota > 1]
        quotas[max(above, key=lambda n: quotas[n] - exact[n])] -= 1
    return quotas
