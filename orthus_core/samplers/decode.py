"""Finished images become pixels, beside the drawing of the next ones where that helps.

On a GPU the drawing of a patch leaves most of the arithmetic idle, so a worker decodes on a CUDA
stream of its own. On a CPU both would want the same cores, and an image is decoded at once. Events
that follow an image in its sequence wait for the image's pixels, so each sequence's events keep
their order while other sequences go on (`ordered_events`).

Very large images are decoded in overlapping tiles, so that memory does not grow with them. Two
tiles are blended along their overlap, so that no seam shows. A tile sees nothing beyond its edge,
which the decoder's normalisation and attention would: tiled pixels are close to whole ones, not
equal. Images up to `LARGEST_WHOLE` patches a side are never tiled.

Legend: M images, P patches, C feature channels, h w the grid of patches, H W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.device import is_out_of_memory, release_memory
from orthus_core.events import Event, ImageDone
from orthus_core.model.interleaved import InterleavedModel

# At 512 x 512 the decoder's activations are about half a GB a picture in fp32.
DECODED_AT_ONCE = 8
# Batches that may wait for the worker; then the drawing waits for it.
MAX_PENDING = 2


class PendingImage(NamedTuple):
    """A picture whose patches are drawn: whose it is, and where its pixels will be."""

    row: int
    image: int
    features_PC: Tensor
    pixels: Future[list[Tensor]]
    index: int

    def done(self) -> ImageDone:
        """The event, once the pixels are there."""
        return ImageDone(self.row, self.image, self.pixels.result()[self.index], self.features_PC)


class ImageDecoder:
    """Develops pictures; to be closed, which ends the worker.

    Args:
        model: With a pixel decoder.
        beside: Whether a worker does it: by default on a GPU.
    """

    def __init__(self, model: InterleavedModel, *, beside: bool | None = None) -> None:
        self._model, self._device = model, model.device
        beside = self._device.type == "cuda" if beside is None else beside
        self._worker = ThreadPoolExecutor(1, "image-decoder") if beside else None
        self._waiting: deque[Future[list[Tensor]]] = deque()

    def __enter__(self) -> ImageDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker:
            self._worker.shutdown(wait=True, cancel_futures=True)

    def submit(
        self, rows: Sequence[int], images: Sequence[int], full_MPC: Tensor
    ) -> list[PendingImage]:
        """Takes pictures in.

        Args:
            rows, images: Whose they are, and which of their row's.
            full_MPC: Their features.
        """
        taken: list[PendingImage] = []
        for first in range(0, len(full_MPC), DECODED_AT_ONCE):
            batch_MPC = full_MPC[first : first + DECODED_AT_ONCE]
            pixels = self._begin(lambda batch_MPC=batch_MPC: self._pixels(batch_MPC))
            taken += [
                PendingImage(rows[first + n], images[first + n], features_PC, pixels, n)
                for n, features_PC in enumerate(batch_MPC)
            ]
        return taken

    def _begin(self, work: Callable[[], list[Tensor]]) -> Future[list[Tensor]]:
        if self._worker is None:
            done: Future[list[Tensor]] = Future()
            done.set_result(work())
            return done
        while len(self._waiting) >= MAX_PENDING:
            wait_for([self._waiting.popleft()])
        if self._device.type == "cuda":
            work = _on_a_stream_of_its_own(self._device, work)
        self._waiting.append(self._worker.submit(work))
        return self._waiting[-1]

    @torch.no_grad()
    def _pixels(self, features_MPC: Tensor) -> list[Tensor]:
        """One picture at a time where memory does not allow all: [3, H, W] each."""
        try:
            return list(decode(self._model, features_MPC).float())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(features_MPC) == 1:
                raise
        release_memory(self._device)
        return [self._pixels(features_PC.unsqueeze(0))[0] for features_PC in features_MPC]


def _on_a_stream_of_its_own(
    device: torch.device, work: Callable[[], list[Tensor]]
) -> Callable[[], list[Tensor]]:
    """The work, begun once the features are there, and ended with the pixels, so that whoever takes
    them up may use them on any stream."""
    drawn = torch.cuda.current_stream(device).record_event()

    def worked() -> list[Tensor]:
        stream = torch.cuda.Stream(device)
        stream.wait_event(drawn)  # type: ignore[arg-type]
        with torch.cuda.stream(stream):
            pixels = work()
        stream.synchronize()
        return pixels

    return worked


def ordered_events(events: Iterator[Event | PendingImage]) -> Iterator[Event]:
    """The events, each full picture as the ImageDone it becomes.

    A row's later events wait for its picture. Pictures that are full when the drawing is
    interrupted, or fails, are developed all the same.
    """
    held: dict[int, deque[Event | PendingImage]] = {}
    try:
        for event in events:
            row = getattr(event, "row", None)
            if isinstance(event, PendingImage) or row in held:
                held.setdefault(row, deque()).append(event)  # type: ignore[arg-type]
            else:
                yield event
            yield from _ready(held)
    except (Exception, KeyboardInterrupt):
        yield from _all(held)
        raise
    yield from _all(held)


def _ready(held: dict[int, deque[Event | PendingImage]]) -> Iterator[Event]:
    """What no longer has to wait."""
    for row, line in list(held.items()):
        while line and not (isinstance(line[0], PendingImage) and not line[0].pixels.done()):
            yield _event(line.popleft())
        if not line:
            del held[row]


def _all(held: dict[int, deque[Event | PendingImage]]) -> Iterator[Event]:
    """The rest, waited for."""
    for line in held.values():
        yield from map(_event, line)


def _event(item: Event | PendingImage) -> Event:
    return item.done() if isinstance(item, PendingImage) else item


# Patches along a side. 64 are 1024 pixels, 2 GB of the decoder's activations in fp32.
LARGEST_WHOLE = 64
# A tile is as large as the released models' pictures.
TILE = 32
OVERLAP = 8


def decode(model: InterleavedModel, features_MPC: Tensor) -> Tensor:
    """Pixels [M, 3, H, W] of pictures on the model's grid, nominally in [-1, 1] and unclipped."""
    if max(model.config.grid) <= LARGEST_WHOLE:
        return model.decode_images(features_MPC)
    vq = model.model.vqmodel
    features_MhwC = features_MPC.to(vq.post_quant_conv.weight.dtype).unflatten(1, model.config.grid)

    def decode_tile(tile_MhwC: Tensor) -> Tensor:
        grid = (tile_MhwC.shape[1], tile_MhwC.shape[2])
        return vq.pixels(tile_MhwC.flatten(1, 2), grid)

    return in_tiles(decode_tile, features_MhwC, TILE, OVERLAP)


def in_tiles(
    decode_tile: Callable[[Tensor], Tensor], features_MhwC: Tensor, tile: int, overlap: int
) -> Tensor:
    """What `decode_tile` gives for a whole grid, from tiles of it: [M, 3, H, W].

    Args:
        decode_tile: [M, t, u, C] to [M, 3, t * f, u * f], f pixels a patch.
        features_MhwC: The grid.
        tile: Patches along a tile's side.
        overlap: Patches that two neighbours share, less than `tile`.
    """
    rows, columns = features_MhwC.shape[1:3]
    sums = weights = None
    for top in _starts(rows, tile, overlap):
        for left in _starts(columns, tile, overlap):
            part_MhwC = features_MhwC[:, top : top + tile, left : left + tile]
            pixels_M3HW = decode_tile(part_MhwC).float()
            f = pixels_M3HW.shape[2] // part_MhwC.shape[1]
            if sums is None or weights is None:
                shape = (len(pixels_M3HW), pixels_M3HW.shape[1], rows * f, columns * f)
                sums = pixels_M3HW.new_zeros(shape)
                weights = sums.new_zeros(shape[2:])
            weight_HW = torch.outer(
                *(_ramp(size, overlap * f, sums.device) for size in pixels_M3HW.shape[2:])
            )
            area = (..., _pixels(top, part_MhwC.shape[1], f), _pixels(left, part_MhwC.shape[2], f))
            sums[area] += weight_HW * pixels_M3HW
            weights[area] += weight_HW
    assert sums is not None and weights is not None, "a grid has patches"
    return sums / weights


def _starts(patches: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: evenly, the last one flush with the end."""
    if patches <= tile:
        return [0]
    return [*range(0, patches - tile, tile - overlap), patches - tile]


def _pixels(first: int, patches: int, f: int) -> slice:
    return slice(first * f, (first + patches) * f)


def _ramp(size: int, overlap: int, device: torch.device) -> Tensor:
    """Weight of a tile's pixels along one side: rising over the overlap, flat, falling again."""
    inside = torch.arange(1, size + 1, device=device)
    edge = torch.minimum(inside, inside.flip(0))
    return (edge / (overlap + 1)).clamp(max=1.0)
