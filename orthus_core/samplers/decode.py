"""Finished images become pixels; on a GPU, while the next patches are drawn.

Drawing a patch uses little of a GPU's arithmetic, so a worker thread decodes in another CUDA stream
at the same time. On a CPU both would need the same cores, so an image is decoded at once. Events
that follow an image in its sequence wait for the image's pixels: each sequence's events keep their
order, while other sequences continue (`ordered_events`).

Very large images are decoded in overlapping tiles, so that memory does not grow with them. Tiles
are blended along their overlap, so that no seam shows. The decoder's normalisation and attention
see a tile only, not the whole image: tiled pixels are close to those of the whole image, but not
equal. Images of up to `LARGEST_WHOLE` patches a side are never tiled.

Legend: M images, P patches, C feature channels, h w the grid of patches, H W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.device import is_out_of_memory, release_memory
from orthus_core.events import Event, ImageDone
from orthus_core.model.interleaved import InterleavedModel

# At 512 x 512 the decoder's activations take about half a GB for each image in fp32.
DECODED_AT_ONCE = 8
# Number of batches that may wait for the worker; beyond it, drawing waits.
MAX_PENDING = 2


class PendingImage(NamedTuple):
    """An image with all patches, whose pixels are being decoded.

    Attributes:
        row: Number of the sequence.
        image: Number of the image in its sequence.
        features_PC: Features of all patches.
        pixels: Future of the pixels of all images that are decoded together.
        index: Index of this image among them.
    """

    row: int
    image: int
    features_PC: Tensor
    pixels: Future[list[Tensor]]
    index: int

    def done(self) -> ImageDone:
        """The image's event; it waits for the pixels."""
        return ImageDone(self.row, self.image, self.pixels.result()[self.index], self.features_PC)


class ImageDecoder:
    """Decodes images. It is a context manager; leaving the context ends the worker thread.

    Args:
        model: Model with a pixel decoder.
        beside: Whether a worker thread decodes; by default on a GPU.
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
        """Starts to decode images.

        Args:
            rows: Number of each image's sequence.
            images: Number of each image in its sequence.
            full_MPC: Features of the images.
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
            work = _on_the_decoding_stream(self._device, work)
        self._waiting.append(self._worker.submit(work))
        return self._waiting[-1]

    @torch.no_grad()
    def _pixels(self, features_MPC: Tensor) -> list[Tensor]:
        """Pixels [3, H, W] of each image; decoded one by one if memory does not allow more."""
        try:
            return list(decode(self._model, features_MPC).float())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(features_MPC) == 1:
                raise
        release_memory(self._device)
        return [self._pixels(features_PC.unsqueeze(0))[0] for features_PC in features_MPC]


@cache
def _decoding_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream in which a device decodes. The allocator keeps freed memory apart for each stream,
    several GB of the decoder's activations, so there is one for the whole process.
    """
    return torch.cuda.Stream(device)


def _on_the_decoding_stream(
    device: torch.device, work: Callable[[], list[Tensor]]
) -> Callable[[], list[Tensor]]:
    """The work in a CUDA stream beside that of the drawing.

    It starts when the features are computed and returns when the pixels are, so that the caller may
    use the pixels in any stream.
    """
    drawn = torch.cuda.current_stream(device).record_event()

    def worked() -> list[Tensor]:
        stream = _decoding_stream(device)
        stream.wait_event(drawn)  # type: ignore[arg-type]
        with torch.cuda.stream(stream):
            pixels = work()
        stream.synchronize()
        return pixels

    return worked


def ordered_events(events: Iterator[Event | PendingImage]) -> Iterator[Event]:
    """The events, with ImageDone in place of each PendingImage.

    Later events of a sequence wait for its image. If drawing fails or is interrupted, finished
    images are decoded all the same.
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
    """The events that need not wait any longer."""
    for row, line in list(held.items()):
        while line and not (isinstance(line[0], PendingImage) and not line[0].pixels.done()):
            yield _event(line.popleft())
        if not line:
            del held[row]


def _all(held: dict[int, deque[Event | PendingImage]]) -> Iterator[Event]:
    """All remaining events; it waits for their pixels."""
    for line in held.values():
        yield from map(_event, line)


def _event(item: Event | PendingImage) -> Event:
    return item.done() if isinstance(item, PendingImage) else item


# Patches along a side: 64 are 1024 pixels, and 2 GB of the decoder's activations in fp32.
LARGEST_WHOLE = 64
# Patches along the side of a tile, as in the released models' images, and patches of the overlap.
TILE = 32
OVERLAP = 8


def decode(model: InterleavedModel, features_MPC: Tensor) -> Tensor:
    """Pixels [M, 3, H, W] of images on the model's grid, nominally in [-1, 1], unclipped."""
    if max(model.config.grid) <= LARGEST_WHOLE:
        return model.decode_images(features_MPC)
    return _decode_grid(model, features_MPC, model.config.grid)


def _decode_grid(model: InterleavedModel, features_MPC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pixels of images on any grid, in tiles if it is large: [M, 3, H, W]."""
    vq = model.model.vqmodel
    weight = vq.post_quant_conv.weight
    features_MPC = features_MPC.to(weight.device, weight.dtype)
    if max(grid) <= LARGEST_WHOLE:
        return vq.pixels(features_MPC, grid)
    features_MhwC = features_MPC.unflatten(1, grid)

    def decode_tile(tile_MhwC: Tensor) -> Tensor:
        grid = (tile_MhwC.shape[1], tile_MhwC.shape[2])
        return vq.pixels(tile_MhwC.flatten(1, 2), grid)

    return in_tiles(decode_tile, features_MhwC, TILE, OVERLAP)


def decode_unfinished(model: InterleavedModel, drawn: Sequence[Tensor]) -> Tensor:
    """Pixels [M, 3, H, W] of images that have only some of their patches, white elsewhere.

    Only the rows so far are decoded, or the columns of the first: that is quicker than decoding
    whole images, and the pixels are closer to those of the finished image, because the decoder's
    normalisation sees little but patches that are drawn. Those at the edge still change.

    Args:
        model: Model with a pixel decoder.
        drawn: Features [k, C] of the first patches of each image, at least one.
    """
    _, columns = model.config.grid
    size = model.model.vqmodel.config.resolution
    pixels_M3HW = torch.ones(len(drawn), 3, size, size, device=model.device)
    for count in {len(each_NC) for each_NC in drawn}:
        own = [number for number, each_NC in enumerate(drawn) if len(each_NC) == count]
        # Two columns at least: a single value has no norm.
        grid = (-(-count // columns), min(max(count, 2), columns))
        features_MPC = torch.stack([_filled(drawn[number], grid) for number in own])
        own_M3HW = _decode_grid(model, features_MPC, grid).float().to(pixels_M3HW.device)
        f = own_M3HW.shape[2] // grid[0]
        row, column = divmod(count, columns)
        own_M3HW[:, :, row * f :, column * f :] = 1.0
        pixels_M3HW[own, :, : own_M3HW.shape[2], : own_M3HW.shape[3]] = own_M3HW
    return pixels_M3HW


def _filled(drawn_NC: Tensor, grid: tuple[int, int]) -> Tensor:
    """The features of a grid, with the mean of the drawn ones where there are none yet: [P, C]."""
    missing = grid[0] * grid[1] - len(drawn_NC)
    return torch.cat([drawn_NC, drawn_NC.mean(0, keepdim=True).expand(missing, -1)])


def in_tiles(
    decode_tile: Callable[[Tensor], Tensor], features_MhwC: Tensor, tile: int, overlap: int
) -> Tensor:
    """Pixels of a grid, decoded in tiles: [M, 3, H, W].

    Args:
        decode_tile: Decodes [M, t, u, C] to [M, 3, t * f, u * f], with f pixels along a patch.
        features_MhwC: Features on the grid.
        tile: Patches along the side of a tile.
        overlap: Patches that two neighbouring tiles share, less than `tile`.
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
    """Start of each tile: at even distances, but the last tile ends where the grid ends."""
    if patches <= tile:
        return [0]
    return [*range(0, patches - tile, tile - overlap), patches - tile]


def _pixels(first: int, patches: int, f: int) -> slice:
    return slice(first * f, (first + patches) * f)


def _ramp(size: int, overlap: int, device: torch.device) -> Tensor:
    """Weights along one side of a tile: they rise over the overlap, stay at 1, and fall again."""
    inside = torch.arange(1, size + 1, device=device)
    edge = torch.minimum(inside, inside.flip(0))
    return (edge / (overlap + 1)).clamp(max=1.0)
