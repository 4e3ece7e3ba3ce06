"""A key-value cache of fixed capacity, in which a token is stored at its position in its branch.

So branches of very different lengths need no padding, and a pass writes in place. To reset a
branch, the next token is simply written at an earlier position: all later ones are overwritten
before any token attends to them.

Legend: R branches, T tokens of a pass, S positions, H key-value heads, E channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KVCache:
    """Keys and values of some branches; transformers' attention layers write to it.

    Args:
        layers: Number of layers of the backbone.
        streams: R, number of branches.
        capacity: S, the largest length of a branch.

    Attributes:
        streams, capacity: R and S at present.
    """

    def __init__(self, layers: int, streams: int, capacity: int) -> None:
        self.streams, self.capacity = streams, capacity
        # Allocated when a layer first writes, on its device, in its shape and precision.
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._rows_R1 = self._positions_RT = torch.empty(0, 1, dtype=torch.long)
        self._width = 0

    def set_positions(self, positions_RT: Tensor, width: int) -> None:
        """Sets where the next pass writes, and how far it attends.

        Args:
            positions_RT: Position of each new token of the first R branches, int64.
            width: Number of positions that the tokens can attend to; the mask may allow fewer.
        """
        self._rows_R1 = torch.arange(len(positions_RT), device=positions_RT.device).unsqueeze(1)
        self._positions_RT, self._width = positions_RT, width

    def update(
        self, keys_RHTE: Tensor, values_RHTE: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores the new tokens' keys and values of a layer, and returns all up to the width.

        Name and arguments are those of transformers' own caches.

        Returns: Views [R, H, width, E] of keys and values.
        """
        return (
            self._written(self._keys, keys_RHTE, layer),
            self._written(self._values, values_RHTE, layer),
        )

    def _written(self, layers: list[Tensor | None], new_RHTE: Tensor, layer: int) -> Tensor:
        held_RHSE = layers[layer]
        if held_RHSE is None:
            _, heads, _, channels = new_RHTE.shape
            # Zeros, because masked positions are still multiplied by 0 and so must be finite.
            held_RHSE = new_RHTE.new_zeros(self.streams, heads, self.capacity, channels)
            layers[layer] = held_RHSE
        rows_R1, positions_RT = (
            i.to(held_RHSE.device) for i in (self._rows_R1, self._positions_RT)
        )
        held_RHSE[rows_R1, :, positions_RT] = new_RHTE.transpose(1, 2)
        return held_RHSE[: len(rows_R1), :, : self._width]

    def append(self, other: KVCache, capacity: int) -> None:
        """Adds the branches of another cache behind the present ones, and changes the capacity.

        Args:
            other: Cache of the same layers; it is left as it is.
            capacity: New number of positions, at least the length of the longest branch.
        """
        self.reorder(list(range(self.streams)), capacity, more=other.streams)
        kept = min(capacity, other.capacity)
        for own, others in ((self._keys, other._keys), (self._values, other._values)):
            for held_RHSE, new_RHSE in zip(own, others, strict=True):
                assert held_RHSE is not None and new_RHSE is not None, "both have been read"
                held_RHSE[-other.streams :, :, :kept] = new_RHSE[:, :, :kept]

    def reorder(self, origins: list[int], capacity: int, *, more: int = 0) -> None:
        """Replaces the branches by copies of present ones, and changes the capacity.

        Args:
            origins: Index of the present branch that each new branch is a copy of.
            capacity: New number of positions, at least the length of the longest new branch.
            more: Number of empty branches behind them.
        """
        kept = min(capacity, self.capacity)
        for layers in (self._keys, self._values):
            for layer, held_RHSE in enumerate(layers):
                if held_RHSE is None:
                    continue
                _, heads, _, channels = held_RHSE.shape
                new_RHSE = held_RHSE.new_zeros(len(origins) + more, heads, capacity, channels)
                index_R = torch.tensor(origins, device=held_RHSE.device)
                new_RHSE[: len(origins), :, :kept] = held_RHSE[:, :, :kept].index_select(0, index_R)
                layers[layer] = new_RHSE  # layer by layer, so that little is in memory twice
        self.streams, self.capacity = len(origins) + more, capacity
