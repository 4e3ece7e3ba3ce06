"""Padding to few different numbers of rows, for training on a GPU.

A GPU's matrix libraries choose a kernel for each new shape, which takes milliseconds. When every
training step has another number of rows, choosing takes longer than multiplying.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# The number of rows is rounded up to a multiple of this.
MANY = 2048


def with_padded_rows(function: Callable[..., Tensor], *rows: Tensor, many: int = MANY) -> Tensor:
    """`function(*rows)`; while training on a GPU, rows of zeros are added before it and removed
    after it.

    Args:
        function: Function of tensors with equally many rows; no row of its result depends on
            another row.
        rows: Arguments of the function.
        many: The number of rows is rounded up to a multiple of this.
    """
    count = len(rows[0])
    extra = -count % many
    if not (extra and count and meets_shapes_slowly(rows[0])):
        return function(*rows)
    filled = (F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, extra)) for tensor in rows)
    return function(*filled)[:count]


def meets_shapes_slowly(tensor: Tensor) -> bool:
    """Whether a new shape costs more than padding: while training on a GPU."""
    return tensor.is_cuda and torch.is_grad_enabled()
