"""The squared norms |c|^2 of the codes, kept for as long as the codes do not change.

An image grows by one patch at a time. For one patch, computing these anew takes longer than the
rest of its soft embedding.

Legend: K codes, C feature channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.model.soft_embedding import code_squares


class _Known(NamedTuple):
    """The squared norms of codes at one time.

    Attributes:
        squares_K: |c|^2 of each code.
        codes_KC: The codes; held, so that no other tensor can take their place in memory.
        version: Number of writes to the codes before that time.
    """

    squares_K: Tensor
    codes_KC: Tensor
    version: int


class CodeSquares:
    """Computes `code_squares` once for the same codes."""

    def __init__(self) -> None:
        self._known: _Known | None = None

    def __call__(self, codes_KC: Tensor) -> Tensor | None:
        """|c|^2 of every code, [K]; None while the codes are trained, which changes them."""
        if torch.is_grad_enabled() or codes_KC.is_inference():
            return None
        known, version = self._known, codes_KC._version
        if (
            known is None
            or known.version != version
            or known.codes_KC.dtype != codes_KC.dtype
            or known.codes_KC.data_ptr() != codes_KC.data_ptr()
        ):
            known = _Known(code_squares(codes_KC), codes_KC.detach(), version)
            self._known = known
        return known.squares_K
