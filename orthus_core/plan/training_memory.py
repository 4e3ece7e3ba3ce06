"""Memory of a training on each of its cards, part by part, computed from a configuration alone.

Weights, gradients and what the optimiser keeps are counted exactly. What the backward pass needs is
counted from the tensors that each layer keeps; `benchmarks/plan_memory.py` compares the sums with
measured peaks. Sharded over several cards by FSDP2 (`train.sharding`), each holds its part of all
weights but the autoencoder's, and gathers a layer when its turn comes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from orthus_core.checkpoint.parts import IMAGE_HEADS
from orthus_core.model.config import (
    DiscreteConfig,
    InterleavedConfig,
    OrthusConfig,
    OrthusVQConfig,
)
from orthus_core.plan.memory_parts import (
    DRIVER,
    WEIGHTS,
    MemoryItem,
    weights_memory,
    weights_of,
)
from orthus_core.recipe.training import LoraRecipe

VISION = ("vision encoder", "vision codebook", "pixel decoder")
# Trainings on pictures alone, which have no rows and no transformer.
AUTOENCODER = "autoencoder"
OF_PICTURES = (AUTOENCODER, "finetune-vae")
TABLES = ("token embeddings", "input codes")
# The phases of a step: the end of the forward pass, with all that the backward pass needs; the
# backward pass of the LM head, after that of the diffusion head; the last layer's; its end, with
# all gradients; the move of the weights.
FORWARD, HEADS, LAYERS, BACKWARD, UPDATE = "forward", "heads", "layers", "backward", "update"
PASS = (FORWARD, HEADS, LAYERS)
FP32, BF16 = 4, 2


class Training(NamedTuple):
    """The properties of a training that its memory and its arithmetic depend on.

    Attributes:
        command: Command of the recipe; "autoencoder" is the first half of `pretrain`.
        batch: Rows per batch of all cards together, or pictures when training on pictures alone.
        length: Tokens and patches per row.
        optimiser: "adamw" keeps two numbers per trained weight, "muon" one for matrices.
        averaged: Whether an average of the weights is kept.
        interpolated: Whether the first weights are kept, to end between them and the trained ones.
        compared: Whether the model before the training predicts, too.
        repeats: Noise draws per patch.
        lora: Adapters that `posttrain` trains in place of the model, where their rank is above 0.
        pictures: Pictures per row.
        words: Words per row whose next token is predicted.
        accumulate: Batches per step.
        gpus: Number of cards.
        replicas: Groups of cards that hold the whole model each.
        sharded: Whether the cards of a group share the model; otherwise each holds all of it.
        checkpoint: Whether layers keep only their input, and are computed again.
        patch_share: Share of the patches that the diffusion loss is computed on.
        linear: Whether an autoencoder's encoder is a linear code, which is written and not trained.
    """

    command: str
    batch: int
    length: int
    optimiser: str = "adamw"
    averaged: bool = False
    interpolated: bool = False
    compared: bool = False
    repeats: int = 1
    lora: LoraRecipe = LoraRecipe()
    pictures: int = 1
    words: int = 64
    accumulate: int = 1
    gpus: int = 1
    replicas: int = 1
    sharded: bool = True
    checkpoint: bool = False
    patch_share: float = 1.0
    linear: bool = False

    @property
    def shards(self) -> int:
        """Cards that share one copy of the model."""
        return self.gpus // self.replicas if self.sharded and self.has_rows else 1

    @property
    def rows(self) -> int:
        """Rows, or pictures, of a batch on one card."""
        return -(-self.batch // self.gpus)

    @property
    def has_rows(self) -> bool:
        """Whether a transformer is trained on rows."""
        return self.command not in OF_PICTURES

    @property
    def trains_encoder(self) -> bool:
        """Whether the autoencoder's encoder and codes are trained."""
        return self.command == AUTOENCODER and not self.linear


def predicted_words(config: InterleavedConfig, trained: Training) -> int:
    """Words of a row that the LM head predicts; a discrete model's patches are words, too."""
    if trained.command == "build-base":
        return 0
    return trained.length if isinstance(config, DiscreteConfig) else trained.words


class KeptOfTokens(NamedTuple):
    """Bytes that the layers of a transformer keep of a token for the backward pass, for each number
    of the width and of the inner width.
    """

    hidden: int
    inner: int


# What a layer keeps, by what of it is trained, in fp32 and under bf16 autocast. All of it: residual
# stream and its norm (twice), inputs of the projections, queries and keys (before and after norm
# and rotation), values, attention; gate, its activation, up, their product. A frozen projection
# needs no input, and adapters need only that. Autocast keeps the residual stream, norms and what is
# normed in fp32.
KEPT = {
    ("whole", FP32): KeptOfTokens(56, 16),
    ("whole", BF16): KeptOfTokens(46, 8),
    ("frozen", FP32): KeptOfTokens(32, 12),
    ("frozen", BF16): KeptOfTokens(24, 6),
    ("adapters", FP32): KeptOfTokens(40, 16),
    ("adapters", BF16): KeptOfTokens(36, 8),
}
# Vectors of the head's width that it keeps of each draw: outside of its blocks and in each, with
# and without what a checkpointed block computes again; and bytes of a number.
HEAD_OUTSIDE, HEAD_BLOCK, HEAD_BLOCK_INPUTS = 8, 11, 5
HEAD_NUMBER = {FP32: 4.0, BF16: 2.3}
# Bytes for each number of the vocabulary that a predicted word takes: its probability, and later
# two gradients of it as well.
LOGIT, LOGIT_GRADIENTS = 4, 12
# Bytes for each code that a patch takes which is read: distances, probabilities and their copies;
# and gradients of both.
CODE, CODE_GRADIENTS = {FP32: 8, BF16: 10}, 8
# Share of the fp32 bytes that an autoencoder keeps under bf16 autocast: norms stay in fp32.
VISION_KEPT = {FP32: 1.0, BF16: 0.85}
# Maps of the largest size that an autoencoder's backward pass holds beside what was kept.
VISION_PASSING = 3
# Numbers of a matrix that Muon holds beside it: the update, its stack, and two iterates.
MUON_STACK = 3
# Sharded matrices that Muon gathers at once, in numbers (`train.muon.GATHERED`).
MUON_GATHERED = 2**28


def training_memory(
    config: InterleavedConfig, trained: Training, device: str = "cuda"
) -> list[MemoryItem]:
    """The memory that a training needs on each card: weights in fp32, and a forward and backward
    pass. On CUDA `build-base` and adapters hold what they do not train in bf16, as the released
    model is stored.

    Items with phases are in memory in some phases only (`memory_parts.total`).
    """
    number = BF16 if device == "cuda" else FP32
    moved, maps = moved_weights(config, trained)
    adapters = adapters_of(config, trained.lora)
    count = sum(moved.values()) + adapters
    maps += adapters
    moments = moments_of(count, maps, trained)
    shards = trained.shards
    items = _held(config, trained, device)
    items.append(MemoryItem("optimiser", FP32 * moments // shards, trained.optimiser))
    if trained.averaged:
        items.append(MemoryItem("average of the weights", FP32 * count // shards))
    if trained.interpolated:
        items.append(MemoryItem("first weights", FP32 * count // shards))
    if trained.compared:  # whole on every card
        size = sum(item.bytes for item in weights_memory(config, "fp32"))
        items.append(MemoryItem("model before the training", size))
    # A gradient takes the place of the activations that it is computed from, unless earlier batches
    # of the step have left theirs.
    before = PASS if trained.accumulate > 1 else ()
    gradients = FP32 * count // shards
    items.append(
        MemoryItem("gradients", gradients, f"{count:,} weights move", (*before, BACKWARD, UPDATE))
    )
    if trained.has_rows:
        if not before:
            first = FP32 * sum(moved[part] for part in IMAGE_HEADS) // shards
            second = FP32 * moved["LM head"] // shards
            items.append(MemoryItem("heads' gradients (diffusion)", first, "", (HEADS, LAYERS)))
            items.append(MemoryItem("heads' gradients (LM)", second, "", (LAYERS,)))
        items += _of_rows(config, trained, number, moved)
    else:
        items += _of_pictures(config, trained, number)
    if trained.optimiser == "muon":
        items.append(_muon(config, trained, number, maps))
    items.append(MemoryItem("allocator and driver", DRIVER[device], device))
    return items


def moved_weights(config: InterleavedConfig, trained: Training) -> tuple[Counter[str], int]:
    """The number of weights of each part that a training moves, without adapters; and how many of
    them are of matrices that Muon takes.
    """
    parts: Counter[str] = Counter()
    maps = 0
    for name, part, shape in weights_of(config):
        if not moves(part, trained):
            continue
        parts[part] += math.prod(shape)
        by_row = part in (*TABLES, "LM head", "vision codebook") or "_norm." in name
        maps += math.prod(shape) if len(shape) in (2, 4) and not by_row else 0
    return parts, maps


def moments_of(count: int, maps: int, trained: Training) -> int:
    """Numbers that the optimiser keeps of so many weights, of which Muon would take `maps`."""
    return 2 * count - (maps if trained.optimiser == "muon" else 0)


def moves(part: str, trained: Training) -> bool:
    """Whether a training moves the weights of a part of the model."""
    lora = trained.lora
    if not trained.has_rows:
        return part in VISION if trained.trains_encoder else part == "pixel decoder"
    if trained.command == "build-base":  # the table is one weight, although only some rows change
        return part in (*IMAGE_HEADS, *TABLES)
    if lora.rank:
        whole = IMAGE_HEADS if lora.head == "full" else ()
        return part in (*whole, *((*TABLES, "LM head") if lora.embeddings else ()))
    return part not in VISION


def adapters_of(config: InterleavedConfig, lora: LoraRecipe) -> int:
    """Number of weights of adapters: two matrices for each that they are added to."""
    count = 0
    for name, part, shape in weights_of(config) if lora.rank else ():
        layer = name.removesuffix(".weight").rpartition(".")[2]
        of_head = part in IMAGE_HEADS and lora.head == "lora"
        if len(shape) == 2 and (of_head or (part == "backbone" and layer in lora.targets)):
            count += lora.rank * sum(shape)
    return count


def _held(config: InterleavedConfig, trained: Training, device: str) -> list[MemoryItem]:
    """The weights on one card."""
    weights = weights_memory(config, "fp32")
    if not trained.has_rows:  # the autoencoder is opened alone, or made before the rest
        return [item for item in weights if item.name.removeprefix(WEIGHTS) in VISION]
    halved = frozen_matrices(trained) if device == "cuda" else ()
    held = []
    for item in weights:
        part = item.name.removeprefix(WEIGHTS)
        size = item.bytes // (2 if part in halved else 1)
        held.append(item._replace(bytes=size if part in VISION else size // trained.shards))
    if count := adapters_of(config, trained.lora):
        size = FP32 * count // trained.shards
        held.append(MemoryItem(f"{WEIGHTS}adapters", size, f"{count:,} parameters"))
    return held


def frozen_matrices(trained: Training) -> tuple[str, ...]:
    """Parts whose matrices a training holds in bf16 on CUDA (`freeze.hold_frozen_in_bf16`)."""
    if trained.command == "build-base":
        return "backbone", "LM head"
    if not trained.lora.rank:
        return ()
    head = () if trained.lora.head == "full" else IMAGE_HEADS
    return ("backbone", *head, *(() if trained.lora.embeddings else ("LM head",)))


def _of_rows(
    config: InterleavedConfig, trained: Training, number: int, moved: Counter[str]
) -> list[MemoryItem]:
    """What a transformer's pass over its rows of a batch needs."""
    rows, hidden = trained.rows, config.hidden_size
    tokens = rows * trained.length
    slots = rows * trained.pictures * config.patches
    of_layers = "adapters" if trained.lora.rank else "whole" if moved["backbone"] else "frozen"
    kept = KEPT[of_layers, number]
    layer = kept.hidden * hidden + kept.inner * config.intermediate_size
    layers = config.num_hidden_layers * (FP32 * hidden if trained.checkpoint else layer)
    size = tokens * (layers + 4 * FP32 * hidden)
    about = f"{rows} rows of {trained.length}, layers {of_layers}"
    items = [MemoryItem("activations of the layers", size, about, PASS)]
    if trained.checkpoint:
        items.append(MemoryItem("a layer computed again", tokens * layer, "", (LAYERS,)))
    if words := rows * predicted_words(config, trained):
        count = f"{words} words"
        first, later = (each * words * config.vocab_size for each in (LOGIT, LOGIT_GRADIENTS))
        items.append(MemoryItem("predicted words", first, count, (FORWARD,)))
        items.append(MemoryItem("predicted words and gradients", later, count, (HEADS,)))
    ends = 0
    if isinstance(config, OrthusConfig):
        draws = round(slots * trained.patch_share) * (trained.repeats if config.denoises else 1)
        block = HEAD_BLOCK_INPUTS if trained.checkpoint else HEAD_BLOCK
        vectors = (HEAD_OUTSIDE + block * config.head_depth) * config.head_width
        each = HEAD_NUMBER[number] * vectors + number * hidden + 3 * FP32 * config.feature_channels
        items.append(
            MemoryItem("diffusion head", round(draws * each), f"{draws} draws", (FORWARD,))
        )
        if config.embedding == "softmax" and moved["input codes"]:
            codes = slots * config.num_codes
            size = codes * CODE[number]
            items.append(MemoryItem("soft embedding", size, f"{slots} patches", (*PASS, BACKWARD)))
            ends += codes * CODE_GRADIENTS
    if moved["token embeddings"]:
        # The gradients of its two uses, by words and by codes, before they are one.
        ends += FP32 * moved["token embeddings"]
    if ends:
        items.append(MemoryItem("inputs' gradients", ends, "", (BACKWARD,)))
    shards = trained.shards
    if shards > 1:
        items += _gathered(config, trained, number, moved)
    elif number == BF16:
        # Autocast keeps a copy of each trained matrix until its gradient is computed.
        copies = sum(moved.values()) - moved["token embeddings"] + adapters_of(config, trained.lora)
        items.append(MemoryItem("weights in bf16", BF16 * copies, "for one pass", PASS))
    return items


def _gathered(
    config: InterleavedConfig, trained: Training, number: int, moved: Counter[str]
) -> list[MemoryItem]:
    """What FSDP2 gathers: two layers at a time, the LM head, and for the whole pass all that is in
    no layer; and their gradients before these are shared.
    """
    parts: Counter[str] = Counter()
    for _, part, shape in weights_of(config):
        parts[part] += math.prod(shape)
    layer = parts["backbone"] // config.num_hidden_layers
    others = (*IMAGE_HEADS, *TABLES)
    root = sum(parts[part] for part in others)
    size = number * (2 * layer + parts["LM head"]) + FP32 * root
    items = [MemoryItem("gathered weights", size, "two layers, heads and tables")]
    gradient = number + FP32  # as it is computed, and as it is summed
    own = moved["backbone"] // config.num_hidden_layers
    own += adapters_of(config, trained.lora) // config.num_hidden_layers
    size = gradient * own + 2 * FP32 * sum(moved[part] for part in others)
    size += gradient * moved["LM head"]
    items.append(MemoryItem("gathered gradients", size, "a layer, heads and tables", (BACKWARD,)))
    return items


def _muon(config: InterleavedConfig, trained: Training, number: int, maps: int) -> MemoryItem:
    """What Muon's step needs: an update of each matrix, and those of one shape at once."""
    alike: Counter[tuple[int, ...]] = Counter()
    for _, part, shape in weights_of(config):
        if moves(part, trained) and len(shape) in (2, 4) and part not in (*TABLES, "LM head"):
            alike[shape] += math.prod(shape)
    largest = max(alike.values(), default=0)
    if trained.shards > 1:
        largest = min(largest, MUON_GATHERED)
    size = FP32 * maps // trained.shards + (FP32 + MUON_STACK * number) * largest
    return MemoryItem("orthogonal updates", size, "of the matrices of one shape", (UPDATE,))


def _of_pictures(config: InterleavedConfig, trained: Training, number: int) -> list[MemoryItem]:
    """What an autoencoder's pass over its pictures of a batch needs."""
    kept = vision_kept(config.vq_config.to_json_string(), trained.trains_encoder)
    share = VISION_KEPT[number]
    passing = VISION_PASSING * FP32 * largest_map(config.vq_config)
    return [
        MemoryItem(
            "activations",
            round(trained.rows * (share * kept + passing)),
            f"{trained.rows} pictures",
            (FORWARD,),
        )
    ]


def largest_map(vq: OrthusVQConfig) -> int:
    """Numbers of the largest map of features of one picture, at its full size."""
    return vq.resolution**2 * vq.base_channels * vq.channel_multiplier[0]


@cache
def vision_kept(config: str, encodes: bool) -> int:
    """Bytes that the decoder, and the encoder if it is trained, keep of one picture for the
    backward pass in fp32, as autograd keeps them, found without computing anything.

    Args:
        config: The autoencoder's configuration as JSON.
    """
    from orthus_core.model.vision import OrthusVQ

    shape = OrthusVQConfig.from_dict(json.loads(config))
    with torch.device("meta"):
        vq = OrthusVQ(shape)
        side = shape.resolution
        pixels_M3HW = torch.empty(1, 3, side, side)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    vq.encoder.requires_grad_(encodes)
    vq.quant_conv.requires_grad_(encodes)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = vq.pixels(vq.features(pixels_M3HW))
    weights = {p.untyped_storage()._cdata for p in _of(vq)}
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)


def _of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
