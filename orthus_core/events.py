"""Events that long work yields while it runs, for a terminal, a notebook or a test.

Core never prints: generators yield these, and `orthus_cli.console` turns them into bars and tables.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

R = TypeVar("R")


@dataclass(frozen=True)
class Progress:
    """`done` of `total` `unit`s of a stage are finished."""

    stage: str
    done: int
    total: int
    unit: str = "steps"


@dataclass(frozen=True)
class Note:
    """Information for the user that is not an error."""

    message: str


@dataclass(frozen=True)
class TextPiece:
    """A row produced text: `text` is what its new tokens add, `token_ids` are those tokens."""

    row: int
    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImageBegun:
    """A row started its picture number `image`.

    Attributes:
        forced: Whether the sampler started it, where the model would have continued without one.
        ending: For a forced picture, whether the model would have ended its text there; otherwise
            it was still writing.
        panel: In a story, the number of this picture's panel, counting the opening's pictures.
    """

    row: int
    image: int
    forced: bool = False
    ending: bool = False
    panel: int | None = None


@dataclass(frozen=True)
class PatchDone:
    """A row finished one patch: `done` of `total` of its picture number `image`.

    Attributes:
        feature_C: The patch's feature, for previews or for storing an unfinished picture.
    """

    row: int
    image: int
    done: int
    total: int
    feature_C: torch.Tensor | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ImageDone:
    """A row finished a picture: pixels [3, H, W] in [-1, 1], and its features [P, C]."""

    row: int
    image: int
    pixels_3HW: torch.Tensor
    features_PC: torch.Tensor


@dataclass(frozen=True)
class RowDone:
    """A row is complete; `reason` is "end", "length", "context" or "images"."""

    row: int
    reason: str


@dataclass(frozen=True)
class StepDone:
    """A training step ended: `step` of `total`, with the figures it measured.

    Attributes:
        speed: How fast the training is, as last measured (`train.throughput`), for all processes.
    """

    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    speed: Mapping[str, float] = field(default_factory=dict, compare=False)


Event = Progress | Note | TextPiece | ImageBegun | PatchDone | ImageDone | RowDone | StepDone


def result_of(work: Generator[Any, None, R]) -> R:
    """What a generator of events returns; its events are dropped."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
