"""Rows of different lengths as one batch of tensors, with the features of their pictures.

Legend: B batch, S sequence, M images, P patches an image, C feature channels, N = M P slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from orthus_core.data.encode import IGNORE, Encoded, TokenIds, with_codes
from orthus_core.data.pictures import Picture

FeatureSource = Callable[[Sequence[Picture]], Tensor]
"""Pictures to what stands for them, [M, P, C]: a `FeatureCache` is one."""


@dataclass(frozen=True)
class Batch:
    """A batch as the losses read it.

    Attributes:
        ids_BS: Token ids, `<image>` in each patch's slot.
        attention_mask_BS: 1 where a row is, 0 behind its end.
        position_ids_BS: 0, 1, 2 ... along a row.
        text_targets_BS: The next token where one is to be predicted, -100 elsewhere.
        image_index_N: For each slot in reading order, the flat position (row * S + column) of the
            hidden state that predicts it: the one before.
        features_NC: What fills the slots, in the same order; None without pictures.
        pictures: Where they came from, M of them.
    """

    ids_BS: Tensor
    attention_mask_BS: Tensor
    position_ids_BS: Tensor
    text_targets_BS: Tensor
    image_index_N: Tensor
    features_NC: Tensor | None = None
    pictures: tuple[Picture, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on a device."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in named.items() if isinstance(v, Tensor)})


def collate(
    rows: Sequence[Encoded], ids: TokenIds, features_of: FeatureSource | None = None
) -> Batch:
    """Rows padded on the right to the longest.

    Args:
        rows: Encoded documents.
        ids: Of the model; `pad` and `image` are used.
        features_of: Gives features of the rows' pictures. None leaves `features_NC` out.
    """
    longest = max(len(row.ids) for row in rows)
    ids_BS = torch.full((len(rows), longest), ids.pad)
    text_targets_BS = torch.full((len(rows), longest), IGNORE)
    attention_mask_BS = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids_BS[number, :length] = torch.tensor(row.ids)
        text_targets_BS[number, :length] = torch.tensor(row.text_targets)
        attention_mask_BS[number, :length] = 1

    pictures = tuple(picture for row in rows for picture in row.pictures)
    features_NC = None
    if pictures and features_of is not None:
        features_NC = features_of(pictures).flatten(0, 1)
    return Batch(
        ids_BS=ids_BS,
        attention_mask_BS=attention_mask_BS,
        position_ids_BS=torch.arange(longest).expand(len(rows), -1),
        text_targets_BS=text_targets_BS,
        # A slot is never first in a row: [BOI] or another slot stands before it.
        image_index_N=(ids_BS.flatten() == ids.image).nonzero().flatten() - 1,
        features_NC=features_NC,
        pictures=pictures,
    )


def collate_discrete(
    rows: Sequence[Encoded],
    ids: TokenIds,
    codes_of: FeatureSource,
    code_token_ids: Sequence[int],
) -> Batch:
    """The same rows for a discrete Chameleon: code tokens stand in the slots and are targets.

    Args:
        rows: Encoded documents, with slots.
        ids: Of the model.
        codes_of: Pictures to their codes, [M, P].
        code_token_ids: Token id of each code.
    """
    pictures = [picture for row in rows for picture in row.pictures]
    codes = iter(codes_of(pictures).tolist() if pictures else [])
    filled = [
        with_codes(row, [next(codes) for _ in row.pictures], ids, code_token_ids) for row in rows
    ]
    return collate(filled, ids)
