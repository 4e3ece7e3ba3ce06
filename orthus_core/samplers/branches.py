"""The guidance branches of all sequences in a batch: which rows of the batch belong to which
sequence.

Every branch occupies one slot: one row of the batch and of the KV cache. The branches of a sequence
occupy neighbouring slots, and the sequence's own branch comes first. Branches have different
lengths, and a branch that reads nothing in a pass keeps its length. When an image begins, the
negative branches forget everything after their prompts (`reset_negatives`).

Legend: N sequences, R branches of all of them, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from orthus_core.device import moved
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.prompt import Branch, room_for_image

# Positions reserved in advance when the length of a text is unknown.
ROOM_AHEAD = 256


class Branches:
    """The branches of some sequences, and their newest hidden states; none at first.

    Args:
        backbone: Reads the branches.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._slot_numbers: dict[int, list[int]] = {}
        self._lengths: list[int] = []
        self._anew: list[int | None] = []
        self._longest: list[int] = []

    def add(self, rows: Mapping[int, Sequence[Branch]]) -> None:
        """Reads the branches of sequences that join.

        Args:
            rows: Branches of each sequence, by the sequence's number, its own first.
        """
        branches = [branch for row in rows.values() for branch in row]
        if not branches:
            return
        lengths = [*self._lengths, *(len(branch.ids) for branch in branches)]
        longest = [*self._longest, *(branch.longest for branch in branches)]
        ahead = max(lengths) + room_for_image(self._backbone.model.config) + ROOM_AHEAD
        # One spare position: a branch that reads nothing in a pass still writes a placeholder.
        capacity = min(max(longest), ahead) + 1
        cache, hidden_RD = self._backbone.read(branches, capacity)
        if self._lengths:
            self._cache.append(cache, capacity)
            self._hidden_RD = torch.cat([self._hidden_RD, hidden_RD])
        else:
            self._cache, self._hidden_RD = cache, hidden_RD
        numbers = {row: len(slots) for row, slots in self._slot_numbers.items()}
        self._slot_numbers = _slot_numbers(numbers | {row: len(rows[row]) for row in rows})
        self._anew += [branch.anew for branch in branches]
        self._lengths, self._longest = lengths, longest

    def __contains__(self, row: int) -> bool:
        return row in self._slot_numbers

    def own(self, rows: Sequence[int]) -> Tensor:
        """Hidden state of the last token of each of these sequences: [N, D]."""
        return self._hidden_RD[[self._slot_numbers[row][0] for row in rows]]

    def all(self, rows: Sequence[int]) -> Tensor:
        """Hidden states of the last tokens of all their branches: [R, D]."""
        slots = [slot for row in rows for slot in self._slot_numbers[row]]
        return self._hidden_RD[moved(torch.tensor(slots), self._hidden_RD.device)]

    def reset_negatives(self, rows: Sequence[int]) -> None:
        """Resets the other guidance branches of these sequences to the end of their prompts."""
        for slot in (slot for row in rows for slot in self._slot_numbers[row]):
            self._lengths[slot] = self._anew[slot] or self._lengths[slot]

    def read(self, embeds_ND: Tensor, rows: Sequence[int], guided: Sequence[int]) -> None:
        """One pass of the backbone over one new token of each sequence.

        Args:
            embeds_ND: Input embedding of each sequence's token.
            rows: Numbers of these sequences.
            guided: Numbers of the sequences whose other branches read the token too.
        """
        readers = [
            self._slot_numbers[row] if row in guided else self._slot_numbers[row][:1]
            for row in rows
        ]
        slots = [slot for of_row in readers for slot in of_row]
        owners = [row for row, of_row in enumerate(readers) for _ in of_row]
        device = self._hidden_RD.device
        slots_R, owners_R = (moved(torch.tensor(index), device) for index in (slots, owners))
        # The other branches write zeros at their next position; their next token overwrites them.
        embeds_RD = torch.zeros_like(self._hidden_RD)
        embeds_RD[slots_R] = embeds_ND.to(embeds_RD)[owners_R]
        self._ensure_capacity(max(self._lengths) + 1)
        self._hidden_RD = self._backbone.step(self._cache, embeds_RD, self._lengths)
        for slot in slots:
            self._lengths[slot] += 1

    def keep(self, rows: Sequence[int]) -> None:
        """Removes all other sequences."""
        if len(rows) == len(self._slot_numbers):
            return
        kept = [slot for row in rows for slot in self._slot_numbers[row]]
        self._slot_numbers = _slot_numbers({row: len(self._slot_numbers[row]) for row in rows})
        self._lengths = [self._lengths[slot] for slot in kept]
        self._anew = [self._anew[slot] for slot in kept]
        self._longest = [self._longest[slot] for slot in kept]
        if kept:
            self._reorder(kept, self._cache.capacity)
            self._hidden_RD = self._hidden_RD[kept]

    def _ensure_capacity(self, needed: int) -> None:
        if needed > self._cache.capacity:
            capacity = max(needed, min(max(self._longest) + 1, 2 * self._cache.capacity))
            self._reorder(list(range(len(self._lengths))), capacity)

    def _reorder(self, slots: list[int], capacity: int) -> None:
        self._cache.reorder(slots, capacity)
        self._backbone.forget()


def _slot_numbers(streams_of_row: Mapping[int, int]) -> dict[int, list[int]]:
    """Slots of each sequence: `_slot_numbers({0: 2, 5: 1}) == {0: [0, 1], 5: [2]}`."""
    slots, first = {}, 0
    for row, branches in streams_of_row.items():
        slots[row] = list(range(first, first + branches))
        first += branches
    return slots
