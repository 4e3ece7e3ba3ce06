"""Rows of different lengths as one batch of tensors; the features of their pictures come later.

Legend: B batch, S sequence, M images, P patches an image, C feature channels, N = M P slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from orthus_core.data.encode import Encoded, TokenIds
from orthus_core.data.pictures import Picture
from orthus_core.model.config import IGNORE

# What few shapes are multiples of: lengths of lines, and their number.
LENGTHS, LINES = 64, 8


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
        pixels_MHW3: The pictures' uint8 pixels, of a batch whose features are still to be made.
    """

    ids_BS: Tensor
    attention_mask_BS: Tensor
    position_ids_BS: Tensor
    text_targets_BS: Tensor
    image_index_N: Tensor
    features_NC: Tensor | None = None
    pictures: tuple[Picture, ...] = ()
    image_targets_N: Tensor | None = None
    pixels_MHW3: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on a device."""
        # From pinned memory a copy to the card need not be waited for.
        ahead = torch.device(device).type == "cuda"
        return self._each(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a card reads directly; torch's DataLoader asks for it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: change(v) for k, v in named.items() if isinstance(v, Tensor)})


def with_features(batch: Batch, features_MPC: Tensor) -> Batch:
    """A batch with its slots filled."""
    return replace(batch, features_NC=features_MPC.flatten(0, 1), pixels_MHW3=None)


def collate(
    rows: Sequence[Encoded],
    ids: TokenIds,
    *,
    packing: bool = False,
    own_pictures: bool = False,
    few_shapes: bool = False,
) -> Batch:
    """Rows padded on the right to the longest.

    Args:
        rows: Encoded documents.
        ids: Of the model; `pad` and `image` are used.
        packing: Lay several short documents into one row, as `packed` does.
        own_pictures: Only the model's own pictures are targets; those it is shown are not.
        few_shapes: Round the length and number of lines up, for a card that is slow to begin with a
            shape it has not met.
    """
    longest = max(len(row.ids) for row in rows)
    if few_shapes:
        longest = rounded_up(longest, LENGTHS)
    lines = packed(rows, longest) if packing else [[row] for row in rows]
    if few_shapes:
        lines += [[]] * (rounded_up(len(lines), LINES) - len(lines))
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
        pictures=pictures,
        image_targets_N=image_targets_N,
    )


def rounded_up(count: int, many: int) -> int:
    """The next multiple."""
    return -(-count // many) * many


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


def with_codes(batch: Batch, codes_MP: Tensor, code_token_ids: Sequence[int]) -> Batch:
    """A batch without features for a discrete Chameleon: code tokens stand in the slots, and each
    is a target one position before. What it was laid out with is not changed.

    Args:
        batch: Of rows with slots.
        codes_MP: The pictures' codes.
        code_token_ids: Token id of each code.
    """
    tokens_N = torch.tensor(code_token_ids)[codes_MP.cpu().flatten()]
    ids_BS, text_targets_BS = batch.ids_BS.clone(), batch.text_targets_BS.clone()
    ids_BS.view(-1)[batch.image_index_N + 1] = tokens_N
    text_targets_BS.view(-1)[batch.image_index_N] = tokens_N
    return replace(
        batch,
        ids_BS=ids_BS,
        text_targets_BS=text_targets_BS,
        image_index_N=batch.image_index_N[:0],
        pictures=(),
        pixels_MHW3=None,
    )
