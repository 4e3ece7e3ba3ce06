"""A training folder belongs to one run: it is continued, begun anew, or refused by name.

The run's identity is written to `run.json` when it begins, and to each of its states. A run counts
as its own the states with its identity, and of the runs that it went on from those up to the step
where it did (its lineage). States of other runs are never resumed from and never deleted, unless
the whole folder is begun anew.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from orthus_core.atomic import real_path, write_text
from orthus_core.atomic_folder import check_folder
from orthus_core.checkpoint.headers import CONFIG, check_path
from orthus_core.errors import OutputError, TrainingError
from orthus_core.events import Note
from orthus_core.output_checks import probe_folder
from orthus_core.train.distributed import current_rank
from orthus_core.train.metrics import BOARD, METRICS, PROFILE, steps_of
from orthus_core.train.state import (
    ABOUT,
    BATCH_OF,
    CODES_OF,
    STATES,
    UNNAMED,
    Resume,
    check_same,
    origins_of,
    run_of,
    saved_steps,
    state_at,
    state_path,
    step_of,
)

# File of a training folder with its run's identity, and of a model folder with its training's.
RUN = "run.json"
SAMPLES = "samples"
# Folders of the two runs of a `pretrain`, in the training folder that any other run has to itself.
AUTOENCODER, TRANSFORMER = "autoencoder", "transformer"
RECORDED = ("id", "begun", "lineage", "source", "origins", "replacing")
# Origins that are only known when the model has been opened and all processes have met.
KNOWN_LATER = ("init_from", "devices", BATCH_OF, "rows", CODES_OF)

CONTINUE_OR_REPLACE = (
    "--resume auto goes on with it; --overwrite begins anew and removes its states, figures and "
    "samples; or choose another folder with -o"
)
REPLACE_OTHER = (
    "go on with it by the command and recipe that it was begun with; or begin anew: --overwrite, "
    "without --resume, removes its states, figures and samples; or choose another folder with -o"
)


@dataclass(frozen=True)
class TrainingRun:
    """One run in its folder.

    Attributes:
        folder: Folder of its states, figures and samples.
        id: Its identity.
        begun: When it began, as ISO time.
        lineage: Last step that counts as its own of each run that it went on from.
        source: The state that it began from; it goes on from there until it has saved one.
        origins: Everything that determines it; {} when that is not known yet.
        replacing: Whether the folder is being cleared of another run: then nothing else in it
            counts. It is in run.json, so that a killed process's clearing is completed.
        state: State to go on from; None to begin at step 0.
    """

    folder: Path
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    begun: str = field(default_factory=lambda: datetime.now().isoformat(" ", "seconds"))
    lineage: Mapping[str, int] = field(default_factory=dict)
    source: str | None = None
    origins: Mapping[str, Any] = field(default_factory=dict)
    replacing: bool = False
    state: Path | None = None

    def owns(self, state: Path) -> bool:
        """Whether a state of the folder is this run's, or of its lineage."""
        run = run_of(state)
        return run == self.id or step_of(state) <= self.lineage.get(run, -1)

    def steps(self) -> list[int]:
        """Steps of its own states, in ascending order."""
        found = saved_steps(self.folder)
        return [step for step in found if self.owns(state_path(self.folder, step))]

    def before(self) -> Mapping[str, Any]:
        """The origins that it has to keep: those of its state, or of its figures; {} where there
        are neither.

        Raises:
            TrainingError: When the state does not read.
        """
        if self.state is not None:
            return origins_of(self.state)
        return self.origins if not self.replacing and steps_of(self.folder / METRICS) else {}

    def check(
        self, origins: Mapping[str, Any], steps: int, *, length: str, but: Sequence[str] = ()
    ) -> None:
        """Check that it can go on.

        Args:
            origins: Everything that determines the training that is asked for.
            steps: Number of its steps.
            length: Key of that number, which may change.
            but: Origins that are not known yet.

        Raises:
            TrainingError: Names what has changed, or that the state is past the last step.
        """
        before = {name: value for name, value in self.before().items() if name not in but}
        where = self.state or self.folder / METRICS
        if before:
            check_same(before, origins, where, length=length)
        if self.state is not None and (step := step_of(self.state)) > steps:
            raise TrainingError(
                f"the saved state is after step {step}, and {length} = {steps} ends before it",
                where=str(where),
                hint=f"set {length} to {step} or more, or name an earlier state with --resume PATH",
            )

    def begin(self, start: int, origins: Mapping[str, Any], replaced: Sequence[Path] = ()) -> None:
        """Take the folder: write the identity down, and remove what the run replaces. Samples of
        steps after `start` are removed, since they are made again.

        Args:
            start: Step that the run goes on after.
            origins: Everything that determines it.
            replaced: Further training folders to clear.

        Raises:
            OutputError: When the folder cannot be written to.
        """
        values = asdict(self) | {"origins": dict(origins)}
        record = {name: values[name] for name in RECORDED}
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.replacing:
            write_text(self.folder / RUN, json.dumps(record | {"replacing": True}, indent=2))
            clear(self.folder)
        for folder in replaced:
            clear(folder)
            (folder / RUN).unlink(missing_ok=True)
        write_text(self.folder / RUN, json.dumps(record | {"replacing": False}, indent=2))
        for sample in (self.folder / SAMPLES).glob("step-*.png"):
            number = sample.stem.removeprefix("step-")
            if number.isdigit() and int(number) > start:
                sample.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove the states, figures and samples of a training folder. Features of pictures stay: they
    depend on the autoencoder, not on the run.
    """
    for name in (STATES, SAMPLES, BOARD, PROFILE):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / METRICS).unlink(missing_ok=True)


def plan_run(folder: Path, resume: Resume, *, overwrite: bool = False) -> TrainingRun:
    """The run that a training in `folder` is: begun, continued, or a branch of another one. Only
    reads.

    Args:
        resume: True continues the folder's run from its newest state, or begins one where there is
            none; a path goes on from the state it names (`state_at`). An earlier state of this
            folder makes later ones those of an abandoned run.
        overwrite: Whether a run that begins may replace one that is there. A run that is continued
            replaces nothing.

    Raises:
        OutputError: When the folder holds a run that is neither continued nor replaced, or states
            of which none can be said to be the newest of its run.
        TrainingError: As for `state_at`.
    """
    found = read_run(folder)
    if isinstance(resume, Path):
        state = state_at(resume)
        if state.parents[1].resolve() == folder.resolve():
            return _gone_back(folder, found, state)
        # A branch that has saved nothing yet begins again at the same state.
        again = found is not None and found.source == str(state) and not found.steps()
        if not overwrite and not again:
            check_free(folder, found)
        return TrainingRun(folder, source=str(state), replacing=True, state=state)
    if not resume:
        if not overwrite:
            check_free(folder, found)
        return TrainingRun(folder, replacing=True)
    run = found or _unnamed(folder)
    if steps := run.steps():
        return replace(run, state=state_path(folder, steps[-1]))
    return replace(run, state=state_at(Path(run.source)) if run.source else None)


def read_run(folder: Path) -> TrainingRun | None:
    """The run of a training folder or of a finished model; None when none is written down."""
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        known = {name: record[name] for name in RECORDED if name in record}
        return TrainingRun(folder, **known) if isinstance(known["id"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_free(folder: Path, found: TrainingRun | None) -> None:
    """Check that a folder holds no run with anything to lose.

    Raises:
        OutputError: Says what is there.
    """
    if there := _to_lose(folder, found):
        raise OutputError(
            f"there is a run here already, with {there}",
            where=str(folder),
            hint=CONTINUE_OR_REPLACE,
        )


def other_runs(work: Path, *own: Path) -> tuple[Path, ...]:
    """The folders in an output's training folder that hold runs of other commands.

    Args:
        work: The training folder.
        own: Folders of the runs of the command that asks.
    """
    folders = (work, work / AUTOENCODER, work / TRANSFORMER)
    return tuple(folder for folder in folders if folder not in own)


def check_others(others: Sequence[Path], resume: Resume, *, overwrite: bool) -> None:
    """Check that no run of another command (`other_runs`) would lie beside this one, unless this
    one begins and may replace it.

    Raises:
        OutputError: Says what is there.
    """
    if overwrite and not resume:
        return
    for folder in others:
        if there := _to_lose(folder, read_run(folder)):
            raise OutputError(
                f"there is a run of another command here already, with {there}",
                where=str(folder),
                hint=REPLACE_OTHER,
            )


def _to_lose(folder: Path, found: TrainingRun | None) -> str:
    """What a folder with this run holds; "" for nothing, or what has been given up."""
    if found is not None and found.replacing:
        return ""
    states, figures = saved_steps(folder), steps_of(folder / METRICS)
    if not states and not figures:
        return ""
    begun = f", begun {found.begun}" if found else ""
    if states:
        return f"states up to step {states[-1]}{begun}"
    return f"figures up to step {figures[-1]} and no state{begun}"


def _gone_back(folder: Path, found: TrainingRun | None, state: Path) -> TrainingRun:
    """The run that goes on from a state of its own folder: the same one at its newest state, and
    otherwise another, which shares the states up to that one.
    """
    step, of = step_of(state), run_of(state)
    if found and found.owns(state):
        if step == found.steps()[-1]:
            return replace(found, state=state)
        shared = {**found.lineage, found.id: step}
        lineage = {run: min(last, step) for run, last in shared.items()}
    else:
        lineage = {of: step}
    return TrainingRun(folder, lineage=lineage, source=str(state), state=state)


def _unnamed(folder: Path) -> TrainingRun:
    """The run of a folder without run.json, as earlier versions left it: all its states are of one
    run, unless they contradict.

    Raises:
        OutputError: When they do.
    """
    states = [state_path(folder, step) for step in saved_steps(folder)]
    runs = {run_of(state) for state in states}
    doubt = ""
    if len(runs) > 1:
        doubt = "they have different identities"
    elif runs == {UNNAMED}:
        doubt = _contradiction(folder, states)
    if doubt:
        steps = ", ".join(str(step_of(state)) for state in states)
        raise OutputError(
            f"the states here (after steps {steps}) are not of one run: {doubt}",
            where=str(folder),
            hint="name the one to go on from, as in --resume "
            f"{states[0]}; or begin anew with --overwrite in place of --resume",
        )
    if not states:
        return TrainingRun(folder)
    (run,) = runs
    if run == UNNAMED:
        return TrainingRun(folder, lineage={UNNAMED: step_of(states[-1])})
    return TrainingRun(folder, id=run)


def _contradiction(folder: Path, states: Sequence[Path]) -> str:
    """Why states without an identity cannot be of one run; "" when they can.

    A run saves later steps later, and its figures reach its newest state, but for the steps between
    two lines.
    """
    for one, other in pairwise(states):
        if (one / ABOUT).stat().st_mtime_ns > (other / ABOUT).stat().st_mtime_ns:
            return f"that of step {step_of(one)} was saved after that of step {step_of(other)}"
    figures = [0, *steps_of(folder / METRICS)]
    between = max((later - earlier for earlier, later in pairwise(figures)), default=0)
    last = step_of(states[-1])
    if between and last >= figures[-1] + between:
        return f"{METRICS} ends at step {figures[-1]}"
    return ""


def check_output(
    output: Path,
    run: TrainingRun,
    resume: Resume,
    steps: int,
    *,
    overwrite: bool,
    mark: str = CONFIG,
    parts: bool = True,
) -> bool:
    """Check that a run's model may be written to `output`; returns whether it is there already,
    complete, and need not be made again.

    A run that goes on replaces its own model, which has its identity in it.

    Args:
        mark: File that tells what may be replaced.
        parts: Whether each of several processes writes a part of a state; the model is written by
            the first alone.

    Raises:
        OutputError: When something else is there that may not be replaced, or the output or the
            folder of the run cannot be written to.
    """
    record = _model_record(output)
    own = bool(resume) and record.get("id") == run.id
    first = current_rank().is_first
    if first:
        check_path(real_path(output))  # as the model is written there
        check_folder(output, mark=mark, overwrite=overwrite or own)
    if first or parts:
        probe_folder(run.folder, "the training's states could not be written")
    return own and not overwrite and record.get("steps") == steps


def finished_note(output: Path, steps: int) -> Note:
    """What is said of a training that has nothing left to do."""
    return Note(
        f"this training is finished: {output} is its model after {steps} steps (more optim.steps "
        "go on, --overwrite writes the model again)"
    )


def may_replace(output: Path, folder: Path, *, overwrite: bool) -> bool:
    """Whether the finished model of the run in `folder` may replace what is at `output`."""
    run = read_run(folder)
    return overwrite or (run is not None and _model_record(output).get("id") == run.id)


def model_record(folder: Path, steps: int) -> dict[str, str]:
    """`run.json` of the model folder of the run in `folder`, by its name; nothing when the folder
    was lost, since that must not cost the model.
    """
    run = read_run(folder)
    if run is None:
        return {}
    record = {"id": run.id, "begun": run.begun, "steps": steps}
    return {RUN: json.dumps(record, indent=2) + "\n"}


def _model_record(output: Path) -> Mapping[str, Any]:
    try:
        record = json.loads((output / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
