"""Which stream is whose: the rows' own sequences, and those that their pictures are guided against.

A row's streams lie side by side, its own first. Each grows at its own pace: one that has nothing to
read in a pass stays where it is, and those a row is guided against go back to the end of their
prompt when a picture begins anew.

Legend: N rows, R streams, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.prompt import Stream, room_for_image

# Slots that are made ahead where it is not known how long a text will be.
ROOM_AHEAD = 256


class Streams:
    """The streams of some rows, and their newest hidden states.

    Args:
        backbone: Reads them.
        rows: The streams of each row by its number, its own first; read here.
    """

    def __init__(self, backbone: Backbone, rows: Mapping[int, Sequence[Stream]]) -> None:
        streams = [stream for row in rows.values() for stream in row]
        self._backbone = backbone
        self._seats = _seats({row: len(of_row) for row, of_row in rows.items()})
        self._lengths = [len(stream.ids) for stream in streams]
        self._anew = [stream.anew for stream in streams]
        self._longest = max((stream.longest for stream in streams), default=0)
        if streams:
            ahead = max(self._lengths) + room_for_image(backbone.model.config) + ROOM_AHEAD
            # One more, for the passes in which a stream that is complete reads nothing.
            room = min(self._longest, ahead) + 1
            self._slots, self._hidden_RD = backbone.read(streams, room)

    def own(self, rows: Sequence[int]) -> Tensor:
        """Hidden state of the last token of each of these rows: [N, D]."""
        return self._hidden_RD[[self._seats[row][0] for row in rows]]

    def all(self, rows: Sequence[int]) -> Tensor:
        """The same of all their streams, row after row: [R, D]."""
        return self._hidden_RD[[seat for row in rows for seat in self._seats[row]]]

    def begin_anew(self, rows: Sequence[int]) -> None:
        """The streams these rows are guided against forget all they read after their prompts."""
        for seat in (seat for row in rows for seat in self._seats[row]):
            self._lengths[seat] = self._anew[seat] or self._lengths[seat]

    def read(self, embeds_ND: Tensor, rows: Sequence[int], guided: Sequence[int]) -> None:
        """One pass of the backbone over one new token a row.

        Args:
            embeds_ND: The embedded token of each row.
            rows: Those rows.
            guided: The rows among them whose other streams read it too.
        """
        readers = [self._seats[row] if row in guided else self._seats[row][:1] for row in rows]
        seats = [seat for of_row in readers for seat in of_row]
        repeats = torch.tensor([len(of_row) for of_row in readers], device=embeds_ND.device)
        # The others read nothing, at the slot where their next token will be.
        embeds_RD = torch.zeros_like(self._hidden_RD)
        embeds_RD[seats] = embeds_ND.to(embeds_RD).repeat_interleave(
            repeats, dim=0, output_size=len(seats)
        )
        self._make_room(max(self._lengths) + 1)
        self._hidden_RD = self._backbone.step(self._slots, embeds_RD, self._lengths)
        for seat in seats:
            self._lengths[seat] += 1

    def keep(self, rows: Sequence[int]) -> None:
        """Lets go of all other rows."""
        if len(rows) == len(self._seats):
            return
        kept = [seat for row in rows for seat in self._seats[row]]
        self._seats = _seats({row: len(self._seats[row]) for row in rows})
        self._lengths = [self._lengths[seat] for seat in kept]
        self._anew = [self._anew[seat] for seat in kept]
        if kept:
            self._spread(kept, self._slots.room)
            self._hidden_RD = self._hidden_RD[kept]

    def _make_room(self, needed: int) -> None:
        if needed > self._slots.room:
            room = max(needed, min(self._longest + 1, 2 * self._slots.room))
            self._spread(list(range(len(self._lengths))), room)

    def _spread(self, seats: list[int], room: int) -> None:
        self._slots.spread(seats, room)
        self._backbone.forget()


def _seats(streams_of_row: Mapping[int, int]) -> dict[int, list[int]]:
    """Seats in the batch, row after row: `_seats({0: 2, 5: 1}) == {0: [0, 1], 5: [2]}`."""
    seats, first = {}, 0
    for row, streams in streams_of_row.items():
        seats[row] = list(range(first, first + streams))
        first += streams
    return seats
