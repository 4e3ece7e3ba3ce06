"""Memory part by part, computed from a configuration alone: no weights are read, none are needed.

Weights are counted exactly, from the shapes the model would have. What a pass holds on its way is
estimated: it depends on kernels, and the figures say so by being rounded up (`MARGIN`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from orthus_core.checkpoint.parts import part_of
from orthus_core.checkpoint.skeleton import skeleton
from orthus_core.device import DTYPES
from orthus_core.model.config import InterleavedConfig, OrthusConfig
from orthus_core.samplers.memory_estimate import cache_bytes, decoder_bytes
from orthus_core.samplers.prompt import room_for_image

GB = 10**9
ITEMSIZE = {name: dtype.itemsize for name, dtype in DTYPES.items()}
# Matrices of the transformer's layers take so many bits a weight when they are quantised; the rest
# stays as it is. A scale of 16 bits for each group of 64 weights is included.
QUANTISED_BITS = {8: 8.25, 4: 4.25}
# What the allocator, the kernels' workspaces and the driver take besides.
DRIVER = {"cuda": 600_000_000, "mps": 300_000_000, "cpu": 300_000_000}
MARGIN = 1.05
# Tokens of a prompt that is not known yet, its beginning and SEP included.
PROMPT_TOKENS = 64
# The released sampling guides against one other stream.
STREAMS = 2
# Vectors that a layer keeps for the way back, in units of its width: inputs of its norms, queries,
# keys, values, attention's result and the two residuals.
KEPT_BY_A_LAYER = 12
# The same in units of its inner width: gate, up and their product.
KEPT_BY_AN_MLP = 3
WEIGHTS = "weights: "
VISION = ("vision encoder", "vision codebook", "pixel decoder")
# Trainings on pictures alone, which have no rows.
AUTOENCODER = "autoencoder"
OF_PICTURES = (AUTOENCODER, "finetune-vae")


class MemoryItem(NamedTuple):
    """One part of the memory that something takes. about: What it hangs on, in words."""

    name: str
    bytes: int
    about: str = ""


class Drawing(NamedTuple):
    """What is drawn, as far as memory hangs on it.

    pictures: At once.
    prompt: Tokens of the longest prompt.
    streams: Of a picture: its own, and those it is guided against.
    dtype: Of the weights, as `--dtype` says it.
    quantise: Bits of the matrices, 8 or 4; None leaves them in `dtype`.
    fetched: Whether layers stay in their files, so that one matrix at a time is held.
    """

    pictures: int = 1
    prompt: int = PROMPT_TOKENS
    branches: int = STREAMS
    dtype: str = "bf16"
    quantise: int | None = None
    fetched: bool = False


class Training(NamedTuple):
    """What is trained, as far as memory hangs on it.

    command: Of its recipe; "autoencoder" is the first half of `pretrain`.
    batch: Rows at once; pictures, where it is about pictures alone.
    length: Tokens and patches of a row.
    optimiser: "adamw" holds two numbers a trained weight, "muon" one for matrices.
    averaged: Whether an average of the weights is kept.
    repeats: Noise draws for each patch.
    """

    command: str
    batch: int
    length: int
    optimiser: str = "adamw"
    averaged: bool = False
    repeats: int = 1


def drawing_memory(
    config: InterleavedConfig, asked: Drawing, device: str = "cuda"
) -> list[MemoryItem]:
    """What drawing takes, weights first."""
    itemsize = ITEMSIZE[asked.dtype]
    slots = asked.prompt + room_for_image(config)
    cache = cache_bytes(config, slots, itemsize) * asked.branches * asked.pictures
    wide = KEPT_BY_AN_MLP * config.intermediate_size + KEPT_BY_A_LAYER * config.hidden_size
    passed = asked.prompt * asked.branches * asked.pictures * wide * itemsize
    logits = 4 * config.vocab_size * asked.pictures
    rows = f"{asked.pictures} x {asked.branches} streams of {slots} tokens"
    return [
        *_weights(config, asked.dtype, asked.quantise, fetched=asked.fetched),
        MemoryItem("cache", cache, rows),
        MemoryItem("reading the prompt", passed + logits, f"{asked.prompt} tokens"),
        *_head(config, asked, itemsize),
        MemoryItem(
            "becoming pixels", decoder_bytes(config, 4), "one picture after the other, fp32"
        ),
        MemoryItem("allocator and driver", DRIVER[device], device),
    ]


def training_memory(
    config: InterleavedConfig, trained: Training, device: str = "cuda"
) -> list[MemoryItem]:
    """What a training takes: weights in fp32, as its loop holds them, and a pass forth and back."""
    moved, kept = _moved(config, trained.command)
    weights = _weights(config, "fp32", None)
    if trained.command == AUTOENCODER:  # the rest of the model is made after it
        weights = [item for item in weights if item.name.removeprefix(WEIGHTS) in VISION]
    moments = 2 if trained.optimiser == "adamw" else 1
    return [
        *weights,
        MemoryItem("gradients", 4 * moved, f"{moved:,} weights move"),
        MemoryItem("optimiser", 4 * moments * moved, trained.optimiser),
        *([MemoryItem("average of the weights", 4 * moved)] if trained.averaged else []),
        # Autocast keeps a copy of each weight that moves until its gradient is there.
        *([MemoryItem("weights in bf16", 2 * moved, "for one pass")] if device == "cuda" else []),
        MemoryItem("activations", kept * trained.batch, f"{trained.batch} pictures")
        if trained.command in OF_PICTURES
        else _activations(config, trained),
        MemoryItem("allocator and driver", DRIVER[device], device),
    ]


def total(items: list[MemoryItem]) -> int:
    """Bytes of all parts, with a margin for what no estimate sees."""
    return round(MARGIN * sum(item.bytes for item in items))


def _weights(
    config: InterleavedConfig, dtype: str, quantise: int | None, *, fetched: bool = False
) -> list[MemoryItem]:
    counts: Counter[str] = Counter()
    bits: Counter[str] = Counter()
    for name, weight in skeleton(config).named_parameters():
        part = part_of(name)
        is_matrix = part == "backbone" and weight.ndim == 2
        each = QUANTISED_BITS[quantise] if quantise and is_matrix else 8 * ITEMSIZE[dtype]
        counts[part] += weight.numel()
        taken = round(each * weight.numel())
        bits[part] = max(bits[part], taken) if fetched and is_matrix else bits[part] + taken
    return [
        MemoryItem(f"{WEIGHTS}{part}", bits[part] // 8, f"{count:,} parameters")
        for part, count in counts.items()
    ]


def _head(config: InterleavedConfig, asked: Drawing, itemsize: int) -> list[MemoryItem]:
    """A patch's modulations of all steps: three a block and two at the end, of the head's width."""
    if not isinstance(config, OrthusConfig):
        return []
    amounts = (3 * config.head_depth + 2) * config.head_width
    steps = config.sampling_defaults["steps"]
    rows = asked.pictures * asked.branches * steps
    return [MemoryItem("drawing a patch", rows * amounts * itemsize, f"{steps} steps at once")]


def _moved(config: InterleavedConfig, command: str) -> tuple[int, int]:
    """How many weights move in a training, and what its pass keeps of a row of pixels."""
    parts: Mapping[str, int] = Counter()
    for name, weight in skeleton(config).named_parameters():
        parts[part_of(name)] += weight.numel()  # type: ignore[index]
    if command == AUTOENCODER:  # the encoder is as large as the decoder
        return sum(parts[part] for part in VISION), 2 * _decoding(config)
    if command == "finetune-vae":
        return parts["pixel decoder"], _decoding(config)
    if command == "build-base":  # the table is one weight, though only its codes' rows change
        return sum(parts[p] for p in ("diffusion head", "input codes", "token embeddings")), 0
    return sum(count for part, count in parts.items() if part not in VISION), 0


def _activations(config: InterleavedConfig, trained: Training) -> MemoryItem:
    """What the layers keep for the way back in bf16, and the logits in fp32, twice: for the softmax
    and its gradient."""
    tokens = trained.batch * trained.length
    layer = KEPT_BY_AN_MLP * config.intermediate_size + KEPT_BY_A_LAYER * config.hidden_size
    layers = 2 * tokens * config.num_hidden_layers * layer
    logits = 2 * 4 * tokens * config.vocab_size if trained.command != "build-base" else 0
    head = 0
    if isinstance(config, OrthusConfig):
        amounts = (3 * config.head_depth + 2 + 4 * config.head_depth) * config.head_width
        head = 2 * tokens * trained.repeats * amounts
    return MemoryItem(
        "activations", layers + logits + head, f"{trained.batch} rows of {trained.length}"
    )


def _decoding(config: InterleavedConfig) -> int:
    """Maps that the decoder keeps of one picture: at each level, of each block's two convolutions
    and norms."""
    vq = config.vq_config
    kept = 0
    for level, factor in enumerate(vq.channel_multiplier):
        side = vq.resolution // 2**level
        kept += 4 * side * side * vq.base_channels * factor * 4 * (vq.num_res_blocks + 1)
    return kept
