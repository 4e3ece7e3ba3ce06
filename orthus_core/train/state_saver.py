"""Save the states of a training while it goes on, and go on from one with any number of processes.

A step waits only until what moves is copied to the CPU. A thread then writes the copies by
torch.distributed.checkpoint, with a process group of its own, so that its messages do not mix with
those of the training; the first process puts the folder in place once all have written. Weights
that do not move are those of the model that the training began with, which it opens again.
"""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from orthus_core.atomic import as_output_error
from orthus_core.atomic_folder import staged_folder
from orthus_core.device import is_out_of_memory
from orthus_core.errors import TrainingError
from orthus_core.output_checks import check_room
from orthus_core.recipe.training import OptimRecipe
from orthus_core.train.distributed import LONGEST_WAIT
from orthus_core.train.optim import WeightAverage, make_optimizers
from orthus_core.train.runs import TrainingRun
from orthus_core.train.sharded_tensors import is_sharded, local
from orthus_core.train.state import (
    ABOUT,
    broken_state,
    files_of,
    remove_state,
    run_of,
    state_path,
    step_of,
    training_folder,
)
from orthus_core.train.state_files import (
    CopiesPlanner,
    DamagedFile,
    FileRecord,
    FilesReader,
    FilesWriter,
    as_json,
)

T = TypeVar("T")

# The one file of a state that an earlier version saved.
EARLIER = "state.pt"
# First parts of the names of tensors in a state.
OBJECTIVE, OPTIMIZER, AVERAGE = "objective.", "optimizer.", "average."

NOT_SAVED = "cannot save the training state"
FREE_SPACE = "free some space, then run the same command with --resume auto"


class Moving(NamedTuple):
    """Everything that a training changes."""

    objective: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    average: WeightAverage

    def weights(self) -> dict[str, Tensor]:
        """The parameters that are trained and all buffers, by name; one with two names by its
        first.
        """
        return moving_weights(self.objective)

    def averages(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        name_of = {id(weight): name for name, weight in weights.items()}
        pairs = zip(self.average.parameters, self.average.averages, strict=False)
        return {AVERAGE + name_of[id(p)]: average for p, average in pairs}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a state, by name."""
        weights = self.weights()
        found = {OBJECTIVE + name: weight.detach() for name, weight in weights.items()}
        name_of = {id(weight): name for name, weight in weights.items()}
        for optimizer in self.optimizers:
            for parameter, values in optimizer.state.items():
                for name, value in values.items():
                    found[f"{OPTIMIZER}{name_of[id(parameter)]}.{name}"] = value
        return found | self.averages(weights)


def moving_weights(objective: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module that are trained and its buffers, by the names of its state."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, weight in objective.state_dict(keep_vars=True).items():
        if not isinstance(weight, nn.Parameter) or weight.requires_grad:
            found.setdefault(id(weight), (name, weight))
    return dict(found.values())


def state_bytes(
    objective: nn.Module, optim: OptimRecipe, trainable: Sequence[nn.Parameter] | None = None
) -> int:
    """Size of a state of a training of `objective`: weights that move, averages, and the moments of
    the optimisers, two of AdamW and one of Muon.

    Args:
        trainable: What the optimisers move; by default every parameter with a gradient.
    """
    parameters = trainable
    if parameters is None:
        parameters = [p for p in objective.parameters() if p.requires_grad]
    size = sum(weight.nbytes for weight in moving_weights(objective).values())
    for optimizer in make_optimizers(parameters, optim):
        held = (2 if isinstance(optimizer, torch.optim.AdamW) else 1) + bool(optim.ema_decay)
        size += held * sum(p.nbytes for group in optimizer.param_groups for p in group["params"])
    return size


def check_disk(
    output: Path,
    objective: nn.Module,
    optim: OptimRecipe,
    trainable: Sequence[nn.Parameter] | None = None,
) -> None:
    """Check that the disk has room for a state; arguments as for `state_bytes`.

    Raises:
        OutputError: When it does not.
    """
    check_room(training_folder(output), state_bytes(objective, optim, trainable))


class StateSaver:
    """Saves the states of one run, and loads the one that it goes on from.

    All processes of a training make the same calls. It is a context manager, which waits for what
    is being written.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._writing = Path()
        self._copies: dict[str, Tensor] = {}
        self._own_group: dist.ProcessGroup | None = None
        # One process without a group is what most trainings are.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)

    def __enter__(self) -> StateSaver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._join()
            if error is None:
                self.wait()
        finally:
            self._copies.clear()
            if self._own_group is not None and dist.is_initialized():
                dist.destroy_process_group(self._own_group)

    def attach(
        self,
        run: TrainingRun,
        objective: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        average: WeightAverage,
        *,
        keep_last: int,
        origins: Mapping[str, Any],
    ) -> None:
        """Say what is saved: a run, and what moves in it.

        Args:
            keep_last: Number of the run's own states that are kept.
            origins: Everything that determines the training.
        """
        self.run, self.keep_last, self.origins = run, keep_last, dict(origins)
        self.moving = Moving(objective, optimizers, average)

    # Saving.

    def save(self, step: int, *, wait: bool = False) -> None:
        """Save the state after `step` steps in the background, then delete the run's own states
        older than the `keep_last` up to this step. A state of another run in its place is copied to
        `of-RUN-step-000500` first.

        Args:
            wait: Whether to return only when it is saved.

        Raises:
            OutputError: When the disk is full or fails, for the state before this one or, with
                `wait`, for this one; existing states stay.
        """
        self.wait()
        tensors = {
            name: tensor
            for name, tensor in self.moving.tensors().items()
            if is_written_here(tensor, self._rank == 0)
        }
        self._copy(tensors)
        write = partial(self._write, step, tensors, self._group)
        self._writing = state_path(self.run.folder, step)
        # A daemon: a process that is ended need not finish a state, of which nothing is left.
        self._thread = threading.Thread(target=write, name=f"state {step}", daemon=True)
        self._thread.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait for the state that is being written.

        Raises:
            OutputError: When it could not be written.
        """
        self._join()
        error, self._failure = self._failure, None
        if error is not None:
            with as_output_error(self._writing, NOT_SAVED, FREE_SPACE):
                raise first_cause(error)

    def steps(self) -> list[int]:
        """Steps of the run's own states, once none is being written."""
        self._join()
        return self.run.steps()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _copy(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy this process's parts to memory that is kept for the next state: the pages of new
        memory take longer than the copy, and those that a card copies to at full speed much longer.
        """
        is_card = False
        for name, tensor in tensors.items():
            part = local(tensor.detach())
            copy = self._copies.get(name)
            if copy is None or copy.shape != part.shape or copy.dtype != part.dtype:
                copy = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
                self._copies[name] = copy
            copy.copy_(part, non_blocking=part.is_cuda)
            is_card |= part.is_cuda
        if is_card:
            torch.cuda.synchronize()

    def _write(
        self, step: int, tensors: dict[str, Tensor], group: dist.ProcessGroup | None
    ) -> None:
        """Write the copies; what goes wrong is kept for the next call of the main thread."""
        run, final = self.run, state_path(self.run.folder, step)
        staged = ExitStack()

        def begin() -> Path:
            keep_aside(run, final)
            folder = staged_folder(
                final, mark=None, overwrite=True, failure=NOT_SAVED, hint=FREE_SPACE
            )
            return staged.enter_context(folder)

        def end(folder: Path, files: Sequence[FileRecord]) -> None:
            about = {"step": step, "run": run.id, "origins": self.origins}
            (folder / ABOUT).write_text(json.dumps(about | {"files": as_json(files)}, indent=2))
            staged.close()  # puts it in place
            for old in [each for each in run.steps() if each <= step][: -self.keep_last]:
                remove_state(state_path(run.folder, old))

        try:
            with staged:
                save_parts(
                    dict(tensors),
                    storage_writer=FilesWriter(begin, end),
                    planner=CopiesPlanner(self._copies),
                    process_group=group,
                )
        except BaseException as error:
            self._failure = error

    # Loading.

    def load(self, path: Path) -> int:
        """Restore a saved state, of whatever number of processes, and return its number of steps.

        Raises:
            TrainingError: When the state is missing or broken, or of an earlier version and what
                moves is sharded.
        """
        step, files = step_of(path), files_of(path)
        if files is None and any(map(is_sharded, self.moving.weights().values())):
            raise TrainingError(
                "this state is of an earlier version, which saved whole tensors",
                where=str(path),
                hint="go on with one process until it has saved a state; that one goes on with any "
                "number of processes",
            )
        try:
            if files is None:
                self._load_earlier(path)
            else:
                reader = FilesReader(path, files)
                targets = self._together(lambda: self._targets(reader))
                load_parts(dict(targets), storage_reader=reader, process_group=self._group)
                self._take_moments(targets)
        except Exception as error:  # torch can raise anything for a broken file, or one of others
            if is_out_of_memory(error):
                raise
            raise broken_state(path, first_cause(error)) from error
        return step

    def _targets(self, reader: FilesReader) -> dict[str, Tensor]:
        """What a state is loaded into: the tensors that move, and new moments of the optimisers.

        Raises:
            DamagedFile: When a file is not what was written, or holds other tensors than those.
        """
        reader.check(reader.files[self._rank :: self._count])
        weights = self.moving.weights()
        targets = {OBJECTIVE + name: weight.detach() for name, weight in weights.items()}
        targets |= self.moving.averages(weights)
        stored = reader.tensors()
        for name in stored:
            parameter = weights.get(name.removeprefix(OPTIMIZER).rpartition(".")[0])
            if name.startswith(OPTIMIZER) and parameter is not None:
                is_moment = stored[name].size == parameter.shape
                like = parameter.detach() if is_moment else torch.zeros(stored[name].size)
                targets[name] = torch.zeros_like(like, dtype=stored[name].properties.dtype)
        for name, target in targets.items():
            if name not in stored:
                raise DamagedFile(f"it has no {name}")
            if stored[name].size != target.shape:
                shapes = [list(size) for size in (stored[name].size, target.shape)]
                raise DamagedFile(f"{name} has the shape {shapes[0]}, not {shapes[1]}")
        if others := sorted(stored.keys() - targets.keys()):
            raise DamagedFile(f"it has {others[0]}, which does not move here")
        return targets

    def _take_moments(self, targets: Mapping[str, Tensor]) -> None:
        name_of = {id(weight): name for name, weight in self.moving.weights().items()}
        states: dict[str, dict[str, Tensor]] = {}
        for name, value in targets.items():
            if name.startswith(OPTIMIZER):
                parameter, _, moment = name.removeprefix(OPTIMIZER).rpartition(".")
                states.setdefault(parameter, {})[moment] = value
        for optimizer in self.moving.optimizers:
            numbered = enumerate(p for group in optimizer.param_groups for p in group["params"])
            names = {number: name_of[id(parameter)] for number, parameter in numbered}
            state = {number: states[name] for number, name in names.items() if name in states}
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _load_earlier(self, path: Path) -> None:
        """Restore the one file of an earlier version, which holds frozen weights as well."""
        objective, optimizers, average = self.moving
        state = torch.load(path / EARLIER, map_location="cpu", weights_only=True)
        kept = state["objective"]
        if absent := [name for name in self.moving.weights() if name not in kept]:
            raise DamagedFile(f"it has no {absent[0]}")
        if others := sorted(kept.keys() - objective.state_dict().keys()):
            raise DamagedFile(f"it has {others[0]}, which is not here")
        objective.load_state_dict(kept, strict=False)
        for optimizer, moments in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        average.load(state["average"])

    # Several processes.

    @property
    def _group(self) -> dist.ProcessGroup | None:
        """A group for states alone; None for one process that has none."""
        if self._own_group is None and dist.is_available() and dist.is_initialized():
            group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
            assert isinstance(group, dist.ProcessGroup), "every process is in it"
            self._own_group = group
        return self._own_group

    @property
    def _rank(self) -> int:
        return dist.get_rank(self._group) if self._group else 0

    @property
    def _count(self) -> int:
        return dist.get_world_size(self._group) if self._group else 1

    def _together(self, work: Callable[[], T]) -> T:
        """Do work on all processes; an error of one is an error of all."""
        result: T | None = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        if self._count > 1:
            errors: list[str | None] = [None] * self._count
            dist.all_gather_object(errors, error and str(error), group=self._group)
            error = error or next((DamagedFile(text) for text in errors if text is not None), None)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # the work's own


def keep_aside(run: TrainingRun, final: Path) -> None:
    """Copy the state of another run, in whose place one is saved."""
    if (final / ABOUT).is_file() and not run.owns(final):
        kept = final.with_name(f"of-{run_of(final)[:8] or 'earlier'}-{final.name}")
        shutil.copytree(final, kept, dirs_exist_ok=True)


def is_written_here(tensor: Any, is_first: bool) -> bool:
    """Whether this process writes its part of a tensor: of equal parts one is written, and the
    first process writes what is not sharded.
    """
    if not is_sharded(tensor):
        return is_first
    place = tensor.device_mesh.get_coordinate()
    return place is not None and all(
        number == 0 or not placement.is_replicate()
        for number, placement in zip(place, tensor.placements, strict=True)
    )


def first_cause(error: BaseException) -> BaseException:
    """What went wrong first on one of the processes."""
    while isinstance(error, CheckpointException):
        error = error.failures[min(error.failures)][0]
    return error
