"""Features of a training's pictures: computed once, and to the same bits whatever else is computed.

Legend: M pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from orthus_core.data.latent_cache import FeatureCache, fingerprint
from orthus_core.model.vision import OrthusVQ
from orthus_core.train.devices import here

Encode = Callable[[Tensor], Tensor]

# Pictures that go through the encoder together, always as many.
TOGETHER = 16


def feature_cache(vq: OrthusVQ, encode: Encode, folder: Path) -> FeatureCache:
    """The cache of an autoencoder's features or codes, kept in a training's folder."""
    size, device = vq.config.resolution, vq.device
    return FeatureCache(
        fingerprint(vq), always_together(encode), size, folder=folder, device=device
    )


def always_together(encode: Encode) -> Encode:
    """The encoder on batches of one size, the last one filled up with its last picture.

    A convolution rounds differently for batches of different sizes. Which pictures are still
    missing differs between a training that ran through and one that was killed and resumed, and
    the two must agree to the last bit.
    """

    def together(pixels_M3HW: Tensor) -> Tensor:
        count = len(pixels_M3HW)
        filled_M = torch.arange(-(-count // TOGETHER) * TOGETHER).clamp(max=count - 1)
        parts = pixels_M3HW[filled_M.to(pixels_M3HW.device)].split(TOGETHER)
        return torch.cat([encode(part) for part in parts])[:count]

    return together


@contextmanager
def kept(cache: FeatureCache) -> Iterator[None]:
    """Writes the features to disk when a training ends or stops, so that going on is quick."""
    try:
        yield
    finally:
        if here().is_first:
            cache.save()
