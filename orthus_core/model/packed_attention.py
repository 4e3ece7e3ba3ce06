"""Attention of packed rows: several documents in one row, none of which sees another. It does
without a mask over all pairs of positions where the device has a way around it.

    varlen  a GPU in bf16 or fp16     torch's flash kernel, told where the documents begin
    flex    a GPU otherwise           flex attention, which leaves out blocks between documents
    loop    a CPU, if that is faster  one causal attention for each document
    dense   all else                  one attention with a mask [B, 1, S, S]

Decoder layers are transformers' own: they call the function that is registered here under
`PACKED_ATTENTION`, and hand it the documents of the batch. Without these it is torch's `sdpa`.

A packed row holds at each position the number of its document, counted from 1; 0 is padding. With
one document in a row, this is the usual mask of ones.

Legend: B batch, S sequence, H heads, D channels of a head, N documents, X = B S positions, Q blocks
    of a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from orthus_core.device import has_amx, moved
from orthus_core.model.config import PACKED_ATTENTION

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Way = Literal["varlen", "flex", "loop", "dense"]

# What a call for one document costs on a CPU beside its arithmetic, in pairs of positions, and how
# much more a pair costs in it: measured on one core with 8 heads of 32, forward and backward.
CALL_PAIRS, PAIR_COST = 4000, 2
BLOCK = 128
"""Side of the blocks that flex attention computes or leaves out, in positions."""


class PackedMask(NamedTuple):
    """The mask and the positions of a batch.

    Attributes:
        mask: [B, S] for one document in each row, or None where attention is causal by itself; for
            packed rows [B, 1, S, S], added to the attention scores: 0 where a position may attend,
            -inf elsewhere.
        position_ids_BS: Positions that count 0, 1, 2 ... in every document.
    """

    mask: Tensor | None
    position_ids_BS: Tensor


def packed_mask(
    documents_BS: Tensor, dtype: torch.dtype, *, flash: bool | None = None
) -> PackedMask:
    """The mask and the positions for rows of these documents.

    Args:
        documents_BS: Number of the document at each position, from 1, in runs; 0 is padding, after
            the documents.
        dtype: Precision of the attention scores, to which a packed mask is added.
        flash: Whether rows of one document go without a mask, by default on a GPU: padding comes
            after all that is predicted, so causal attention never sees it, and only without a mask
            does torch use flash attention.
    """
    position_ids_BS = document_positions(documents_BS)
    if documents_BS.max() <= 1:
        if documents_BS.is_cuda if flash is None else flash:
            # Positions that began anew at the padding would count as those of another document.
            length = documents_BS.shape[1]
            index_BS = torch.arange(length, device=documents_BS.device).expand_as(documents_BS)
            return PackedMask(None, index_BS)
        return PackedMask(documents_BS, position_ids_BS)
    return PackedMask(dense_mask(documents_BS, dtype), position_ids_BS)


def document_starts(documents_BS: Tensor) -> Tensor:
    """Whether a document begins at each position; each row's padding counts as one more document,
    so each of its positions attends at least to itself: a softmax over nothing would be NaN.
    """
    starts_BS = torch.ones_like(documents_BS, dtype=torch.bool)
    starts_BS[:, 1:] = documents_BS[:, 1:] != documents_BS[:, :-1]
    return starts_BS


def document_positions(documents_BS: Tensor) -> Tensor:
    """Positions that count 0, 1, 2 ... in every document, and in each row's padding: [B, S]."""
    index_S = torch.arange(documents_BS.shape[1], device=documents_BS.device)
    return index_S - torch.where(document_starts(documents_BS), index_S, 0).cummax(1).values


def dense_mask(documents_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask that is added to the scores: 0 where a position may attend, -inf elsewhere:
    [B, 1, S, S].
    """
    same_BSS = documents_BS[:, :, None] == documents_BS[:, None, :]
    index_S = torch.arange(documents_BS.shape[1], device=documents_BS.device)
    past_SS = index_S[:, None] >= index_S[None, :]
    mask_BSS = torch.zeros(same_BSS.shape, dtype=dtype, device=documents_BS.device)
    return mask_BSS.masked_fill(~(same_BSS & past_SS), float("-inf"))[:, None]


class Documents:
    """Where the documents of a packed batch begin; made once a batch, read by each layer. What a
    way needs beyond that is made by the first layer that asks.

    A plain class: FSDP and DDP rebuild tuples and data classes on their way to a layer, and each
    layer would make its own masks.

    Args:
        numbers_BS: Number of the document at each position, from 1, in runs; 0 is padding, after
            the documents. Each row's padding counts as one more document.
        way: How to attend; by default `way_to_attend` decides.

    Attributes:
        lengths: Positions of each document, row after row.
        starts_M: Where each document begins in the X positions, and X: int32 [N + 1].
    """

    def __init__(self, numbers_BS: Tensor, way: Way | None = None) -> None:
        self.numbers_BS, self.way = numbers_BS, way
        # On the CPU, so that the GPU is waited for once.
        starts_N = document_starts(numbers_BS.cpu()).flatten().nonzero().flatten()
        starts_M = F.pad(starts_N, (0, 1), value=numbers_BS.numel())
        self.lengths: list[int] = starts_M.diff().tolist()
        self.starts_M = moved(starts_M.int(), numbers_BS.device)
        self._masks: dict[object, Any] = {}

    @property
    def loop_is_faster(self) -> bool:
        """Whether one attention for each document takes less time on a CPU than one with a mask."""
        rows, length = self.numbers_BS.shape
        own_pairs = sum(own**2 for own in self.lengths)
        return PAIR_COST * own_pairs + CALL_PAIRS * len(self.lengths) < rows * length**2

    def dense_mask(self, dtype: torch.dtype) -> Tensor:
        """The mask that is added to the scores: [B, 1, S, S]."""
        if dtype not in self._masks:
            self._masks[dtype] = dense_mask(self.numbers_BS, dtype)
        return self._masks[dtype]

    def block_mask(self) -> BlockMask:
        """Blocks of BLOCK x BLOCK positions: which are computed, and which of them in full."""
        if BLOCK not in self._masks:
            self._masks[BLOCK] = _block_mask(document_starts(self.numbers_BS).cumsum(1))
        return self._masks[BLOCK]


def _block_mask(runs_BS: Tensor) -> BlockMask:
    # torch's create_block_mask looks at every pair of positions. Runs only grow along a row, so the
    # first and the last run of a block say as much.
    from torch.nn.attention.flex_attention import BlockMask

    rows, length = runs_BS.shape
    blocks = -(-length // BLOCK)
    # Beyond the end lies a run of its own: the last block is never computed in full.
    runs_BQK = F.pad(runs_BS, (0, blocks * BLOCK - length), value=length + 1)
    runs_BQK = runs_BQK.view(rows, blocks, BLOCK)
    first_BQ, last_BQ = runs_BQK[..., 0], runs_BQK[..., -1]
    index_Q = torch.arange(blocks, device=runs_BS.device)
    past_QQ = index_Q[:, None] > index_Q[None, :]
    full_BQQ = past_QQ & (first_BQ[:, None, :] == last_BQ[:, :, None])
    seen_BQQ = past_QQ & (last_BQ[:, None, :] == first_BQ[:, :, None]) & ~full_BQQ
    part_BQQ = seen_BQQ | torch.eye(blocks, dtype=torch.bool, device=runs_BS.device)

    def may_attend(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (runs_BS[row, query] == runs_BS[row, key])

    def listed(chosen_BQQ: Tensor) -> tuple[Tensor, Tensor]:
        """How many blocks of each row of blocks are chosen, and a list that begins with them."""
        chosen_B1QQ = chosen_BQQ[:, None].int()
        order_B1QQ = chosen_B1QQ.argsort(dim=-1, descending=True, stable=True)
        return chosen_B1QQ.sum(-1).int(), order_B1QQ.int()

    return BlockMask.from_kv_blocks(
        *listed(part_BQQ),
        *listed(full_BQQ),
        BLOCK_SIZE=BLOCK,
        mask_mod=may_attend,
        seq_lengths=(length, length),
    )


def use_packed_attention(model: nn.Module) -> None:
    """Have a model of transformers that attends by torch's `sdpa` do so by document where it is
    given documents; another one stays as it is.
    """
    config = getattr(model, "config", None)
    if getattr(config, "_attn_implementation", None) == "sdpa":
        # Of the transformer alone: its config also describes the autoencoder, which need not be a
        # part of it, and attends in its own way.
        model.set_attn_implementation({"": PACKED_ATTENTION})  # type: ignore[operator]


def document_inputs(
    model: nn.Module, numbers_BS: Tensor, dtype: torch.dtype, *, way: Way | None = None
) -> dict[str, Any]:
    """What the forward of a model needs to know of rows of these documents, by its arguments'
    names.

    Args:
        model: Model of transformers; without `use_packed_attention` it is given a dense mask.
        numbers_BS: Number of the document at each position, as for `packed_mask`.
        dtype: Precision of the attention scores.
        way: How to attend, in place of `way_to_attend`'s decision.
    """
    config = getattr(model, "config", None)
    by_document = getattr(config, "_attn_implementation", None) == PACKED_ATTENTION
    if not by_document or numbers_BS.max() <= 1:
        mask, position_ids_BS = packed_mask(numbers_BS, dtype)
        return {"attention_mask": mask, "position_ids": position_ids_BS}
    return {
        # transformers would make a dense mask from the positions where there is none; one of four
        # dimensions it hands on. An attention that knows no documents fails on this one.
        "attention_mask": numbers_BS.new_empty(1, 1, 0, 0),
        "position_ids": document_positions(numbers_BS),
        "documents": Documents(numbers_BS, way),
    }


def way_to_attend(documents: Documents, query_BHSD: Tensor, dropout: float) -> Way:
    """How the layers attend to packed rows: the one place that decides.

    On a GPU a mask rules flash kernels out and takes 64 MB a row in fp32 at 4,096 positions. The
    variable-length kernel needs neither mask nor compilation, but takes 16-bit numbers only, from
    torch 2.10 on. Flex attention takes fp32 as well; Triton compiles it at its first call. Both
    need compute capability 8.0, and neither has dropout. On a CPU, one call for each document was
    1.3 to 1.5 times faster, forward and backward, for rows of a few hundred positions that hold
    three or more documents, and slower for short rows, whose calls cost more than their arithmetic.
    MPS has none of these.
    """
    device, channels = query_BHSD.device, query_BHSD.shape[-1]
    if device.type == "cuda" and not dropout:
        if has_varlen(device) and precision(query_BHSD).itemsize == 2 and channels % 8 == 0:
            return "varlen"
        if has_flex(device) and channels >= 16:
            return "flex"
    if device.type == "cpu" and documents.loop_is_faster:
        return "loop"
    return "dense"


@cache
def has_varlen(device: torch.device) -> bool:
    """Whether torch's variable-length attention runs on a GPU."""
    return (
        find_spec("torch.nn.attention.varlen") is not None
        and torch.version.hip is None
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


@cache
def has_flex(device: torch.device) -> bool:
    """Whether flex attention compiles for a GPU; without compilation it computes all pairs."""
    from torch.nn.attention.flex_attention import BlockMask

    return (
        find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and "seq_lengths" in inspect.signature(BlockMask.from_kv_blocks).parameters
    )


def precision(query_BHSD: Tensor) -> torch.dtype:
    """Precision in which attention is computed: autocast's, where that is on. Queries are then
    still in fp32, as their norm is, and only torch's own functions are cast by autocast. On a CPU
    without AMX they stay so: the backward pass took 3.7 times as long in bf16.
    """
    kind = query_BHSD.device.type
    if kind == "cpu" and not has_amx():
        return query_BHSD.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query_BHSD.dtype


def attend(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Documents | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' layers call it; by document where documents are given.

    Returns: [B, S, H, D], and no weights.
    """
    tensors = query_BHSD, key_BHSD, value_BHSD
    if documents is None:
        return sdpa_attention_forward(
            module, *tensors, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    rows, heads, length, _ = query_BHSD.shape
    assert documents.numbers_BS.shape == (rows, length), "documents are those of these rows"
    dtype = precision(query_BHSD)
    way = documents.way or way_to_attend(documents, query_BHSD, dropout)
    cast = query_BHSD.to(dtype), key_BHSD.to(dtype), value_BHSD.to(dtype)
    with torch.autocast(query_BHSD.device.type, enabled=False):  # they have their precision
        if way == "dense":
            mask = documents.dense_mask(dtype)
            return sdpa_attention_forward(module, *cast, mask, dropout=dropout, scaling=scaling)
        if way == "flex":
            return _flex(module, cast, documents, scaling)
        flat = [repeat_kv(x, heads // x.shape[1]).transpose(1, 2).flatten(0, 1) for x in cast]
        if way == "varlen":
            out_XHD = _varlen(flat, documents, scaling)
        else:
            out_XHD = _loop(flat, documents, dropout, scaling)
    return out_XHD.unflatten(0, (rows, length)), None


def _varlen(flat: list[Tensor], documents: Documents, scale: float | None) -> Tensor:
    """From queries, keys and values, each [X, H, D]."""
    from torch.nn.attention.varlen import varlen_attn

    starts_M, longest = documents.starts_M.to(flat[0].device), max(documents.lengths)
    # torch 2.10 has a flag in place of the window, and its scale is always D ** -0.5, as ours is.
    windows = "window_size" in inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = (
        {"window_size": (-1, 0), "scale": scale} if windows else {"is_causal": True}
    )
    attention: Callable[..., Tensor] = varlen_attn  # type: ignore[assignment]  # no return_aux
    return attention(*flat, starts_M, starts_M, longest, longest, **causal)


def _flex(
    module: nn.Module,
    tensors: tuple[Tensor, Tensor, Tensor],
    documents: Documents,
    scale: float | None,
) -> tuple[Tensor, None]:
    from transformers.integrations.flex_attention import flex_attention_forward

    query_BHSD, key_BHSD, value_BHSD = tensors
    out_BSHD, _ = flex_attention_forward(
        module, query_BHSD, key_BHSD, value_BHSD, documents.block_mask(), scaling=scale
    )
    return out_BSHD, None


def _loop(flat: list[Tensor], documents: Documents, dropout: float, scale: float | None) -> Tensor:
    """From queries, keys and values, each [X, H, D]."""
    by_document = (tensor.transpose(0, 1).split(documents.lengths, 1) for tensor in flat)
    attention: Callable[..., Tensor] = F.scaled_dot_product_attention
    found_HTD = [
        attention(*(part[None] for part in parts), None, dropout, True, scale=scale)[0]
        for parts in zip(*by_document, strict=True)
    ]
    return torch.cat(found_HTD, 1).transpose(0, 1)


AttentionInterface.register(PACKED_ATTENTION, attend)
# The mask of rows that are not packed is that of `sdpa`.
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
