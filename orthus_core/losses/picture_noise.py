"""Random numbers of each picture of a training, whatever batch, process or device has it.

A picture has a seed, and number n of one of its streams is a hash of the seed and n. All numbers of
a batch are so computed at once, by some 25 kernels on a card; a torch generator that is seeded for
each picture would start several for each, and on a processor it reads only 32 bits of a seed. The
hash is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators. OOPSLA
2014).

Legend: M pictures, X numbers of each.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

# Constants of SplitMix64, as int64 has them.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
# Numbers of a stream, at most; a picture of 1024 patches and 256 channels takes 2^18 a draw.
_LONGEST = 2**40
# Bits of a number, as many as fp32 tells apart.
_BITS = 24


class Stream(IntEnum):
    """What a number is for: the streams of a picture are independent of each other."""

    DIFFUSION = 0
    TIMESTEPS = 1
    CHOICE_OF_PATCHES = 2
    READ = 3
    AMOUNT_READ = 4
    DECODED = 5
    AUGMENTATION = 6
    INPUT_NOISE = 7
    INPUT_TIMESTEP = 8


def uniform(seeds_M: Tensor, stream: Stream, count: int) -> Tensor:
    """Numbers of 0 <= u < 1: fp32 [M, X] on the device of the seeds.

    Args:
        seeds_M: Seed of each picture, int64.
        stream: What they are for.
        count: The number X.
    """
    return _fraction(_hashes(seeds_M, stream, count), 40)


def normal(seeds_M: Tensor, stream: Stream, count: int) -> Tensor:
    """Normal numbers by Box and Muller's method, at most 5.9 in size: fp32 [M, X].

    Args: as for `uniform`.
    """
    # Each hash makes two numbers.
    hashes_MX = _hashes(seeds_M, stream, -(-count // 2))
    above_zero_MX = _fraction(hashes_MX, 40).add_(2 ** -(_BITS + 1))
    length_MX = above_zero_MX.log_().mul_(-2).sqrt_()
    angle_MX = _fraction(hashes_MX, 40 - _BITS).mul_(2 * math.pi)
    pairs = [length_MX * angle_MX.cos(), length_MX * angle_MX.sin()]
    return torch.cat(pairs, 1)[:, :count]


def drawn_seeds(count: int) -> Tensor:
    """Seeds of pictures that have none, from torch's global generator: int64 [M]."""
    return torch.randint(2**62, (count,))


def _hashes(seeds_M: Tensor, stream: Stream, count: int) -> Tensor:
    """A hash of each picture's seed and each place of a stream: int64 [M, X]."""
    places_X = torch.arange(1, count + 1, device=seeds_M.device) + stream * _LONGEST
    hashes_MX = places_X * _GAMMA + seeds_M[:, None]
    hashes_MX ^= _right(hashes_MX, 30)
    hashes_MX *= _FIRST
    hashes_MX ^= _right(hashes_MX, 27)
    hashes_MX *= _SECOND
    hashes_MX ^= _right(hashes_MX, 31)
    return hashes_MX


def _right(numbers: Tensor, bits: int) -> Tensor:
    """The bits of int64 numbers moved to the right, with zeros from the left."""
    return (numbers >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def _fraction(hashes: Tensor, lowest: int) -> Tensor:
    """`_BITS` bits from the lowest one on, as a number of 0 <= u < 1 in fp32."""
    return (hashes >> lowest).bitwise_and_(2**_BITS - 1).float().mul_(2.0**-_BITS)
