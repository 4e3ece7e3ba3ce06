"""Memory of each part of a drawing, computed from a configuration alone, without reading weights;
and what plans of memory share. `training_memory.py` is the same for trainings.

Weights are counted exactly, from the shapes of the model. Activations are estimated: they depend
on kernels, so the figures are rounded up (`MARGIN`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from orthus_core.checkpoint.parts import part_of
from orthus_core.checkpoint.skeleton import skeleton
from orthus_core.device import DTYPES
from orthus_core.model.config import InterleavedConfig, OrthusConfig
from orthus_core.recipe.drawing import DrawingKeys, EditRecipe, StoryRecipe
from orthus_core.samplers.engine import TOKENS_AT_ONCE
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
# The released sampling uses guidance with one other stream, and of an edit with two.
STREAMS = 2
EDIT_STREAMS = 3
# Pictures that an edit by example reads: before, after, and the one to change.
EXAMPLE_PICTURES = 3
# Vectors of a layer that are in memory at once, in units of its width: inputs of its norms,
# queries, keys, values, attention output and the two residuals.
KEPT_BY_A_LAYER = 12
# The same in units of the inner width: gate, up and their product.
KEPT_BY_AN_MLP = 3
WEIGHTS = "weights: "


class MemoryItem(NamedTuple):
    """Memory of one part.

    Attributes:
        about: What the size depends on, in words.
        phases: When it is in memory, for a part that is not always; phases follow one another.
    """

    name: str
    bytes: int
    about: str = ""
    phases: tuple[str, ...] = ()


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


class PromptSize(NamedTuple):
    """Tokens of the longest prompt of a picture, and number of its streams."""

    tokens: int
    streams: int


def prompt_size(config: InterleavedConfig, recipe: DrawingKeys) -> PromptSize:
    """What a model reads before it draws a picture by this recipe: an edit the picture to change, a
    story its earlier panels.
    """
    image, tokens, streams = room_for_image(config), PROMPT_TOKENS, STREAMS
    if isinstance(recipe, EditRecipe):
        own = config.sampling_defaults.get("edit_max_text", 0)
        written = own if recipe.max_text is None else recipe.max_text
        pictures = EXAMPLE_PICTURES if recipe.by_example else 1
        tokens, streams = tokens + pictures * image + written, EDIT_STREAMS
    if isinstance(recipe, StoryRecipe):
        text = recipe.text.max_new_tokens
        earlier = min(recipe.panels - 1, recipe.keep_panels or recipe.panels)
        tokens += earlier * (text + image) + text
    return PromptSize(max(1, min(tokens, config.max_position_embeddings - image)), streams)


def drawing_memory(
    config: InterleavedConfig, asked: Drawing, device: str = "cuda"
) -> list[MemoryItem]:
    """The memory that drawing needs, weights first."""
    itemsize = ITEMSIZE[asked.dtype]
    slots = asked.prompt + room_for_image(config)
    cache = cache_bytes(config, slots, itemsize) * asked.branches * asked.pictures
    wide = KEPT_BY_AN_MLP * config.intermediate_size + KEPT_BY_A_LAYER * config.hidden_size
    passed = asked.prompt * asked.branches * asked.pictures
    passed = min(passed, TOKENS_AT_ONCE) * wide * itemsize
    logits = 4 * config.vocab_size * asked.pictures
    rows = f"{asked.pictures} x {asked.branches} streams of {slots} tokens"
    return [
        *weights_memory(config, asked.dtype, asked.quantise, fetched=asked.fetched),
        MemoryItem("cache", cache, rows),
        MemoryItem("reading the prompt", passed + logits, f"{asked.prompt} tokens"),
        *_head(config, asked, itemsize),
        MemoryItem(
            "becoming pixels", decoder_bytes(config, 4), "one picture after the other, fp32"
        ),
        MemoryItem("allocator and driver", DRIVER[device], device),
    ]


class Weight(NamedTuple):
    """A weight of a model by its name and part."""

    name: str
    part: str
    shape: tuple[int, ...]


def weights_of(config: InterleavedConfig) -> tuple[Weight, ...]:
    """The weights of a model, which are not read."""
    return _weights_of(type(config), config.to_json_string(use_diff=False))


@lru_cache(maxsize=8)
def _weights_of(kind: type[InterleavedConfig], values: str) -> tuple[Weight, ...]:
    model = skeleton(kind.from_dict(json.loads(values)))
    named = model.named_parameters()
    return tuple(Weight(name, part_of(name), tuple(weight.shape)) for name, weight in named)


def total(items: list[MemoryItem]) -> int:
    """Bytes of all parts that are in memory at the peak, with a margin for what the estimate
    misses.
    """
    peak = peak_phase(items)
    return round(MARGIN * sum(item.bytes for item in items if is_in(item, peak)))


def peak_phase(items: list[MemoryItem]) -> str:
    """The phase in which most memory is needed; "" for work of one phase."""
    phases = dict.fromkeys(phase for item in items for phase in item.phases)
    return max(
        phases, key=lambda phase: sum(i.bytes for i in items if phase in i.phases), default=""
    )


def is_in(item: MemoryItem, phase: str) -> bool:
    """Whether a part is in memory during a phase."""
    return not item.phases or phase in item.phases


def weights_memory(
    config: InterleavedConfig, dtype: str, quantise: int | None = None, *, fetched: bool = False
) -> list[MemoryItem]:
    """The memory of the weights of each part of a model, as `Drawing` describes them."""
    counts: Counter[str] = Counter()
    bits: Counter[str] = Counter()
    for _, part, shape in weights_of(config):
        is_matrix, size = part == "backbone" and len(shape) == 2, math.prod(shape)
        each = QUANTISED_BITS[quantise] if quantise and is_matrix else 8 * ITEMSIZE[dtype]
        counts[part] += size
        taken = round(each * size)
        bits[part] = max(bits[part], taken) if fetched and is_matrix else bits[part] + taken
    return [
        MemoryItem(f"{WEIGHTS}{part}", bits[part] // 8, f"{count:,} parameters")
        for part, count in counts.items()
    ]


def _head(config: InterleavedConfig, asked: Drawing, itemsize: int) -> list[MemoryItem]:
    """A patch's modulations for all steps: three per block and two at the end, of head width."""
    if not (isinstance(config, OrthusConfig) and config.denoises):
        return []
    amounts = (3 * config.head_depth + 2) * config.head_width
    steps = config.sampling_defaults["steps"]
    rows = asked.pictures * asked.branches * steps
    return [MemoryItem("drawing a patch", rows * amounts * itemsize, f"{steps} steps at once")]
