"""What of a long story the model still sees: its opening, and the latest panels that fit.

Legend: M pictures, P patches, C feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.model.config import InterleavedConfig
from orthus_core.samplers.prompt import Context, room_for_image


class Told(NamedTuple):
    """A panel as the model reads it again.

    ids: Token ids of its words.
    features_PC: Of its picture; None where it has none.
    """

    ids: tuple[int, ...]
    features_PC: Tensor | None = None


class Window(NamedTuple):
    """A context to go on from, and the number of panels that it still holds."""

    context: Context
    kept: int


def longest_text(config: InterleavedConfig, opening: Context, wanted: int) -> int:
    """Text tokens that a panel may have, so that its picture fits behind the opening.

    Raises: PromptError when the opening leaves no room for a word and a picture.
    """
    room = config.max_position_embeddings - len(opening.ids) - room_for_image(config)
    if room < 1:
        raise PromptError(
            f"the opening is {len(opening.ids)} tokens long, a panel takes at least "
            f"{room_for_image(config) + 1} more, and the model reads "
            f"{config.max_position_embeddings} in all",
            where="story",
            hint="begin with fewer words or fewer pictures",
        )
    return min(wanted, room)


def window(
    config: InterleavedConfig,
    opening: Context,
    told: Sequence[Told],
    longest: int,
    *,
    most: int | None = None,
) -> Window:
    """The opening and as many of the latest panels as leave room for the next one.

    Args:
        config: Of the model.
        opening: Up to SEP; always kept.
        told: All panels after it.
        longest: Text tokens of the next panel, as `longest_text` says.
        most: Panels to keep at most.
    """
    room = config.max_position_embeddings - len(opening.ids) - longest - room_for_image(config)
    kept, most = 0, len(told) if most is None else min(most, len(told))
    while kept < most and (size := _size(config, told[-kept - 1])) <= room:
        room, kept = room - size, kept + 1
    return Window(_joined(config, opening, told[len(told) - kept :]), kept)


def _size(config: InterleavedConfig, panel: Told) -> int:
    return len(panel.ids) + (0 if panel.features_PC is None else room_for_image(config))


def _joined(config: InterleavedConfig, opening: Context, told: Sequence[Told]) -> Context:
    """Words, [BOI], patches and [EOI] of each panel, after the opening."""
    boi, eoi, image = config.boi_token_id, config.eoi_token_id, config.image_token_id
    assert boi is not None and eoi is not None and image is not None
    ids, features = list(opening.ids), []
    if opening.features_MPC is not None:
        features.append(opening.features_MPC)
    for panel in told:
        ids += panel.ids
        if panel.features_PC is not None:
            ids += [boi, *[image] * config.patches, eoi]
            features.append(panel.features_PC.unsqueeze(0))
    device = features[0].device if features else None
    return Context(tuple(ids), torch.cat([f.to(device) for f in features]) if features else None)
