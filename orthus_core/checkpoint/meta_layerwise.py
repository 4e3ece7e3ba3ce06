"""Run a Chameleon in Meta's own arithmetic, from Meta's own files. A conversion of these files must
reproduce its results.

The rotary embedding rotates neighbouring channels (2i, 2i+1), each file computes its own heads
with its own norms, and the results are summed, as in facebookresearch/chameleon,
chameleon/inference/transformer.py. It shares no code with the renaming and reordering in
`chameleon_meta.py`, so agreement with the converted model verifies both.

Legend: S sequence, D hidden, V vocabulary, H heads of one file, E channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.checkpoint.lazy import LazyTensor, cast
from orthus_core.checkpoint.meta_files import Params
from orthus_core.checkpoint.source import LayerwiseModel, project

Read = Callable[[str], Tensor]


def stack(
    shards: Sequence[dict[str, LazyTensor]], params: Params, dtype: torch.dtype | None
) -> LayerwiseModel:
    """The source run as Meta runs it, in fp32, one layer in memory at a time.

    Args:
        shards: The tensors of each file, by Meta's names.
        params: The numbers of params.json.
        dtype: Precision that the weights are rounded to first; None leaves them as they are.
    """

    def read_tensor(shard: dict[str, LazyTensor], name: str) -> Tensor:
        lazy = shard[name]
        return (lazy if dtype is None else cast(lazy, dtype)).read()

    def weight(shard: dict[str, LazyTensor], name: str) -> Tensor:
        return read_tensor(shard, name).float()

    def copies(name: str) -> Tensor:
        return torch.stack([weight(shard, name) for shard in shards]).mean(0)

    def embed(ids_S: Tensor) -> Tensor:
        parts = [read_tensor(shard, "tok_embeddings.weight")[ids_S] for shard in shards]
        return torch.cat(parts, -1).float()

    def finish(hidden_SD: Tensor) -> Tensor:
        return rms_norm(hidden_SD, copies("norm.weight"), params.norm_eps)

    def logits(hidden_SD: Tensor) -> Tensor:
        return torch.cat([project(hidden_SD, read_tensor(s, "output.weight")) for s in shards], -1)

    def layer(number: int, hidden_SD: Tensor) -> Tensor:
        at = f"layers.{number}."

        def attention(x_SD: Tensor) -> Tensor:
            shares = [
                _attention(x_SD, part(shard, "attention"), params, len(shards)) for shard in shards
            ]
            return torch.stack(shares).sum(0)

        def feed_forward(x_SD: Tensor) -> Tensor:
            shares = [_feed_forward(x_SD, part(shard, "feed_forward")) for shard in shards]
            return torch.stack(shares).sum(0)

        def part(shard: dict[str, LazyTensor], block: str) -> Read:
            return lambda name: weight(shard, f"{at}{block}.{name}")

        first, second = copies(at + "attention_norm.weight"), copies(at + "ffn_norm.weight")
        eps = params.norm_eps
        if params.swin_norm:
            hidden_SD = hidden_SD + rms_norm(attention(hidden_SD), first, eps)
            return hidden_SD + rms_norm(feed_forward(hidden_SD), second, eps)
        hidden_SD = hidden_SD + attention(rms_norm(hidden_SD, first, eps))
        return hidden_SD + feed_forward(rms_norm(hidden_SD, second, eps))

    return LayerwiseModel(embed, layer, finish, logits)


def _feed_forward(x_SD: Tensor, read: Read) -> Tensor:
    """One file's channels of the gated feed-forward: its contribution to the sum [S, D]."""
    gate, up = x_SD @ read("w1.weight").T, x_SD @ read("w3.weight").T
    return (F.silu(gate) * up) @ read("w2.weight").T


def _attention(x_SD: Tensor, read: Read, params: Params, shards: int) -> Tensor:
    """One file's heads over a sequence: their contribution to the sum [S, D]."""

    def project(part: str, heads: int) -> Tensor:
        return (x_SD @ read(f"w{part}.weight").T).unflatten(-1, (heads, -1)).transpose(0, 1)

    def turned(part: str, x_HSE: Tensor) -> Tensor:
        norm, bias = read(f"{part}_normalization.weight"), read(f"{part}_normalization.bias")
        return rotate_neighbours(F.layer_norm(x_HSE, norm.shape, norm, bias), params.rope_theta)

    heads, kv_heads = params.heads // shards, params.kv_heads // shards
    queries_HSE = turned("q", project("q", heads))
    keys_HSE = turned("k", project("k", kv_heads)).repeat_interleave(heads // kv_heads, 0)
    values_HSE = project("v", kv_heads).repeat_interleave(heads // kv_heads, 0)
    mixed_HSE = F.scaled_dot_product_attention(queries_HSE, keys_HSE, values_HSE, is_causal=True)
    return mixed_HSE.transpose(0, 1).flatten(1) @ read("wo.weight").T


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide x by its root mean square and multiply by a weight (1910.07467)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotate_neighbours(x_HSE: Tensor, theta: float) -> Tensor:
    """Rotary embedding of positions 0..S-1 on neighbouring channels, as in its paper (2104.09864,
    eq. 15).
    """
    length, size = x_HSE.shape[-2:]
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    even, odd = x_HSE[..., 0::2], x_HSE[..., 1::2]
    turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(turned, -1).flatten(-2)
