"""The attention mask of packed rows: several documents in one row, none of which sees another.

A packed row holds at each position the number of its document, counted from 1; 0 is padding. With
one document in a row, this is the usual mask of ones.

Legend: B batch, S sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    index_BS = torch.arange(documents_BS.shape[1], device=documents_BS.device).expand_as(
        documents_BS
    )
    starts_BS = torch.ones_like(documents_BS, dtype=torch.bool)
    starts_BS[:, 1:] = documents_BS[:, 1:] != documents_BS[:, :-1]
    position_ids_BS = index_BS - torch.where(starts_BS, index_BS, 0).cummax(1).values
    if documents_BS.max() <= 1:
        if documents_BS.is_cuda if flash is None else flash:
            # Positions that began anew at the padding would count as those of another document.
            return PackedMask(None, index_BS)
        return PackedMask(documents_BS, position_ids_BS)
    # Padding counts as one more document, so each of its positions attends at least to itself: a
    # softmax over nothing would be NaN.
    same_BSS = documents_BS[:, :, None] == documents_BS[:, None, :]
    past_SS = index_BS[0][:, None] >= index_BS[0][None, :]
    mask_BSS = torch.zeros(same_BSS.shape, dtype=dtype, device=documents_BS.device)
    return PackedMask(
        mask_BSS.masked_fill(~(same_BSS & past_SS), float("-inf"))[:, None], position_ids_BS
    )
