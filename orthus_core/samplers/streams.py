"""Many sequences in one cache, each at its own place, read by the backbone in one pass a step.

A stream is one sequence: a row's own, or one that its pictures are guided against. All share a
key-value cache of as many slots as tokens were passed; a mask says which slots are a stream's own.
A stream with nothing to read in a pass gets a slot it never looks at; one that begins anew forgets
its slots after the prompt. Positions count a stream's own slots, so neither padding nor idle passes
change what it computes.

Legend: N rows, R streams, S slots of the cache, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.prompt import Context


class Streams:
    """Cache, mask and newest hidden states of the streams of some rows.

    Args:
        model: Whose backbone reads.
        rows: The streams of each row, its own first; read here, left-padded, in one pass.
    """

    def __init__(self, model: InterleavedModel, rows: Sequence[Sequence[Context]]) -> None:
        contexts = [context for row in rows for context in row]
        width = max(len(context.ids) for context in contexts)
        pad = model.config.pad_token_id or 0
        padding = [width - len(context.ids) for context in contexts]
        ids_RS = [[pad] * n + list(c.ids) for n, c in zip(padding, contexts, strict=True)]
        mask_RS = [[0] * n + [1] * (width - n) for n in padding]
        images = [c.features_MPC.flatten(0, 1) for c in contexts if c.features_MPC is not None]
        self._model = model
        self._prompt_slots = width
        self._mask_RS = torch.tensor(mask_RS, device=model.device)
        self._places = _seats(dict(enumerate(len(row) for row in rows)))
        output = model(
            torch.tensor(ids_RS, device=model.device),
            torch.cat(images).to(model.device) if images else None,
            attention_mask=self._mask_RS,
            use_cache=True,
        )
        assert output.past_key_values is not None
        self._cache = output.past_key_values
        self._hidden_RD = output.hidden_BSD[:, -1]

    def own(self, rows: Sequence[int]) -> Tensor:
        """Hidden state of the last token of each of these rows: [N, D]."""
        return self._hidden_RD[[self._places[row][0] for row in rows]]

    def all(self, rows: Sequence[int]) -> Tensor:
        """The same of all their streams, row after row: [R, D]."""
        return self._hidden_RD[[place for row in rows for place in self._places[row]]]

    def begin_anew(self, rows: Sequence[int]) -> None:
        """The streams these rows are guided against forget all they read after their prompts."""
        others = [place for row in rows for place in self._places[row][1:]]
        if others:
            self._mask_RS[others, self._prompt_slots :] = 0

    def read(self, embeds_ND: Tensor, rows: Sequence[int], guided: Sequence[int]) -> None:
        """One pass of the backbone over one new token a row.

        Args:
            embeds_ND: The embedded token of each row.
            rows: Those rows.
            guided: The rows among them whose other streams read it too.
        """
        readers = [self._places[row] if row in guided else self._places[row][:1] for row in rows]
        places = [place for streams in readers for place in streams]
        repeats = torch.tensor([len(streams) for streams in readers], device=embeds_ND.device)
        embeds_RD = torch.zeros_like(self._hidden_RD)
        embeds_RD[places] = embeds_ND.to(embeds_RD).repeat_interleave(repeats, dim=0)
        new_slot_R1 = self._mask_RS.new_zeros(len(embeds_RD), 1)
        new_slot_R1[places] = 1
        self._mask_RS = torch.cat([self._mask_RS, new_slot_R1], dim=1)
        output = self._model(
            inputs_embeds=embeds_RD.unsqueeze(1),
            attention_mask=self._mask_RS,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._hidden_RD = output.hidden_BSD[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Lets go of all other rows."""
        if len(rows) == len(self._places):
            return
        places = [place for row in rows for place in self._places[row]]
        self._places = _seats({row: len(self._places[row]) for row in rows})
        if places:
            index_R = torch.tensor(places, device=self._mask_RS.device)
            self._cache.batch_select_indices(index_R)
            self._mask_RS, self._hidden_RD = self._mask_RS[index_R], self._hidden_RD[index_R]


def _seats(streams_of_row: dict[int, int]) -> dict[int, list[int]]:
    """Places in the batch, row after row: `_seats({0: 2, 5: 1}) == {0: [0, 1], 5: [2]}`."""
    seats, first = {}, 0
    for row, streams in streams_of_row.items():
        seats[row] = list(range(first, first + streams))
        first += streams
    return seats
