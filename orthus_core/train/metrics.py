"""Write the figures of a training: metrics.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from orthus_core.atomic import write_text
from orthus_core.errors import TrainingError

METRICS = "metrics.jsonl"
BOARD = "tensorboard"


class MetricsLogger:
    """Writes both under one folder; lines of an earlier run after the resumed step are removed.

    Args:
        folder: Folder of the training.
        start: Number of steps already done.
        tensorboard: Whether to write TensorBoard files too; "auto" does so if it is installed.
        earlier: Folder of the run that did those steps; `folder` by default.

    Raises:
        TrainingError: When TensorBoard is requested and not installed.
        OutputError: When the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        tensorboard: Literal["auto"] | bool,
        earlier: Path | None = None,
    ) -> None:
        self.path = folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        lines = lines_until((earlier or folder) / METRICS, start)
        write_text(self.path, "".join(line + "\n" for line in lines))
        self.board = open_board(folder / BOARD, start, tensorboard)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Write one line, and one point to each of TensorBoard's curves."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()


def lines_until(path: Path, step: int) -> list[str]:
    """The lines of a metrics file up to a step, without one that a killed run left incomplete."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def steps_of(path: Path) -> list[int]:
    """The steps of a metrics file's lines, in order; [] when there is none."""
    return [json.loads(line)["step"] for line in lines_until(path, sys.maxsize)]


def check_board(tensorboard: Literal["auto"] | bool) -> bool:
    """Whether TensorBoard files are to be written.

    Raises:
        TrainingError: When they are requested and TensorBoard is not installed.
    """
    if not tensorboard:
        return False
    if importlib.util.find_spec("tensorboard") is not None:
        return True
    if tensorboard == "auto":
        return False
    raise TrainingError(
        "log.tensorboard is true, and TensorBoard is not installed",
        where="log.tensorboard",
        hint='pip install tensorboard, or set it to "auto"',
    )


def open_board(folder: Path, start: int, tensorboard: Literal["auto"] | bool) -> Any:
    """TensorBoard's writer, or None.

    Raises:
        TrainingError: When it is requested and not installed.
    """
    if not check_board(tensorboard):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start + 1)
