"""Classifier-free guidance as one weighted sum over streams (2207.12598; two conditions:
2211.09800, eq. 3).

A stream is one way of asking for the same picture: with the whole prompt, without its words,
without anything. The head predicts once a stream, from the same noisy feature, and the predictions
are added up with weights of sum 1.

Legend: N pictures being drawn, R streams of all of them, C feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Guidance(NamedTuple):
    """The weight of each stream; the first is the whole prompt. They sum to 1."""

    weights: tuple[float, ...]

    @classmethod
    def none(cls) -> Guidance:
        """The prompt alone."""
        return cls((1.0,))

    @classmethod
    def text(cls, scale: float) -> Guidance:
        """v = vu + s (vc - vu), over (whole prompt, unconditional)."""
        return cls((scale, 1.0 - scale))

    @classmethod
    def edit(cls, text: float, image: float) -> Guidance:
        """v = vu + si (vi - vu) + st (vc - vi), over (whole prompt, image only, unconditional)."""
        return cls((text, image - text, 1.0 - image))


def mixing(guidances: Sequence[Guidance]) -> Tensor:
    """The weighted sums of several pictures as one matrix, block by block: fp32 [N, R]."""
    return torch.block_diag(*(torch.tensor([guidance.weights]) for guidance in guidances))
