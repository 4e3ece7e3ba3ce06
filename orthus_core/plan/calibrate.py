"""Estimate times from a short measurement on this machine: one layer, one head or one autoencoder
of the model's size, with random weights. The time of the whole model is a multiple of it; the
model itself need not be present.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonDecoderLayer,
    ChameleonRotaryEmbedding,
)

from orthus_core.device import DTYPES
from orthus_core.model.config import InterleavedConfig, OrthusConfig
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.vision import OrthusVQ
from orthus_core.plan.memory_parts import Drawing
from orthus_core.plan.training_memory import OF_PICTURES, Training

TRIES = 3
# A backward pass costs twice a forward pass.
FORTH_AND_BACK = 3


class Pace(NamedTuple):
    """Seconds of the parts of the work.

    Attributes:
        layer: Time of one layer for one new token of every stream.
        head: Time of one denoising step for one patch of every stream.
    """

    layer: float
    head: float


def drawing_pace(config: InterleavedConfig, asked: Drawing, device: torch.device) -> Pace:
    """Measure one layer and one head step at the requested number of streams."""
    dtype = DTYPES[asked.dtype]
    branches = asked.pictures * asked.branches
    return Pace(
        _layer_seconds(config, branches, 1, device, dtype),
        _head_seconds(config, branches, device, dtype),
    )


def picture_seconds(config: InterleavedConfig, pace: Pace, steps: int) -> float:
    """Seconds for all pictures of a batch, which are drawn in parallel."""
    patch = pace.layer * config.num_hidden_layers + pace.head * steps
    return patch * config.patches


def step_seconds(config: InterleavedConfig, trained: Training, device: torch.device) -> float:
    """Seconds of a training step, from the forward pass of one layer over one row, or of the
    autoencoder over one picture.
    """
    if trained.command in OF_PICTURES:
        there, back = _autoencoder_seconds(config, device)
        moved = FORTH_AND_BACK if trained.trains_encoder else 0 if trained.linear else 1
        return (there * moved + back * FORTH_AND_BACK) * trained.batch
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    row = _layer_seconds(config, 1, trained.length, device, dtype)
    return row * trained.batch * config.num_hidden_layers * FORTH_AND_BACK


@torch.no_grad()
def _layer_seconds(
    config: InterleavedConfig, rows: int, length: int, device: torch.device, dtype: torch.dtype
) -> float:
    text = config.get_text_config()
    text._attn_implementation = "sdpa"
    layer = ChameleonDecoderLayer(text, 0).to(device, dtype)  # type: ignore[arg-type]
    rotary = ChameleonRotaryEmbedding(text).to(device)  # type: ignore[arg-type]
    hidden = torch.randn(rows, length, config.hidden_size, device=device, dtype=dtype)
    places = torch.arange(length, device=device).expand(rows, -1)
    turned = rotary(hidden, places)
    return _seconds(lambda: layer(hidden, position_ids=places, position_embeddings=turned), device)


@torch.no_grad()
def _autoencoder_seconds(config: InterleavedConfig, device: torch.device) -> tuple[float, float]:
    """Seconds from one picture to features, and back."""
    with device:
        vq = OrthusVQ(config.vq_config).eval()
    side = config.vq_config.resolution
    pixels_M3HW = torch.rand(1, 3, side, side, device=device)
    features_MPC = vq.features(pixels_M3HW)
    there = _seconds(lambda: vq.features(pixels_M3HW), device)
    return there, _seconds(lambda: vq.pixels(features_MPC), device)


@torch.no_grad()
def _head_seconds(
    config: InterleavedConfig, rows: int, device: torch.device, dtype: torch.dtype
) -> float:
    if not (isinstance(config, OrthusConfig) and config.denoises):
        return 0.0  # one product for a patch
    head: nn.Module = DiffusionHead(
        config.feature_channels, config.hidden_size, config.head_width, config.head_depth
    ).to(device, dtype)
    x_NC = torch.randn(rows, config.feature_channels, device=device, dtype=dtype)
    cond_ND = torch.randn(rows, config.hidden_size, device=device, dtype=dtype)
    t_N = torch.full((rows,), 500, device=device)
    return _seconds(lambda: head(x_NC, t_N, cond_ND), device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The minimum of a few runs, after a warm-up run."""
    found = []
    for _ in range(TRIES + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - began)
    return min(found[1:])


def _wait(device: torch.device) -> None:
    """Wait for the GPU, which runs asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
