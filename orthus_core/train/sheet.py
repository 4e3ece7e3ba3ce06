"""A contact sheet: rows of pictures in one image, to look at while a training runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor


def sheet(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of pictures [M, 3, H, W] in [-1, 1], all of one size, as one picture."""
    lines = [torch.cat(list(row.detach().float().cpu()), dim=-1) for row in rows]
    pixels_3HW = torch.cat(lines, dim=-2)
    bytes_HW3 = ((pixels_3HW.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(bytes_HW3.numpy())
