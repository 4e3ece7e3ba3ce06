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
        attention_mask_BS: 1 where a row is, 0 behind its end; in packed rows the number of the
            document, from 1.
        position_ids_BS: 0, 1, 2 ... along each document.
        text_targets_BS: The next token where one is to be predicted, -100 elsewhere.
        image_index_N: For each slot in reading order, the flat position (row * S + column) of the
            hidden state that predicts it: the one before.
        features_NC: What fills the slots, in the same order; None without pictures.
        pictures: Where they came from, M of them.
        image_targets_N: Whether the patch of each slot is to be predicted; None for all of them.
    """

    ids_BS: Tensor
    attention_mask_BS: Tensor
    position_ids_BS: Tensor
    text_targets_BS: Tensor
    image_index_N: Tensor
    features_NC: Tensor | None = None
    pictures: tuple[Picture, ...] = ()
    image_targets_N: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on a device."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in named.items() if isinstance(v, Tensor)})


def collate(
    rows: Sequence[Encoded],
    ids: TokenIds,
    features_of: FeatureSource | None = None,
    *,
    packing: bool = False,
    own_pictures: bool = False,
) -> Batch:
    """Rows padded on the right to the longest.

    Args:
        rows: Encoded documents.
        ids: Of the model; `pad` and `image` are used.
        features_of: Gives features of the rows' pictures. None leaves `features_NC` out.
        packing: Lay several short documents into one row, as `packed` does.
        own_pictures: Only the model's own pictures are targets; those it is shown are not.
    """
    longest = max(len(row.ids) for row in rows)
    lines = packed(rows, longest) if packing else [[row] for row in rows]
    ids_BS = torch.full((len(lines), longest), ids.pad)
    text_targets_BS = torch.full((len(lines), longest), IGNORE)
    attention_mask_BS = torch.zeros(len(lines), longest, dtype=torch.long)
    position_ids_BS = torch.arange(longest).repeat(len(lines), 1)
    for line, line_rows in enumerate(lines):
        start = 0
        for number, row in enumerate(line_rows, start=1):
            place = line, slice(start, start + len(row.ids))
            ids_BS[place] = torch.tensor(row.ids)
            text_targets_BS[place] = torch.tensor(row.text_targets)
            attention_mask_BS[place] = number
            position_ids_BS[place] = torch.arange(len(row.ids))
            start += len(row.ids)

    pictures = tuple(picture for line in lines for row in line for picture in row.pictures)
    features_NC = None
    if pictures and features_of is not None:
        features_NC = features_of(pictures).flatten(0, 1)
    slots_N = (ids_BS.flatten() == ids.image).nonzero().flatten()
    image_targets_N = None
    if own_pictures and pictures:
        drawn_M = torch.tensor([drawn for line in lines for row in line for drawn in row.drawn])
        image_targets_N = drawn_M.repeat_interleave(len(slots_N) // len(pictures))
    return Batch(
        ids_BS=ids_BS,
        attention_mask_BS=attention_mask_BS,
        position_ids_BS=position_ids_BS,
        text_targets_BS=text_targets_BS,
        # A slot is never first in a document: [BOI] or another slot stands before it.
        image_index_N=slots_N - 1,
        features_NC=features_NC,
        pictures=pictures,
        image_targets_N=image_targets_N,
    )


def packed(rows: Sequence[Encoded], length: int) -> list[list[Encoded]]:
    """The rows laid into lines of at most `length` positions: longest first, each into the first
    line with room, which never needs more than about 11/9 of the fewest lines (Johnson 1973).

    Lines as long as the longest document cost no more attention than padding it away did, and
    leave the fewest empty places.
    """
    lines: list[list[Encoded]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        fits = next((line for line, free in enumerate(room) if free >= len(row.ids)), None)
        if fits is None:
            fits = len(lines)
            lines.append([])
            room.append(length)
        lines[fits].append(row)
        room[fits] -= len(row.ids)
    return lines


def collate_discrete(
    rows: Sequence[Encoded],
    ids: TokenIds,
    codes_of: FeatureSource,
    code_token_ids: Sequence[int],
    *,
    packing: bool = False,
) -> Batch:
    """The same rows for a discrete Chameleon: code tokens stand in the slots and are targets.

    Args:
        rows: Encoded documents, with slots.
        ids: Of the model.
        codes_of: Pictures to their codes, [M, P].
        code_token_ids: Token id of each code.
        packing: As for `collate`.
    """
    pictures = [picture for row in rows for picture in row.pictures]
    codes = iter(codes_of(pictures).tolist() if pictures else [])
    filled = [
        with_codes(row, [next(codes) for _ in row.pictures], ids, code_token_ids) for row in rows
    ]
    return collate(filled, ids, packing=packing)
