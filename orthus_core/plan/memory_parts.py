"""Memory of each part, computed from a configuration alone, without reading weights.

Weights are counted exactly, from the shapes of the model. Activations are estimated: they depend
on kernels, so the figures are rounded up (`MARGIN`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from orthus_core.checkpoint.parts import part_of
from orthus_core.checkpoint.skeleton import skeleton
from orthus_core.device import DTYPES
from orthus_core.model.config import InterleavedConfig, OrthusConfig
from orthus_core.recipe.training import LoraRecipe
from orthus_core.samplers.memory_estimate import cache_bytes, decoder_bytes
from orthus_core.samplers.prompt import room_for_image

GB = 10**9
ITEMSIZE = {name: dtype.itemsize for name, dtype in DTYPES.items()}
# Bits per weight of the layers' matrices when quantised, including a 16-bit scale for each group
# of 64 weights; other weights are unchanged.
QUANTISED_BITS = {8: 8.25, 4: 4.25}
# Additional memory of the allocator, the kernels' workspaces and the driver.
DRIVER = {"cuda": 600_000_000, "mps": 300_000_000, "cpu": 300_000_000}
MARGIN = 1.05
# Assumed length of an unknown prompt, with its start and SEP tokens.
PROMPT_TOKENS = 64
# The released sampling uses guidance with one other stream.
STREAMS = 2
# Vectors that a layer stores for the backward pass, in units of its width: inputs of its norms,
# queries, keys, values, attention output and the two residuals.
KEPT_BY_A_LAYER = 12
# The same in units of the inner width: gate, up and their product.
KEPT_BY_AN_MLP = 3
WEIGHTS = "weights: "
VISION = ("vision encoder", "vision codebook", "pixel decoder")
# Trainings on pictures alone, which have no rows.
AUTOENCODER = "autoencoder"
OF_PICTURES = (AUTOENCODER, "finetune-vae")


class MemoryItem(NamedTuple):
    """Memory of one part.

    Attributes:
        about: What the size depends on, in words.
    """

    name: str
    bytes: int
    about: str = ""


class Drawing(NamedTuple):
    """The properties of a drawing that its memory depends on.

    Attributes:
        pictures: Number of pictures drawn at once.
        prompt: Number of tokens in the longest prompt.
        streams: Number of streams per picture: its own and those of the other guidance branches.
        dtype: Precision of the weights, as `--dtype` takes it.
        quantise: Bits of the matrices, 8 or 4; None leaves them in `dtype`.
        fetched: Whether layers stay in their files, so that one matrix at a time is in memory.
    """

    pictures: int = 1
    prompt: int = PROMPT_TOKENS
    branches: int = STREAMS
    dtype: str = "bf16"
    quantise: int | None = None
    fetched: bool = False


class Training(NamedTuple):
    """The properties of a training that its memory depends on.

    Attributes:
        command: Command of the recipe; "autoencoder" is the first half of `pretrain`.
        batch: Rows per batch, or pictures when training on pictures alone.
        length: Tokens and patches per row.
        optimiser: "adamw" keeps two numbers per trained weight, "muon" one for matrices.
        averaged: Whether an average of the weights is kept.
        repeats: Noise draws per patch.
        lora: Adapters that `posttrain` trains in place of the model, where their rank is above 0.
    """

    command: str
    batch: int
    length: int
    optimiser: str = "adamw"
    averaged: bool = False
    repeats: int = 1
    lora: LoraRecipe = LoraRecipe()


def drawing_memory(
    config: InterleavedConfig, asked: Drawing, device: str = "cuda"
) -> list[MemoryItem]:
    """The memory that drawing needs, weights first."""
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
    """The memory that training needs: weights in fp32, and a forward and backward pass. On CUDA
    `build-base` and adapters hold what they do not train in bf16, as the released model is stored.
    """
    moved, kept = _moved(config, trained)
    weights = _weights(config, "fp32", None)
    if trained.command == AUTOENCODER:  # the rest of the model is created later
        weights = [item for item in weights if item.name.removeprefix(WEIGHTS) in VISION]
    if device == "cuda":
        held = [WEIGHTS + part for part in _frozen_matrices(trained)]
        weights = [
            item._replace(bytes=item.bytes // 2) if item.name in held else item for item in weights
        ]
    if trained.lora.rank:
        extra = _adapted(config, trained.lora)
        weights.append(MemoryItem(f"{WEIGHTS}adapters", 4 * extra, f"{extra:,} parameters"))
    moments = 2 if trained.optimiser == "adamw" else 1
    return [
        *weights,
        MemoryItem("gradients", 4 * moved, f"{moved:,} weights move"),
        MemoryItem("optimiser", 4 * moments * moved, trained.optimiser),
        *([MemoryItem("average of the weights", 4 * moved)] if trained.averaged else []),
        # Autocast keeps a copy of each trained weight until its gradient is computed.
        *([MemoryItem("weights in bf16", 2 * moved, "for one pass")] if device == "cuda" else []),
        MemoryItem("activations", kept * trained.batch, f"{trained.batch} pictures")
        if trained.command in OF_PICTURES
        else _activations(config, trained),
        MemoryItem("allocator and driver", DRIVER[device], device),
    ]


def total(items: list[MemoryItem]) -> int:
    """Bytes of all parts, with a margin for what the estimate misses."""
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
    """A patch's modulations for all steps: three per block and two at the end, of head width."""
    if not isinstance(config, OrthusConfig):
        return []
    amounts = (3 * config.head_depth + 2) * config.head_width
    steps = config.sampling_defaults["steps"]
    rows = asked.pictures * asked.branches * steps
    return [MemoryItem("drawing a patch", rows * amounts * itemsize, f"{steps} steps at once")]


def _frozen_matrices(trained: Training) -> tuple[str, ...]:
    """Parts whose matrices a training holds in bf16 on CUDA (`freeze.hold_frozen_in_bf16`)."""
    if trained.command == "build-base":
        return "backbone", "LM head"
    if not trained.lora.rank:
        return ()
    head = () if trained.lora.head == "full" else ("diffusion head",)
    return ("backbone", *head, *(() if trained.lora.embeddings else ("LM head",)))


def _adapted(config: InterleavedConfig, lora: LoraRecipe) -> int:
    """Number of weights of adapters: two matrices for each that they are added to."""
    count = 0
    for name, weight in skeleton(config).named_parameters():
        part, layer = part_of(name), name.removesuffix(".weight").rpartition(".")[2]
        of_head = part == "diffusion head" and lora.head == "lora"
        if weight.ndim == 2 and (of_head or (part == "backbone" and layer in lora.targets)):
            count += lora.rank * sum(weight.shape)
    return count


def _moved(config: InterleavedConfig, trained: Training) -> tuple[int, int]:
    """Number of weights a training updates, and what its pass stores per row of pixels."""
    command, lora = trained.command, trained.lora
    parts: Mapping[str, int] = Counter()
    for name, weight in skeleton(config).named_parameters():
        parts[part_of(name)] += weight.numel()  # type: ignore[index]
    if command == AUTOENCODER:  # the encoder is as large as the decoder
        return sum(parts[part] for part in VISION), 2 * _decoding(config)
    if command == "finetune-vae":
        return parts["pixel decoder"], _decoding(config)
    if command == "build-base":  # the table is one weight, although only the codes' rows change
        return sum(parts[p] for p in ("diffusion head", "input codes", "token embeddings")), 0
    if lora.rank:
        whole = ("diffusion head",) if lora.head == "full" else ()
        whole += ("token embeddings", "input codes", "LM head") if lora.embeddings else ()
        return _adapted(config, lora) + sum(parts[part] for part in whole), 0
    return sum(count for part, count in parts.items() if part not in VISION), 0


def _activations(config: InterleavedConfig, trained: Training) -> MemoryItem:
    """What the layers store for the backward pass in bf16, and two copies of the logits in fp32,
    for the softmax and its gradient.
    """
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
    """Activations that the decoder stores per picture: at each level, for each block's two
    convolutions and norms.
    """
    vq = config.vq_config
    kept = 0
    for level, factor in enumerate(vq.channel_multiplier):
        side = vq.resolution // 2**level
        kept += 4 * side * side * vq.base_channels * factor * 4 * (vq.num_res_blocks + 1)
    return kept
