"""Verify a conversion: the discrete Chameleon and the converted Orthus compute the same hidden
states.

Exact codebook vectors, embedded with a softmax sharp enough to select a single code, must have the
same effect as that code's token. One sequence is run twice, layer by layer in fp32: from the
source's files in the source's arithmetic, and from the files just written. This verifies the
renaming, joining, reordering and copied codebook in the files on disk.

Legend: S sequence, D hidden, K codes, C feature channels, N sampled codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.checkpoint import chameleon_layerwise, parameter_names
from orthus_core.checkpoint.lazy import LazyTensor, cast
from orthus_core.checkpoint.source import Source
from orthus_core.errors import CheckpointError
from orthus_core.events import Progress
from orthus_core.model.config import OrthusConfig
from orthus_core.model.soft_embedding import soft_embed

# Largest difference accepted, relative to the largest hidden state. Two summation orders in fp32
# over 32 layers differ by about 1e-5; one misplaced row by about 1.
BOUND = 1e-3
# A code's distance to its nearest neighbour, in |c|^2, below which fp32 cannot tell the two apart.
_TWINS = 1e-4
# Number of temperatures between a code and its nearest neighbour, whose weight is then
# exp(-100).
_SHARPNESS = 100.0
_WORDS = 16  # text tokens that follow the picture


class Proof(NamedTuple):
    """The result of a comparison.

    Attributes:
        codes: Image codes in the sequence.
        twins: Sampled codes that were skipped because another code has the same vector.
        layers: Number of layers run.
        difference: Largest absolute difference of the last hidden states.
        relative: The same difference relative to the largest hidden state.
        logits: Largest relative difference of the LM head's logits.
        copied: Number of other tensors found equal to the source's, element by element.
    """

    codes: int
    twins: int
    layers: int
    difference: float
    relative: float
    logits: float
    copied: int


def prove(
    source: Source,
    written: Mapping[str, LazyTensor],
    config: OrthusConfig,
    *,
    codes: int,
    dtype: torch.dtype | None,
    seed: int = 0,
) -> Iterator[Progress]:
    """Run both models and compare them; the generator returns a Proof.

    Args:
        source: The checkpoint that was converted.
        written: The converted model's tensors, from its files.
        config: The converted model's configuration.
        codes: Number of codes to sample.
        dtype: Precision that the conversion rounded to; None without rounding.
        seed: Seed of the sample.

    Raises:
        CheckpointError: When the two differ by more than rounding.
    """
    # 1. Sample codes that fp32 can distinguish, between image boundary tokens, followed by words.
    generator = torch.Generator().manual_seed(seed)
    codes = min(codes, config.max_position_embeddings // 2)
    sample = _sample_codes(written[parameter_names.VQ_CODEBOOK].read().float(), codes, generator)
    ids_S, is_code_S = _sequence(config, sample.codes_N, generator)

    # 2. The source looks codes up by token; the converted model embeds their vectors.
    before = source.stack(dtype)
    after = chameleon_layerwise.stack(config.to_dict(), written)
    old_SD, new_SD = before.embed(ids_S), after.embed(ids_S)
    if source.is_orthus:
        old_SD[is_code_S] = _embed_codes(_cast_all(source.tensors, dtype), config, sample)
    new_SD[is_code_S] = _embed_codes(written, config, sample)

    # 3. Run each through its own layers, one in memory at a time.
    for number in range(config.num_hidden_layers):
        with torch.no_grad():
            old_SD, new_SD = before.layer(number, old_SD), after.layer(number, new_SD)
        yield Progress("check", number + 1, config.num_hidden_layers, "layers")
    with torch.no_grad():
        old_SD, new_SD = before.finish(old_SD), after.finish(new_SD)
        relative = _relative(old_SD, new_SD)
        logits = _relative(before.logits(old_SD), after.logits(new_SD))

    # 4. Compare the tensors that were not part of the forward pass element by element.
    copied = 0
    for name in _bystanders(source, written):
        expected = source.tensors[name] if dtype is None else cast(source.tensors[name], dtype)
        if not torch.equal(expected.read(), written[name].read()):
            raise _failed(f"{name} was not copied as it is", source)
        copied += 1

    if not (relative <= BOUND and logits <= BOUND):
        raise _failed(
            f"hidden states differ by {relative:.1e} and logits by {logits:.1e} of their size, "
            f"and {BOUND:.0e} is allowed",
            source,
        )
    return Proof(
        codes=len(sample.codes_N),
        twins=sample.twins,
        layers=config.num_hidden_layers,
        difference=float((old_SD - new_SD).abs().max()),
        relative=relative,
        logits=logits,
        copied=copied,
    )


class Sample(NamedTuple):
    """Sampled codes, the number skipped as twins, and a temperature sharp enough for all."""

    codes_N: Tensor
    twins: int
    temperature: float


def _sample_codes(codes_KC: Tensor, count: int, generator: torch.Generator) -> Sample:
    order_K = torch.randperm(len(codes_KC), generator=generator)
    # Not all pairs: a 7B has 8192 codes, and a sample suffices.
    candidates_N = order_K[: 2 * count]
    distances_NK = torch.cdist(codes_KC[candidates_N].double(), codes_KC.double()).square()
    distances_NK.scatter_(1, candidates_N.unsqueeze(1), float("inf"))
    gaps_N = distances_NK.min(-1).values
    apart_N = gaps_N > _TWINS * codes_KC.square().sum(-1).max()
    chosen_N = candidates_N[apart_N][:count]
    nearest = float(gaps_N[apart_N][:count].min()) if len(chosen_N) else 1.0
    return Sample(chosen_N, int((~apart_N).sum()), nearest / _SHARPNESS)


def _sequence(
    config: OrthusConfig, codes_N: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Token ids [S] of bos, [BOI], codes, [EOI] and words, and which of them are codes."""
    table = torch.tensor(config.code_token_ids)
    words = torch.randint(0, config.vocab_size, (_WORDS,), generator=generator)
    words = words[~torch.isin(words, table)]
    opening = [mark for mark in (config.bos_token_id, config.boi_token_id) if isinstance(mark, int)]
    ids_S = torch.cat(
        [torch.tensor(opening), table[codes_N], torch.tensor([config.eoi_token_id]), words]
    )[: config.max_position_embeddings]
    return ids_S, torch.isin(ids_S, table)


def _embed_codes(tensors: Mapping[str, LazyTensor], config: OrthusConfig, sample: Sample) -> Tensor:
    """The soft embedding of exact codebook vectors: [N, D]."""
    features_NC = tensors[parameter_names.VQ_CODEBOOK].read()[sample.codes_N].float()
    codes_KC = tensors[parameter_names.CODEBOOK_IN].read().float()
    table_KD = tensors[parameter_names.EMBEDDINGS].read()[config.code_token_ids].float()
    return soft_embed(features_NC, codes_KC, table_KD, temperature=sample.temperature)


def _bystanders(source: Source, written: Mapping[str, LazyTensor]) -> list[str]:
    """Tensors of the source that the forward pass does not use."""
    read = (
        "model.layers.",
        parameter_names.EMBEDDINGS,
        parameter_names.FINAL_NORM,
        parameter_names.LM_HEAD,
    )
    return [name for name in written if name in source.tensors and not name.startswith(read)]


def _cast_all(
    tensors: Mapping[str, LazyTensor], dtype: torch.dtype | None
) -> Mapping[str, LazyTensor]:
    return tensors if dtype is None else {name: cast(lazy, dtype) for name, lazy in tensors.items()}


def _relative(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max())


def _failed(how: str, source: Source) -> CheckpointError:
    return CheckpointError(
        f"the converted model is not the one it was made from: {how}",
        where=str(source.path),
        hint="nothing was kept; if the source is whole, please report this fault of the converter",
    )
