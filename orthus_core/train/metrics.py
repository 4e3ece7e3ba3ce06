"""Write the figures of a training: metrics.jsonl, TensorBoard where it is installed, and the
trackers that a recipe names.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from orthus_core.atomic import write_text
from orthus_core.errors import TrainingError

METRICS = "metrics.jsonl"
BOARD = "tensorboard"
PROFILE = "profile"


class MetricsLogger:
    """Writes all of them; lines of an earlier run after the resumed step are removed.

    Args:
        folder: Folder of the training.
        start: Number of steps already done.
        tensorboard: Whether to write TensorBoard files too; "auto" does so if it is installed.
        earlier: Folder of the run that did those steps; `folder` by default.
        trackers: Trackers to tell as well (`check_trackers`).
        run: Identity of the run, by which a tracker goes on with it.
        about: What determines the training, for the trackers.

    Raises:
        TrainingError: When TensorBoard is requested and not installed, or a tracker does not begin.
        OutputError: When the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        tensorboard: Literal["auto"] | bool,
        earlier: Path | None = None,
        *,
        trackers: Sequence[str] = (),
        run: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        lines = lines_until((earlier or folder) / METRICS, start)
        write_text(self.path, "".join(line + "\n" for line in lines))
        self.board = open_board(folder / BOARD, start, tensorboard)
        self.trackers = {name: begun(name, folder, run, about or {}) for name in trackers}

    def write(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """Write one line, and one point to each curve; returns what to say of a tracker that fails,
        which is then left out.
        """
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()
        failed = {}
        for name, tracker in self.trackers.items():
            try:
                tracker.log(dict(figures), step=step)
            except Exception as error:  # such as a network that is down: the training goes on
                failed[name] = error
        for name in failed:
            del self.trackers[name]
        return [f"{name} is told no more figures: {error}" for name, error in failed.items()]

    def close(self) -> None:
        """End what the trackers have of this run."""
        for tracker in self.trackers.values():
            with suppress(Exception):  # the training is through, whatever they say
                tracker.finish()


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


PROJECT = "orthus"


def check_trackers(names: Sequence[str]) -> None:
    """Check that the trackers that a recipe names are there.

    Raises:
        TrainingError: For one that is not known, or not installed.
    """
    for name in names:
        tracker_class(name)


def tracker_class(name: str) -> type:
    """accelerate's class of a tracker. Raises: As `check_trackers`."""
    from accelerate import tracking

    known = {each: found for each, found in tracking.LOGGER_TYPE_TO_CLASS.items() if each != BOARD}
    if name not in known:
        also = ": log.tensorboard is the key for it" if name == BOARD else ""
        raise TrainingError(
            f"there is no tracker {name!r}{also}",
            where="log.trackers",
            hint=f"use one of {', '.join(known)}",
        )
    if name not in {str(each) for each in tracking.get_available_trackers()}:
        raise TrainingError(
            f"log.trackers names {name}, which is not installed",
            where="log.trackers",
            hint=f"pip install {name.replace('_', '-')}, or leave it out",
        )
    return known[name]


def begun(name: str, folder: Path, run: str, about: Mapping[str, Any]) -> Any:
    """A tracker that has begun.

    Raises:
        TrainingError: When it does not begin, as without an account.
    """
    taken = tracker_class(name)
    # Only the first process makes one, and it need not ask accelerate whether it is the first.
    made: Any = type(taken.__name__, (taken,), {"main_process_only": False})
    values = {k: v if isinstance(v, str | int | float) else str(v) for k, v in about.items()}
    options = {"wandb": {"id": run or None, "name": folder.stem, "resume": "allow"}}
    try:
        place = [str(folder / name)] if made.requires_logging_directory else []
        tracker = made(PROJECT, *place, **options.get(name, {}))
        tracker.start()
        tracker.store_init_configuration(values)
    except Exception as error:
        raise TrainingError(
            f"{name} does not begin: {error}",
            where="log.trackers",
            hint=f"set {name} up as it asks (an account, or its offline mode), or leave it out",
        ) from error
    return tracker
