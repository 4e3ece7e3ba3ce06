"""What long work yields while it runs, so that a terminal, a notebook and a test can all listen.

Core never prints: generators yield these, and `orthus_cli.console` turns them into bars and tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Progress:
    """`done` of `total` `unit`s of a stage are finished."""

    stage: str
    done: int
    total: int
    unit: str = "steps"


@dataclass(frozen=True)
class Note:
    """Something the user should hear that is no error."""

    message: str


@dataclass(frozen=True)
class TextPiece:
    """A row wrote some text: `text` is what its new tokens add, `token_ids` are they."""

    row: int
    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImageBegun:
    """A row began its picture number `image`.

    forced: Whether it was begun for the model, which would have gone on without one.
    ending: Of a forced one, whether the model would have ended its text there; otherwise it was
        still writing.
    panel: Of a story, the number by which people know this picture's panel, the opening counted.
    """

    row: int
    image: int
    forced: bool = False
    ending: bool = False
    panel: int | None = None


@dataclass(frozen=True)
class PatchDone:
    """A row drew one patch: `done` of `total` of its picture number `image`.

    feature_C: What it drew, for those who show or keep a picture before it is whole.
    """

    row: int
    image: int
    done: int
    total: int
    feature_C: torch.Tensor | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ImageDone:
    """A row drew a picture: pixels [3, H, W] in [-1, 1], and the features [P, C] behind them."""

    row: int
    image: int
    pixels_3HW: torch.Tensor
    features_PC: torch.Tensor


@dataclass(frozen=True)
class RowDone:
    """A row reached its end; `reason` is "end", "length", "context" or "images"."""

    row: int
    reason: str


@dataclass(frozen=True)
class StepDone:
    """A training step ended: `step` of `total`, with the figures it measured."""

    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


Event = Progress | Note | TextPiece | ImageBegun | PatchDone | ImageDone | RowDone | StepDone
