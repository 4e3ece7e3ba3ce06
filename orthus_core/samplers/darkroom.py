"""Full pictures into pixels, beside the drawing of the next ones where that helps.

On a GPU the drawing of a patch leaves most of the arithmetic idle, so a worker decodes on a stream
of its own. On a CPU both would want the same cores, and a picture is developed on the spot.

What a row does after a picture waits for that picture's pixels: so each row's events keep their
order, while other rows go on (`in_order`).

Legend: M pictures, P patches, C feature channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.events import Event, ImageDone
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.memory import is_out_of_memory, release
from orthus_core.samplers.tiles import decode

# At 512 x 512 the decoder's activations are about half a GB a picture in fp32.
DECODED_AT_ONCE = 8
# Batches that may wait for the worker; then the drawing waits for it.
WAITING_AT_MOST = 2


class Full(NamedTuple):
    """A picture whose patches are drawn: whose it is, and where its pixels will be."""

    row: int
    image: int
    features_PC: Tensor
    pixels: Future[list[Tensor]]
    index: int

    def done(self) -> ImageDone:
        """The event, once the pixels are there."""
        return ImageDone(self.row, self.image, self.pixels.result()[self.index], self.features_PC)


class Darkroom:
    """Develops pictures; to be closed, which ends the worker.

    Args:
        model: With a pixel decoder.
        beside: Whether a worker does it: by default on a GPU.
    """

    def __init__(self, model: InterleavedModel, *, beside: bool | None = None) -> None:
        self._model, self._device = model, model.device
        beside = self._device.type == "cuda" if beside is None else beside
        self._worker = ThreadPoolExecutor(1, "darkroom") if beside else None
        self._waiting: deque[Future[list[Tensor]]] = deque()

    def __enter__(self) -> Darkroom:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker:
            self._worker.shutdown(wait=True, cancel_futures=True)

    def develop(self, rows: Sequence[int], images: Sequence[int], full_MPC: Tensor) -> list[Full]:
        """Takes pictures in.

        Args:
            rows, images: Whose they are, and which of their row's.
            full_MPC: Their features.
        """
        taken: list[Full] = []
        for first in range(0, len(full_MPC), DECODED_AT_ONCE):
            batch_MPC = full_MPC[first : first + DECODED_AT_ONCE]
            pixels = self._begin(lambda batch_MPC=batch_MPC: self._pixels(batch_MPC))
            taken += [
                Full(rows[first + n], images[first + n], features_PC, pixels, n)
                for n, features_PC in enumerate(batch_MPC)
            ]
        return taken

    def _begin(self, work: Callable[[], list[Tensor]]) -> Future[list[Tensor]]:
        if self._worker is None:
            done: Future[list[Tensor]] = Future()
            done.set_result(work())
            return done
        while len(self._waiting) >= WAITING_AT_MOST:
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
        release(self._device)
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


def in_order(events: Iterator[Event | Full]) -> Iterator[Event]:
    """The events, each full picture as the ImageDone it becomes.

    A row's later events wait for its picture. Pictures that are full when the drawing is
    interrupted, or fails, are developed all the same.
    """
    held: dict[int, deque[Event | Full]] = {}
    try:
        for event in events:
            row = getattr(event, "row", None)
            if isinstance(event, Full) or row in held:
                held.setdefault(row, deque()).append(event)  # type: ignore[arg-type]
            else:
                yield event
            yield from _ready(held)
    except (Exception, KeyboardInterrupt):
        yield from _all(held)
        raise
    yield from _all(held)


def _ready(held: dict[int, deque[Event | Full]]) -> Iterator[Event]:
    """What no longer has to wait."""
    for row, line in list(held.items()):
        while line and not (isinstance(line[0], Full) and not line[0].pixels.done()):
            yield _event(line.popleft())
        if not line:
            del held[row]


def _all(held: dict[int, deque[Event | Full]]) -> Iterator[Event]:
    """The rest, waited for."""
    for line in held.values():
        yield from map(_event, line)


def _event(item: Event | Full) -> Event:
    return item.done() if isinstance(item, Full) else item
