"""The pictures for training and validating an autoencoder.

Legend: M pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from orthus_core.data.document import Document
from orthus_core.data.order import hash_of, is_held_out, splitmix64
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import pack_pixels
from orthus_core.data.row_faults import RowFaults, fault_of
from orthus_core.data.rows import row_key
from orthus_core.data.sources import ShuffledRows, identity_of_value
from orthus_core.errors import DataError
from orthus_core.evaluation.reconstruction import CHUNK, HELD_OUT_IMAGES
from orthus_core.events import Event, Progress
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.batches import (
    ORDER,
    NothingUsable,
    chosen_rows,
    identity_of_part,
    load_pictures,
    open_source,
    without_unusable,
)


class PictureSource(Protocol):
    """Random pictures, preprocessed by the processor.

    Attributes:
        held_out_M3HW: Pictures that `draw` never returns; [0, 3, H, W] when nothing is held out.
        identity: What tells these pictures from others; empty where the recipe alone decides them.
        faults: Rows that cannot be used; None where all can.
    """

    @property
    def held_out_M3HW(self) -> Tensor: ...

    @property
    def identity(self) -> str: ...

    @property
    def faults(self) -> RowFaults | None: ...

    def draw(
        self, count: int, generator: torch.Generator, own: Sequence[int] | None = None
    ) -> Tensor:
        """Draw random pictures: float [M, 3, H, W].

        Args:
            count: Number of pictures to draw.
            generator: Random numbers.
            own: Numbers of those to return, a process's share of them; None for all.
        """
        ...


class ReadPictures:
    """Pictures of data sets, half of them mirrored.

    A row is drawn, and then one of its pictures. A picture that cannot be read is replaced by one
    of the next row.

    Args:
        sources: Data sets, and pictures that are made.
        weights: How often each is drawn from.
        size: Side of the pictures in pixels.
        share: Fraction of the pictures of data sets that are never drawn, chosen by a hash of each.
        seed: Seed of that choice.
        faults: Counts the rows that cannot be used.
        rule: Raises an error for a document that the training cannot use.

    Raises:
        DataError: When there is no picture to draw in one of the sources.
    """

    def __init__(
        self,
        sources: Sequence[ShuffledRows | PictureSource],
        weights: Sequence[float],
        size: int,
        *,
        share: float = 0.0,
        seed: int = 0,
        faults: RowFaults | None = None,
        rule: Callable[[Document], object] | None = None,
    ) -> None:
        self.sources = sources
        self.size = size
        self.faults = faults if faults is not None else RowFaults()
        self._weights = torch.tensor([*weights], dtype=torch.float64)
        self._share, self._seed, self._rule = share, seed, rule
        read = [source for source in sources if isinstance(source, ShuffledRows)]
        self.identity = "; ".join([ORDER, *map(identity_of_part, read)])
        for source in read:
            self._load(source, 0, 0)
        shares = (self._weights / self._weights.sum() * HELD_OUT_IMAGES).ceil().int().tolist()
        self.held_out_M3HW = torch.empty(0, 3, size, size)
        for source, most in zip(sources, shares, strict=True):
            if isinstance(source, ShuffledRows):
                squares = [*islice(self.pictures(source, apart=True), most)]
                kept_M3HW = pack_pixels(squares) if squares else self.held_out_M3HW[:0]
            else:
                kept_M3HW = source.held_out_M3HW[:most]
            self.held_out_M3HW = torch.cat([self.held_out_M3HW, kept_M3HW])

    def draw(
        self, count: int, generator: torch.Generator, own: Sequence[int] | None = None
    ) -> Tensor:
        chosen = [0] * count
        if len(self.sources) > 1:
            drawn_M = torch.multinomial(self._weights, count, True, generator=generator)
            chosen = drawn_M.tolist()
        row_M, picked_M = torch.randint(2**62, (2, count), generator=generator).tolist()
        mirrored_M = torch.rand(count, generator=generator) < 0.5
        wanted = range(count) if own is None else own
        pixels_M3HW = torch.empty(len(wanted), 3, self.size, self.size)
        for number, source in enumerate(self.sources):
            of_source = [at for at, n in enumerate(wanted) if chosen[n] == number]
            if isinstance(source, ShuffledRows):
                for at in of_source:
                    n = wanted[at]
                    square = self._load(source, row_M[n] % len(source), picked_M[n])
                    pixels_3HW = pack_pixels([square])[0]
                    pixels_M3HW[at] = pixels_3HW.flip(-1) if mirrored_M[n] else pixels_3HW
            else:
                among = [n for n in range(count) if chosen[n] == number]
                ranks = [among.index(wanted[at]) for at in of_source]
                if among:
                    pixels_M3HW[of_source] = source.draw(len(among), generator, ranks)
        return pixels_M3HW

    def _load(self, part: ShuffledRows, place: int, picked: int) -> np.ndarray:
        """A picture of the row at a place, or of the first one after it that has one to draw."""
        for tries in range(len(part)):
            row = int(part.numbers_N[(place + tries) % len(part)])
            for found in self._document(part, row):
                pictures = [p for p in found.pictures if not self._is_apart(p)]
                if not pictures:
                    continue
                try:
                    return pictures[picked % len(pictures)].load(self.size)
                except Exception as error:
                    self.faults.add(fault_of(part.name, part.rows, row, error, found.id), error)
        if not len(part):
            raise NothingUsable(part.rows)
        raise DataError(
            "there are no pictures to train on",
            where=part.rows.where,
            hint="an autoencoder learns from pictures alone: add rows with pictures",
        )

    def pictures(self, part: ShuffledRows, *, apart: bool) -> Iterator[np.ndarray]:
        """Pictures of a data set, each once, in an order that stays when rows are added.

        Args:
            apart: Whether only those are returned that are never drawn.
        """
        if apart and not self._share:
            return
        keys_N = part.rows.keys()[part.numbers_N]
        met: set[str] = set()
        for row in part.numbers_N[np.argsort(splitmix64(keys_N), kind="stable")]:
            for document in self._document(part, int(row)):
                for picture in document.pictures:
                    name = identity_of_value(picture)
                    if name in met or (apart and not self._is_apart(picture)):
                        continue
                    met.add(name)
                    try:
                        yield picture.load(self.size)
                    except Exception as error:
                        fault = fault_of(part.name, part.rows, int(row), error, document.id)
                        self.faults.add(fault, error)

    def _document(self, part: ShuffledRows, row: int) -> Iterator[Document]:
        """The row, unless it cannot be used, which is counted."""
        document = None
        try:
            document = part.rows.document(row)
            if self._rule is not None:
                self._rule(document)
        except Exception as error:
            id = document.id if document else ""
            self.faults.add(fault_of(part.name, part.rows, row, error, id), error)
            return
        yield document

    def _is_apart(self, picture: Picture) -> bool:
        key_1 = np.array([row_key(identity_of_value(picture))], np.uint64)
        return bool(is_held_out(key_1, self._share, self._seed)[0])


def read_pictures(
    data: DataRecipe,
    size: int,
    rule: Callable[[Document], object] | None = None,
    faults: RowFaults | None = None,
) -> Generator[Event, None, PictureSource]:
    """The pictures of the recipe's data.

    Args:
        data: Data table of the recipe.
        size: Side of the pictures in pixels.
        rule: Raises an error for a document that the training cannot use: a `RowRule`.
        faults: Counts the rows that cannot be used.

    Raises:
        DataError: When there is none, and at the first broken one when the recipe is strict.
    """
    sources: list[ShuffledRows | PictureSource] = []
    faults = faults if faults is not None else RowFaults(data.strict)
    named = data.named_sources()
    for number, (name, source) in enumerate(named.items()):
        if source.is_made:
            from orthus_core.world.world import World
            from orthus_core.world.world_pictures import WorldPictures

            sources.append(WorldPictures(World.open(held_out=data.held_out), size))
            continue
        rows = yield from open_source(name, source, quiet=faults.named_later)
        part = chosen_rows(name, source, rows, hash_of(data.seed, number))
        load = partial(load_pictures, side=size)
        (part,) = yield from without_unusable([part], load, "pictures", faults)
        if rule is not None:
            (part,) = yield from without_unusable([part], rule, "rows", faults)
        sources.append(part)
    if data.makes_rows and len(sources) == 1:
        (made,) = sources
        assert not isinstance(made, ShuffledRows)
        return made
    return ReadPictures(
        sources,
        [source.weight for source in named.values()],
        size,
        share=data.held_out,
        seed=data.seed,
        faults=faults,
        rule=rule,
    )


# Pictures of the small world that are drawn to be measured when no number is named.
MADE = 256


def pictures_to_measure(
    data: DataRecipe, size: int, limit: int, faults: RowFaults, *, apart: bool
) -> Iterator[Event | Tensor]:
    """Pictures of a data set for measuring an autoencoder: events, and tensors [M, 3, H, W].

    Args:
        data: Data table with one source.
        size: Side of the pictures in pixels.
        limit: Number of pictures; 0 for all.
        faults: Counts the rows that cannot be used; they are left out.
        apart: Whether only pictures that are never drawn are measured.

    Raises:
        DataError: When the source cannot be read.
    """
    ((name, source),) = data.named_sources().items()
    if source.is_made:
        made = yield from read_pictures(data, size)
        generator = torch.Generator().manual_seed(data.seed)
        yield made.held_out_M3HW[: limit or None] if apart else made.draw(limit or MADE, generator)
        return
    rows = yield from open_source(name, source)
    part = ShuffledRows(name, rows, np.arange(len(rows)), data.seed)
    read = ReadPictures([], [], size, share=data.held_out, seed=data.seed, faults=faults)
    squares = islice(read.pictures(part, apart=apart), limit or None)
    done = 0
    while chunk := [*islice(squares, CHUNK)]:
        done += len(chunk)
        yield pack_pixels(chunk)
        yield Progress("pictures", done, limit or max(done, len(rows)), unit="pictures")
