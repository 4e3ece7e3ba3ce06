"""A function of rows on a card that sees few different numbers of them.

The libraries that multiply on a card choose a way for each shape the first time they meet it, which
takes milliseconds. Where every step of a training has another number of rows, choosing takes longer
than multiplying.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MANY = 2048
"""Rows that a number is rounded up to."""


def with_padded_rows(function: Callable[..., Tensor], *rows: Tensor, many: int = MANY) -> Tensor:
    """`function(*rows)`, row by row, with rows of zeros added while training on a card and taken
    away again.

    Args:
        function: Of tensors with as many rows each; no row of its result depends on another row.
        rows: Its arguments.
        many: What their number is rounded up to.
    """
    count = len(rows[0])
    extra = -count % many
    if not (extra and count and meets_shapes_slowly(rows[0])):
        return function(*rows)
    filled = (F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, extra)) for tensor in rows)
    return function(*filled)[:count]


def meets_shapes_slowly(tensor: Tensor) -> bool:
    """Whether a new shape costs more than rows that are thrown away: while training on a card."""
    return tensor.is_cuda and torch.is_grad_enabled()
