"""Collates rows of different lengths into a batch; the features of their pictures are added later.

Legend: B batch, S sequence, M images, P patches per image, C feature channels, N = M P slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from orthus_core.data.encode import EncodedRow, TokenIds
from orthus_core.data.order import hash_of
from orthus_core.data.pictures import Picture
from orthus_core.model.config import IGNORE

if TYPE_CHECKING:
    from orthus_core.data.latent_cache import Lookup

# With `few_shapes`, the length of lines and their number are multiples of these.
LENGTHS, LINES = 64, 8


@dataclass(frozen=True)
class Batch:
    """A batch, as the losses expect it.

    Attributes:
        ids_BS: Token ids, with `<image>` in the slot of each patch.
        attention_mask_BS: 1 in a row, 0 after its end; in packed rows, the number of the document
            from 1.
        position_ids_BS: Positions 0, 1, 2 ... in each document.
        text_targets_BS: Next token where one is to be predicted, -100 elsewhere.
        image_index_N: For each slot in reading order, the flat index (row * S + column) of the
            hidden state that predicts it, which is the one before the slot.
        features_NC: Features for the slots, in the same order; None without pictures.
        pictures: The M pictures that the features belong to; () where another process made the
            batch, which sends their keys alone.
        sent_keys: These keys.
        image_targets_N: Whether the patch of each slot is to be predicted; None for all of them.
        pixels_MHW3: uint8 pixels of the pictures whose features are yet to be computed.
        lookup: What is stored of the pictures, if a process without an encoder made the batch.
        noise_seeds_M: Seed of what a training draws for each picture, by its row and its place in
            the row alone; None when a row has no seed.
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
    lookup: Lookup | None = None
    noise_seeds_M: Tensor | None = None
    sent_keys: tuple[str, ...] = ()

    @property
    def picture_keys(self) -> tuple[str, ...]:
        """The keys of the M pictures."""
        return self.sent_keys or tuple(picture.key for picture in self.pictures)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on a device."""
        # A copy from pinned memory to a GPU is asynchronous.
        ahead = torch.device(device).type == "cuda"
        return self._each(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory; torch's DataLoader calls this method."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: change(v) for k, v in named.items() if isinstance(v, Tensor)})


def with_features(batch: Batch, features_MPC: Tensor) -> Batch:
    """The batch with features for its slots."""
    features_NC = features_MPC.flatten(0, 1)
    return replace(batch, features_NC=features_NC, pixels_MHW3=None, lookup=None)


def collate(
    rows: Sequence[EncodedRow],
    ids: TokenIds,
    *,
    packing: bool = False,
    own_pictures: bool = False,
    words: bool = True,
    few_shapes: bool = False,
) -> Batch:
    """A batch of rows, padded on the right to the length of the longest.

    Args:
        rows: Encoded documents.
        ids: Token ids of the model; `pad` and `image` are used.
        packing: Whether to put several short documents into one line, as `pack_rows` does.
        own_pictures: Whether pictures are targets only in the model's turn, not in the user's.
        words: Whether text tokens are targets.
        few_shapes: Whether to round up the length and the number of lines, for devices that are
            slow with new shapes.
    """
    longest = max(len(row.ids) for row in rows)
    if few_shapes:
        longest = round_up(longest, LENGTHS)
    lines = pack_rows(rows, longest) if packing else [[row] for row in rows]
    if few_shapes:
        lines += [[]] * (round_up(len(lines), LINES) - len(lines))
    ids_BS = torch.full((len(lines), longest), ids.pad)
    text_targets_BS = torch.full((len(lines), longest), IGNORE)
    attention_mask_BS = torch.zeros(len(lines), longest, dtype=torch.long)
    position_ids_BS = torch.arange(longest).repeat(len(lines), 1)
    for line, line_rows in enumerate(lines):
        start = 0
        for number, row in enumerate(line_rows, start=1):
            place = line, slice(start, start + len(row.ids))
            ids_BS[place] = torch.tensor(row.ids)
            if words:
                text_targets_BS[place] = torch.tensor(row.text_targets)
            attention_mask_BS[place] = number
            position_ids_BS[place] = torch.arange(len(row.ids))
            start += len(row.ids)

    pictures = tuple(picture for line in lines for row in line for picture in row.pictures)
    seeds = [
        row.noise_seed if row.noise_seed is None else noise_seed(row.noise_seed, place)
        for line in lines
        for row in line
        for place in range(len(row.pictures))
    ]
    slots_N = (ids_BS.flatten() == ids.image).nonzero().flatten()
    image_targets_N = None
    if own_pictures and pictures:
        drawn_M = torch.tensor(
            [drawn for line in lines for row in line for drawn in row.from_model]
        )
        image_targets_N = drawn_M.repeat_interleave(len(slots_N) // len(pictures))
    return Batch(
        ids_BS=ids_BS,
        attention_mask_BS=attention_mask_BS,
        position_ids_BS=position_ids_BS,
        text_targets_BS=text_targets_BS,
        # A slot is never first in a document: [BOI] or another slot comes before it.
        image_index_N=slots_N - 1,
        pictures=pictures,
        image_targets_N=image_targets_N,
        noise_seeds_M=None if None in seeds else torch.tensor(seeds, dtype=torch.long),
    )


def noise_seed(seed: int, place: int) -> int:
    """Seed of the row at a place of a training, or of the picture at a place of a row: 63 bits."""
    return hash_of(seed, place) >> 1


def round_up(count: int, many: int) -> int:
    """The smallest multiple of `many` that is at least `count`."""
    return -(-count // many) * many


def pack_rows(rows: Sequence[EncodedRow], length: int) -> list[list[EncodedRow]]:
    """Packs rows into lines of at most `length` positions by first-fit decreasing: the longest rows
    first, each into the first line with room. The number of lines is at most about 11/9 of the
    minimum (Johnson 1973).

    Lines as long as the longest document cost no more attention than padded rows, and leave the
    fewest positions empty.
    """
    lines: list[list[EncodedRow]] = []
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


def with_codes(
    batch: Batch,
    codes_MP: Tensor,
    code_token_ids: Sequence[int],
    *,
    targets: bool = True,
) -> Batch:
    """A batch without features for a discrete Chameleon: each slot contains a code token, which is
    also the target of the position before it. The given batch is not changed.

    Args:
        batch: Batch of rows with slots.
        codes_MP: Codes of the pictures.
        code_token_ids: Token id of each code.
        targets: Whether codes are targets, of the pictures that the batch says are.
    """
    tokens_N = torch.tensor(code_token_ids)[codes_MP.cpu().flatten()]
    ids_BS, text_targets_BS = batch.ids_BS.clone(), batch.text_targets_BS.clone()
    ids_BS.view(-1)[batch.image_index_N + 1] = tokens_N
    if targets:
        wanted_N = batch.image_targets_N
        targets_N = tokens_N if wanted_N is None else tokens_N.where(wanted_N, IGNORE)
        text_targets_BS.view(-1)[batch.image_index_N] = targets_N
    return replace(
        batch,
        ids_BS=ids_BS,
        text_targets_BS=text_targets_BS,
        image_index_N=batch.image_index_N[:0],
        image_targets_N=None,
        pictures=(),
        pixels_MHW3=None,
        lookup=None,
        noise_seeds_M=None,
    )
