"""Features of a training's pictures: computed once, bit for bit independent of the other pictures.

Legend: M pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from orthus_core.data.latent_cache import FeatureCache, fingerprint
from orthus_core.device import has_bf16
from orthus_core.errors import OutputError
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.distributed import current_rank
from orthus_core.user_files import user_path

Encode = Callable[[Tensor], Tensor]

# Pictures of 64 pixels per pass of the encoder, and fewer of larger ones: always the same number,
# by the pictures' size alone. It suits a processor's caches and keeps a GPU busy.
TOGETHER, OF_SIDE = 16, 64
TOGETHER_ON_A_CARD, MOST_ON_A_CARD = 256, 64


def feature_cache(
    vq: OrthusVQ, encode: Encode, folder: Path, *, sixteen_bit: bool = False, kind: str = "features"
) -> FeatureCache:
    """The cache of an autoencoder's features or codes.

    Args:
        folder: Where it is kept: a training's folder, or one that several trainings share
            (`data.cache`).
        sixteen_bit: Whether to encode in bf16 where that is faster (`has_bf16`). The
            features then have a rounding error of half a percent (`mini`, scenes), small next to
            that of the training itself; codes might change. They are kept in 16 bits on any
            processor (fp16, an error of 0.05%).
        kind: What they are: features or codes.
    """
    size, device = vq.config.resolution, vq.device
    weights = fingerprint(vq)
    if sixteen_bit and has_bf16(device):
        weights, encode = f"{weights}-bf16", in_bf16(encode, device)
    elif device.type == "cpu":
        encode = in_channels_last(encode)
    together = pictures_together(size, device)
    if device.type == "cuda":
        from orthus_core.samplers.cuda_graph import CUDAGraphCache

        encode = partial(CUDAGraphCache(), "encode", encode)
    encode = always_together(encode, together)
    stored = torch.float16 if sixteen_bit else torch.float32
    return FeatureCache(
        weights, encode, size, folder=folder, device=device, stored=stored, kind=kind
    )


def pictures_together(side: int, device: torch.device) -> int:
    """Number of pictures of this side, in pixels, in every pass of the encoder.

    On a GPU they take about as much memory at any side (the 7B's widest map is 0.27 GB in bf16),
    and are no more than 64, so that of the batches that come few places are padded.
    """
    on_a_card = device.type == "cuda"
    together, most = (TOGETHER_ON_A_CARD, MOST_ON_A_CARD) if on_a_card else (TOGETHER, TOGETHER)
    return max(1, min(most, together * OF_SIDE**2 // side**2))


def cache_folder(data: DataRecipe, own: Path) -> Path:
    """The folder of a training's features: that of the recipe, or the training's own."""
    return user_path(data.cache) if data.cache else own


def in_channels_last(encode: Encode) -> Encode:
    """The encoder on pictures in channels-last memory format, in which a processor's convolutions
    take about two thirds of the time.
    """
    return lambda pixels_M3HW: encode(pixels_M3HW.contiguous(memory_format=torch.channels_last))


def in_bf16(encode: Encode, device: torch.device) -> Encode:
    """The encoder with its products in bf16, and in channels-last memory format, which bf16
    convolutions need to be fast.
    """

    def encoding(pixels_M3HW: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return encode(pixels_M3HW.contiguous(memory_format=torch.channels_last))

    return encoding


def always_together(encode: Encode, many: int = TOGETHER) -> Encode:
    """Run the encoder on batches of one size, padding the last one with its last picture.

    A convolution rounds differently for batches of different sizes. Which pictures are not yet
    cached differs between an uninterrupted training and one that was killed and resumed, and the
    two must agree to the last bit.
    """

    def together(pixels_M3HW: Tensor) -> Tensor:
        count = len(pixels_M3HW)
        filled_M = torch.arange(-(-count // many) * many).clamp(max=count - 1)
        parts = pixels_M3HW[filled_M.to(pixels_M3HW.device)].split(many)
        return torch.cat([encode(part) for part in parts])[:count]

    return together


@contextmanager
def save_on_exit(cache: FeatureCache) -> Iterator[None]:
    """Write the features to disk when a training ends or stops, so that it resumes quickly. That
    they cannot be written costs time only, and no training ends for it.
    """
    try:
        yield
    finally:
        if current_rank().is_first:
            with suppress(OutputError):
                cache.save()
