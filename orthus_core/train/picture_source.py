"""The pictures for training and validating an autoencoder.

Legend: M pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from orthus_core.data.document import Document
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import pack_pixels
from orthus_core.data.sources import hold_out, identity_of
from orthus_core.errors import DataError
from orthus_core.evaluation.reconstruction import HELD_OUT_IMAGES
from orthus_core.events import Event
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.batches import SPRITES, read_documents


class PictureSource(Protocol):
    """Random pictures, preprocessed by the processor.

    Attributes:
        held_out_M3HW: Pictures that `draw` never returns; [0, 3, H, W] when nothing is held out.
        identity: What tells these pictures from others; empty where the recipe alone decides them.
    """

    @property
    def held_out_M3HW(self) -> Tensor: ...

    @property
    def identity(self) -> str: ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw random pictures: float [count, 3, H, W]."""
        ...


class FilePictures:
    """The user's own pictures, half of them mirrored.

    Args:
        pictures: Pictures to draw from.
        held_out: Pictures that are never drawn.
        size: Side of the pictures in pixels.
    """

    def __init__(self, pictures: Sequence[Picture], held_out: Sequence[Picture], size: int) -> None:
        self.pictures = pictures
        self.size = size
        self.identity = identity_of([picture] for picture in (*pictures, *held_out))
        squares = [picture.load(size) for picture in held_out[:HELD_OUT_IMAGES]]
        self.held_out_M3HW = pack_pixels(squares) if squares else torch.empty(0, 3, size, size)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        picked = torch.randint(len(self.pictures), (count,), generator=generator).tolist()
        mirrored_M = torch.rand(count, generator=generator) < 0.5
        pixels_M3HW = pack_pixels([self.pictures[number].load(self.size) for number in picked])
        pixels_M3HW[mirrored_M] = pixels_M3HW[mirrored_M].flip(-1)
        return pixels_M3HW


def read_pictures(
    data: DataRecipe, size: int, rule: Callable[[Document], object] | None = None
) -> Generator[Event, None, PictureSource]:
    """The pictures of the recipe's data.

    Args:
        data: Data table of the recipe.
        size: Side of the pictures in pixels.
        rule: Raises an error for a document that the training cannot use: a `RowRule`.

    Raises:
        DataError: When there is none, and at the first broken one when the recipe is strict.
    """
    if data.source == SPRITES:
        from orthus_core.world.world import World
        from orthus_core.world.world_pictures import WorldPictures

        return WorldPictures(World.open(held_out=data.held_out), size)
    documents = yield from read_documents(data, size, rule)
    return FilePictures(*split_pictures(documents, data, Path(data.source)), size)


def split_pictures(
    documents: Sequence[Document], data: DataRecipe, where: Path
) -> tuple[list[Picture], list[Picture]]:
    """The pictures to train on, and those that are held out.

    Raises:
        DataError: When there are none to train on.
    """
    kept, held_out = hold_out(pictures_of(documents), data.held_out, data.seed)
    if not kept:
        raise DataError(
            "there are no pictures to train on",
            where=str(where),
            hint="`orthus data check` says what is wrong with each record"
            if not documents
            else "an autoencoder learns from pictures alone: add rows with pictures",
        )
    return kept, held_out


def pictures_of(documents: Sequence[Document]) -> list[Picture]:
    """Each picture of the documents once, in order."""
    found = {
        segment.value.key: segment.value
        for document in documents
        for segment in document.segments
        if isinstance(segment.value, Picture)
    }
    return list(found.values())
