"""A key-value cache of fixed room in which a token's slot is its position in its stream.

So streams of very different lengths lie side by side without padding, a pass writes in place, and a
stream forgets by going back to an earlier slot: what lies beyond is written over before anyone
looks at it.

Legend: R streams, T tokens of a pass, S slots, H key-value heads, E channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KVCache:
    """Keys and values of some streams, for transformers' attention layers to fill.

    Args:
        layers: Of the backbone.
        streams: R.
        room: S, the longest that a stream may become.
    """

    def __init__(self, layers: int, streams: int, capacity: int) -> None:
        self.streams, self.capacity = streams, capacity
        # Made when a layer first writes: on its device, of its shape and precision.
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._rows_R1 = self._positions_RT = torch.empty(0, 1, dtype=torch.long)
        self._width = 0

    def set_positions(self, positions_RT: Tensor, width: int) -> None:
        """Says where the next pass writes, and how far it looks.

        Args:
            places_RT: int64, a slot for each new token of the first R streams.
            width: They look at the slots below it (and the pass's mask says at which of those).
        """
        self._rows_R1 = torch.arange(len(positions_RT), device=positions_RT.device).unsqueeze(1)
        self._positions_RT, self._width = positions_RT, width

    def update(
        self, keys_RHTE: Tensor, values_RHTE: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes what a layer's attention made of the new tokens, and gives all it may look at:
        views [R, H, width, E].

        The name and the order are those of transformers' own caches.
        """
        return (
            self._written(self._keys, keys_RHTE, layer),
            self._written(self._values, values_RHTE, layer),
        )

    def _written(self, layers: list[Tensor | None], new_RHTE: Tensor, layer: int) -> Tensor:
        held_RHSE = layers[layer]
        if held_RHSE is None:
            _, heads, _, channels = new_RHTE.shape
            # Zeros: what no one may look at is still multiplied by nought, and must be finite.
            held_RHSE = new_RHTE.new_zeros(self.streams, heads, self.capacity, channels)
            layers[layer] = held_RHSE
        rows_R1, positions_RT = (
            i.to(held_RHSE.device) for i in (self._rows_R1, self._positions_RT)
        )
        held_RHSE[rows_R1, :, positions_RT] = new_RHTE.transpose(1, 2)
        return held_RHSE[: len(rows_R1), :, : self._width]

    def reorder(self, origins: list[int], capacity: int) -> None:
        """Gives every stream anew a copy of one that is here, and other room.

        Args:
            origins: For each new stream, which one it goes on from.
            room: At least as many slots as any of them fills.
        """
        kept = min(capacity, self.capacity)
        for layers in (self._keys, self._values):
            for layer, held_RHSE in enumerate(layers):
                if held_RHSE is None:
                    continue
                _, heads, _, channels = held_RHSE.shape
                new_RHSE = held_RHSE.new_zeros(len(origins), heads, capacity, channels)
                index_R = torch.tensor(origins, device=held_RHSE.device)
                new_RHSE[:, :, :kept] = held_RHSE[:, :, :kept].index_select(0, index_R)
                layers[layer] = new_RHSE  # one layer at a time, so that little is held twice
        self.streams, self.capacity = len(origins), capacity
