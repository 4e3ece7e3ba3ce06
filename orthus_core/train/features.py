"""Features of a training's pictures: computed once, bit for bit independent of the other pictures.

Legend: M pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from orthus_core.data.latent_cache import FeatureCache, fingerprint
from orthus_core.device import has_bf16
from orthus_core.errors import OutputError
from orthus_core.events import Event, Note
from orthus_core.model.soft_embedding import nearest_code
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.batches import RowSources
from orthus_core.train.loop import Before, Stop
from orthus_core.user_files import user_path

if TYPE_CHECKING:
    from orthus_core.recipe.distill_guidance import DistillGuidanceRecipe
    from orthus_core.recipe.training import BuildBaseRecipe, PosttrainRecipe, PretrainRecipe
    from orthus_core.train.linear_code import LinearCode

Encode = Callable[[Tensor], Tensor]
RowsRecipe: TypeAlias = "PretrainRecipe | BuildBaseRecipe | PosttrainRecipe | DistillGuidanceRecipe"

# Pictures of 64 pixels per pass of the encoder, and fewer of larger ones: always the same number,
# by the pictures' size alone. It suits a processor's caches and keeps a GPU busy.
TOGETHER, OF_SIDE = 16, 64
TOGETHER_ON_A_CARD, MOST_ON_A_CARD = 256, 64


def feature_cache(
    vq: OrthusVQ, encode: Encode, folder: Path, *, sixteen_bit: bool = False, kind: str = "features"
) -> FeatureCache:
    """The cache of an autoencoder's features or codes. A linear encoder's come from one product
    (`linear_code_of`), by which they are kept apart.

    Args:
        folder: Where it is kept: a training's folder, or one that several trainings share
            (`data.cache`).
        sixteen_bit: Whether to encode in bf16 where that is faster (`has_bf16`). The
            features then have a rounding error of half a percent, small next to that of the
            training itself; codes might change. They are kept in bf16 on any processor: for
            features of unit variance an error of 0.0017, where a training adds noise of 0.2;
            pictures decoded from them are the same to 78 dB.
        kind: What they are: features or codes.
    """
    size, device = vq.config.resolution, vq.device
    weights, code = fingerprint(vq), linear_code_of(vq)
    if code is not None:
        weights, encode = f"{weights}-linear", by_linear_code(vq, code, kind)
    elif sixteen_bit and has_bf16(device):
        weights, encode = f"{weights}-bf16", in_bf16(encode, device)
    elif device.type == "cpu":
        encode = in_channels_last(encode)
    together = pictures_together(size, device)
    if device.type == "cuda":
        from orthus_core.samplers.cuda_graph import CUDAGraphCache

        encode = partial(CUDAGraphCache(), "encode", encode)
    encode = always_together(encode, together)
    if kind == "codes":
        stored = torch.int16 if vq.config.num_embeddings <= 2**15 else torch.int32
    else:
        stored = torch.bfloat16 if sixteen_bit else torch.float32
    return FeatureCache(
        weights, encode, size, folder=folder, device=device, stored=stored, kind=kind
    )


def linear_code_of(vq: OrthusVQ) -> LinearCode | None:
    """The linear code that the autoencoder's encoder computes; None if it is not a linear one.

    In a linear encoder no block of the middle adds anything, which no trained one has.
    """
    encoder: Any = vq.encoder
    if any(m.weight.any() for m in encoder.mid.modules() if isinstance(m, nn.Conv2d)):
        return None
    # Imported here, because most models have a trained encoder.
    from orthus_core.train.linear_encoder import read_linear_code

    return read_linear_code(vq)


def by_linear_code(vq: OrthusVQ, code: LinearCode, kind: str) -> Encode:
    """Features, or the codes of them, by the linear code that the encoder computes."""
    if kind != "codes":
        return code.features

    def codes(pixels_M3HW: Tensor) -> Tensor:
        features_MPC = code.features(pixels_M3HW)
        codes_N = nearest_code(features_MPC.flatten(0, 1), vq.quantize.embedding.weight)
        return codes_N.view(features_MPC.shape[:2])

    return codes


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


def encoding(
    cache: FeatureCache, rows: RowSources, recipe: RowsRecipe, should_stop: Stop | None = None
) -> Before:
    """The work of a training before its first step: it encodes the pictures of its data sets, if
    the recipe says so.
    """

    def before(start: int, batches: int) -> Iterator[Event]:
        yield from map(Note, cache.notes())
        if recipe.data.encode_first is False or not rows.train.data_sets:
            return
        # Imported here, because the small world's pictures are encoded as they come.
        from orthus_core.train.encode_first import encode_for_training

        size = recipe.optim.batch_size
        always = recipe.data.encode_first is True
        yield from encode_for_training(
            cache, rows, range(start * size, batches * size), always, should_stop or (lambda: False)
        )

    return before


@contextmanager
def save_on_exit(cache: FeatureCache) -> Iterator[None]:
    """Wait for the disk to have the features when a training ends or stops. That they cannot be
    written costs time only, and no training ends for it.
    """
    try:
        yield
    finally:
        with suppress(OutputError):
            cache.save()
