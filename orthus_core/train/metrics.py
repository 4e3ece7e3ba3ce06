"""Where the figures of a training go: metrics.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from orthus_core.atomic import write_text
from orthus_core.errors import TrainingError

METRICS = "metrics.jsonl"
BOARD = "tensorboard"


class MetricsLogger:
    """Both, under one folder; what an earlier run wrote after the step it is resumed from goes.

    Args:
        folder: Of the training.
        start: Steps already done.
        tensorboard: Whether to write for TensorBoard too; "auto" does where it can be imported.
        earlier: The folder of the run that did those steps; this one by default.

    Raises:
        TrainingError: When TensorBoard is asked for and is not installed.
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
        """One line, and a point in each of TensorBoard's curves."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()


def lines_until(path: Path, step: int) -> list[str]:
    """The lines of a metrics file up to a step; one that a killed run left half written is none."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            continue
    return kept


def open_board(folder: Path, start: int, tensorboard: Literal["auto"] | bool) -> Any:
    """TensorBoard's writer, or None. Raises: TrainingError when it is asked for and missing."""
    if not tensorboard:
        return None
    if importlib.util.find_spec("tensorboard") is None:
        if tensorboard == "auto":
            return None
        raise TrainingError(
            "log.tensorboard is true, and TensorBoard is not installed",
            where="log.tensorboard",
            hint='pip install tensorboard, or set it to "auto"',
        )
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start + 1)
