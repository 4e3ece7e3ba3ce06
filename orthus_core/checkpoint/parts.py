"""Group parameters by part of the model, for reports: numbers of parameters and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from orthus_core.checkpoint import parameter_names

# The first match wins; the order is that of reports.
_PARTS = {
    "token embeddings": (parameter_names.EMBEDDINGS,),
    "backbone": ("model.layers.", parameter_names.FINAL_NORM),
    "LM head": (parameter_names.LM_HEAD,),
    "regression head": (parameter_names.REGRESSION_HEAD,),
    "diffusion head": (parameter_names.IMAGE_HEAD,),
    "input codes": (parameter_names.CODEBOOK_IN, parameter_names.LINEAR_EMBEDDING),
    # post_quant_conv exists even without the decoder that it feeds.
    "vision encoder": tuple(
        parameter_names.VQ + part for part in ("encoder.", "quant_conv.", "post_quant_conv.")
    ),
    "vision codebook": (parameter_names.VQ_CODEBOOK,),
    "pixel decoder": (parameter_names.VQ_DECODER,),
}
OTHER = "other"
IMAGE_HEADS = ("diffusion head", "regression head")
"""The parts that predict image features; a model has one of them."""

_DTYPE_WORDS = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "f16": "fp16",
    "float32": "fp32",
    "f32": "fp32",
    "float64": "fp64",
    "f64": "fp64",
}


class Sized(Protocol):
    """A tensor, or its header, with a known size."""

    @property
    def dtype(self) -> object: ...

    @property
    def numel(self) -> int: ...

    @property
    def bytes(self) -> int: ...


class Part(NamedTuple):
    """One part of a model, with the dtypes of its tensors, the most frequent first."""

    name: str
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


def part_of(name: str) -> str:
    """The part that one of our parameters belongs to."""
    return next((part for part, starts in _PARTS.items() if name.startswith(starts)), OTHER)


def parts_of(tensors: Mapping[str, Sized]) -> list[Part]:
    """The parts that the model has, in report order."""
    members: dict[str, list[Sized]] = {part: [] for part in (*_PARTS, OTHER)}
    for name, tensor in tensors.items():
        members[part_of(name)].append(tensor)
    return [_summed(part, found) for part, found in members.items() if found]


def _summed(part: str, tensors: list[Sized]) -> Part:
    parameters_of: Counter[str] = Counter()
    for tensor in tensors:
        parameters_of[dtype_word(tensor.dtype)] += tensor.numel
    return Part(
        part,
        sum(parameters_of.values()),
        sum(tensor.bytes for tensor in tensors),
        tuple(word for word, _ in parameters_of.most_common()),
    )


def dtype_word(dtype: object) -> str:
    """A precision as the command line spells it: `BF16` and `torch.bfloat16` are both bf16."""
    word = str(dtype).removeprefix("torch.").lower()
    return _DTYPE_WORDS.get(word, word)
