"""The training loop. A stage defines what is trained and on which data; the loop runs the steps,
measures, saves and reports.

Every step's randomness depends on (seed, step) alone, so that a resumed training equals an
uninterrupted one. What is drawn for a picture of a row depends on (seed, number of the row), so
that it does not matter which process has the row (`losses.picture_noise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from orthus_core.atomic import output_error
from orthus_core.data.row_faults import RowFault, RowFaults
from orthus_core.device import has_bf16
from orthus_core.errors import OrthusError, OutputError, TrainingError
from orthus_core.events import Event, Note, StepDone
from orthus_core.recipe.training import DevicesRecipe, LogRecipe, OptimRecipe
from orthus_core.train.batches import VALIDATION_SEED
from orthus_core.train.distributed import (
    all_reduce_mean,
    anywhere,
    current_rank,
    gather_each,
    gather_lists,
)
from orthus_core.train.distributed import device as own_device
from orthus_core.train.metrics import PROFILE, MetricsLogger, check_board, check_trackers
from orthus_core.train.optim import WeightAverage, learning_rate, make_optimizers
from orthus_core.train.runs import TrainingRun, plan_run
from orthus_core.train.sharded_tensors import local
from orthus_core.train.sharding import (
    NoRoomToDraw,
    check_alike,
    check_averages,
    lay_out,
    some_weights,
)
from orthus_core.train.state import BATCH_OF, Resume, saved_steps
from orthus_core.train.state_saver import StateSaver, moving_weights
from orthus_core.train.throughput import (
    BACKWARD,
    DATA,
    FORWARD,
    MEASURING,
    OPTIMISER,
    REST,
    SAVING,
    Meter,
)

Stop = Callable[[], bool]
"""Asked after each step whether to save the state and end."""

Before = Callable[[int, int], Iterator[Event]]
"""Work before batch `start` of a training that has so many batches."""


class Losses(Protocol):
    """The result of an objective: a named tuple whose `total` is minimised and whose other fields
    are reported unless they are None.
    """

    @property
    def total(self) -> Tensor: ...

    def _asdict(self) -> dict[str, Any]: ...


class Report(Protocol):
    """Counts the rows of a training that cannot be used, and says how far it has read.

    Attributes:
        faults: Rows that cannot be used.
    """

    @property
    def faults(self) -> RowFaults: ...

    def figures(self, batches: int) -> Mapping[str, float]:
        """Figures after so many batches, for metrics.jsonl."""
        ...

    def summary(self, batches: int) -> Iterator[str]:
        """Lines for the end of the training, after so many batches."""
        ...


class HasStates(Protocol):
    """What has saved states: a run, or the saver of its states."""

    def steps(self) -> list[int]:
        """Steps of the states, in ascending order."""
        ...


class Stage(Protocol):
    """One kind of training.

    Attributes:
        objective: Module whose forward returns Losses; a saved state holds what moves in it: the
            parameters that are trained, and all buffers.
        sixteen_bit: Whether its products may use bf16 where that is faster (`has_bf16`).
        report: Counts the rows that cannot be used; None for data that is made.
    """

    @property
    def objective(self) -> nn.Module: ...
    @property
    def sixteen_bit(self) -> bool: ...
    @property
    def report(self) -> Report | None: ...

    def trainable(self) -> list[nn.Parameter]:
        """The parameters to train."""
        ...

    def parts(self, step: int, count: int) -> Sequence[tuple[Any, ...]]:
        """The batches of a step, `count` of them, each with the objective's further arguments. They
        depend on the step (and the stage's seed) alone.
        """
        ...

    def held_out(self) -> Sequence[tuple[Any, ...]]:
        """This process's batches that are never trained on, equal at each call; none on any process
        when nothing is held out.
        """
        ...

    def begin_step(self, step: int) -> list[nn.Parameter]:
        """Apply changes before a step, such as a temperature; returns parameters that were
        reinitialised.
        """
        ...

    def samples(self) -> Image.Image | None:
        """A sheet of pictures that shows the progress of the training, or None."""
        ...


@runtime_checkable
class MeasuresWords(Protocol):
    """A stage that measures held-out pictures with different words."""

    def held_out_by_words(self) -> Mapping[str, Sequence[tuple[Any, ...]]]:
        """This process's batches for each way, equal at each call, by the name under which their
        image loss is reported; {} on every process when there is nothing to compare.
        """
        ...


def train(
    stage: Stage,
    *,
    optim: OptimRecipe,
    log: LogRecipe,
    devices: DevicesRecipe = DevicesRecipe(),  # noqa: B008  # it is frozen
    seed: int,
    folder: Path,
    origins: Mapping[str, Any] | None = None,
    length: str = "optim.steps",
    interpolation: float = 1.0,
    resume: Resume = False,
    overwrite: bool = False,
    replaced: Sequence[Path] = (),
    before: Before | None = None,
    profile: bool = False,
    should_stop: Stop = lambda: False,
) -> Generator[Event, None, bool]:
    """Run a stage to its last step; yields one StepDone per step and Notes in between. Returns
    whether the model is to be written: false after a stop, which a Note says.

    Args:
        devices: How several processes share what is trained.
        folder: Folder for states, metrics.jsonl and samples. The caller writes the model folder.
        origins: Everything that determines the training (`state.origins`). A state that was saved
            with different values cannot be resumed.
        length: Key of `optim.steps` among the origins, the only one that may change.
        interpolation: Share of the way from the first weights to the trained ones that is sampled,
            measured and kept at the end (`WeightAverage`).
        resume: True continues from the newest saved state of the run in `folder`, if there is one;
            a path from the state it names (`state_at`), with a copy of that run's earlier figures.
        overwrite: Whether a run that begins may replace one in `folder` (`plan_run`).
        replaced: Further training folders to clear when this training begins.
        before: Work before the first step, once it is certain that the training begins or goes on.
        profile: Whether the first process writes a trace of some steps, and where the time went, to
            `folder`/profile.
        should_stop: Called after each step, and at the end; when true, the state is saved and the
            generator ends.

    Raises:
        OutputError: When `folder` holds a run that is neither continued nor replaced.
        TrainingError: When a loss or a gradient is not finite (the last saved state stays), or when
            there is no state to resume from or it is of another training.
    """
    with StateSaver() as saver:  # in any case waits for the state that is being written
        return (
            yield from train_steps(
                stage,
                saver,
                optim=optim,
                log=log,
                devices=devices,
                seed=seed,
                folder=folder,
                origins=origins or {},
                length=length,
                interpolation=interpolation,
                resume=resume,
                overwrite=overwrite,
                replaced=replaced,
                before=before,
                profile=profile,
                should_stop=should_stop,
            )
        )


def train_steps(
    stage: Stage,
    saver: StateSaver,
    *,
    optim: OptimRecipe,
    log: LogRecipe,
    devices: DevicesRecipe,
    seed: int,
    folder: Path,
    origins: Mapping[str, Any],
    length: str,
    interpolation: float,
    resume: Resume,
    overwrite: bool,
    replaced: Sequence[Path],
    before: Before | None,
    profile: bool,
    should_stop: Stop,
) -> Generator[Event, None, bool]:
    """The training that `train` describes, with a saver of its states."""
    # 1. Set up everything that is trained, once all processes are about to do the same.
    place, device = current_rank(), own_device()
    sixteen_bit = stage.sixteen_bit and has_bf16(device)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=sixteen_bit)
    objective = stage.objective.to(device)
    origins = {**origins, "devices": place.shards}
    if place.shards > 1:
        # States of versions in which every device had a batch of its own do not tell this.
        origins[BATCH_OF] = "all devices"
    run = plan_run(folder, resume, overwrite=overwrite)
    run.check(origins, optim.steps, length=length)
    if place.shards > 1:
        weights = some_weights(list(moving_weights(stage.objective).values()))
        state = run.state and str(run.state)
        facts = {"the versions": versions(), "the weights": weights, "the saved state": state}
        check_alike(facts | origins)
        check_averages(device)
        run = gather_each(run)[0]  # a run that begins has one identity
    layout = lay_out(objective, stage.trainable(), devices, device, sixteen_bit=sixteen_bit)
    optimizers = make_optimizers(layout.parameters, optim)
    average = WeightAverage(layout.parameters, optim.ema_decay, interpolation)

    # 2. Load the state of an earlier run, and only then take the folder.
    saver.attach(
        run,
        stage.objective,
        optimizers,
        average,
        keep_last=log.keep_last,
        origins=origins,
    )
    start = 0
    if run.state is not None:
        start = saver.load(run.state)
        yield Note(f"resuming after step {start} of {optim.steps}")
    yield from notes_on(run, origins, optim, length, start)
    check_board(log.tensorboard)
    check_trackers(log.trackers)
    book = None
    if place.is_first:
        earlier = folder if run.state is None else run.state.parents[1]
        run.begin(start, origins, replaced)
        book = MetricsLogger(
            *(folder, start, log.tensorboard, earlier),
            trackers=log.trackers,
            run=run.id,
            about=origins,
        )

    if before is not None and start < optim.steps:
        yield from before(start * optim.accumulate, optim.steps * optim.accumulate)

    # 3. Run the steps.
    lost: list[str] = []
    meter, speed = Meter(stage.objective, device), dict[str, float]()
    profiler = None
    if profile and place.is_first:
        from orthus_core.train.profiler import StepProfiler

        profiler = StepProfiler(folder / PROFILE, meter)
    for step in range(start, optim.steps):
        if profiler:
            profiler.begin_step()
        seed_step(seed, step, place.shard)
        average.restart(stage.begin_step(step))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(optim, step)
        parts: list[Losses] = []
        layout.share_buffers()
        meter.enter(DATA)
        for batch, *more in stage.parts(step, optim.accumulate):
            meter.count(batch)
            meter.enter(FORWARD)
            with bf16:
                losses = objective(batch.to(device), *more)
            meter.enter(BACKWARD)
            layout.backward(losses.total / optim.accumulate)
            parts.append(losses)
        layout.average_gradients()
        meter.enter(OPTIMISER)
        # Even without a limit the norm is measured: it must be finite before a step.
        norm = layout.clip(optim.clip_norm or math.inf)
        unchanged = stage.objective if step == start else None
        # Read last, so that a GPU can queue the whole step before the CPU waits for it.
        sums: dict[str, float] = {}
        for number, found in enumerate(over_processes(parts), start=step * optim.accumulate):
            check_finite(found["total"], "loss", step, number, saver, unchanged)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
        check_finite(float(norm), "gradient", step, step * optim.accumulate, saver, unchanged)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        layout.end_step()
        average.update(step)
        meter.enter(REST)

        # 4. Measure, report, save and sample.
        done, last = step + 1, step + 1 == optim.steps
        met = new_faults(stage.report)
        if stage.report:
            yield from (Note(f"left out: {fault}") for fault in stage.report.faults.named(met))
        figures = {"lr": learning_rate(optim, step)}
        figures |= {name: value / optim.accumulate for name, value in sums.items()}
        figures["grad_norm"] = float(norm)
        measured: dict[str, float] = {}
        if due(log.validate_every, done, optim.steps):
            meter.enter(MEASURING)
            average.swap()
            with bf16:
                measured = validate(stage, device)
            layout.after_evaluation()
            average.swap()
            meter.enter(REST)
        if due(log.every, done, optim.steps) or measured or met:
            speed = meter.figures()
            if book:
                of_data = stage.report.figures(done * optim.accumulate) if stage.report else {}
                with unless_last(last, lost):
                    line = {**figures, **measured, **of_data, **speed}
                    yield from map(Note, book.write(done, line))
        yield StepDone(done, optim.steps, figures | measured, speed)
        if measured:
            means = (f"{n.partition('_')[2]} {value:.4g}" for n, value in measured.items())
            yield Note(f"on held-out rows after step {done}: {', '.join(means)}")
        stopping = anywhere(should_stop())
        if last or stopping or due(log.save_every, done, optim.steps):
            meter.enter(SAVING)
            with unless_last(last, lost):
                saver.save(done, wait=last or stopping)
            meter.enter(REST)
        if (place.is_first or layout.is_sharded) and due(log.sample_every, done, optim.steps):
            meter.enter(MEASURING)
            average.swap()
            try:
                with unless_last(last, lost):
                    save_samples(stage, folder / "samples", done)
            except NoRoomToDraw as error:
                yield Note(str(error))
            except OutputError:
                raise
            except OrthusError as error:  # a picture to look at must not cost the training
                yield Note(f"there is no sheet of samples after step {done}: {error.message}")
            average.swap()
            meter.enter(REST)
        if profiler:
            yield from map(Note, profiler.end_step())
        if stopping or last:
            yield from map(Note, profiler.finish() if profiler else [])
            if book:
                book.close()
        if stopping and not last:
            yield from data_summary(stage.report, done * optim.accumulate)
            yield Note(f"stopped after step {done}; the same command with --resume auto goes on")
            return False

    # 5. Keep the average, or what is between it and the first weights.
    for message in lost:
        yield Note(f"not saved at the last step: {message}")
    layout.share_buffers()
    average.swap()
    yield from data_summary(stage.report, optim.steps * optim.accumulate)
    # Asked once for the caller too, so that a stop at any moment is either noted or too late.
    stopping = anywhere(should_stop())
    if stopping:
        yield Note(
            f"stopped after the last step, {optim.steps}, and the model is not written yet; the "
            "same command with --resume auto writes it"
        )
    return not stopping


def new_faults(report: Report | None) -> list[RowFault]:
    """The rows that any process has newly found to be unusable, counted on each of them."""
    if report is None:
        return []
    own = report.faults.take()
    known = set(own)
    others = [fault for fault in gather_lists(own) if fault not in known]
    report.faults.merge(others)
    return own + report.faults.take()


def data_summary(report: Report | None, batches: int) -> Iterator[Note]:
    """Notes on the data that was read in so many batches."""
    if report is not None:
        yield from map(Note, report.summary(batches))


@contextmanager
def unless_last(last: bool, lost: list[str]) -> Iterator[None]:
    """Write something of a step. At the last step a failure only adds its message to `lost`: the
    model is still to be written, perhaps elsewhere.

    Raises:
        OutputError: When it cannot be written, before the last step.
    """
    try:
        yield
    except (OSError, OutputError) as error:
        failed = error if isinstance(error, OutputError) else output_error(error)
        if not last:
            raise failed from error
        lost.append(f"{failed.message} ({failed.where})")


def notes_on(
    run: TrainingRun, origins: Mapping[str, Any], optim: OptimRecipe, length: str, start: int
) -> Iterator[Note]:
    """What a user has to know of a run that goes on after `start` steps: another length, and states
    of other runs.
    """
    before = run.before().get(length, optim.steps)
    if before != optim.steps:
        # A trapezoid follows its length only where it falls.
        full = before - optim.decay_steps + 1  # steps at the full rate
        fell = optim.schedule == "trapezoid" and start > full
        scheduled = ["learning rate"] * (optim.schedule == "cosine" or fell)
        if origins.get("temperature.start") != origins.get("temperature.end"):
            scheduled.append("temperature")
        follow = (
            f"; the {' and the '.join(scheduled)} of each step from here on follow the new length, "
            "so the result is not that of a training of this length from its beginning"
        )
        if fell:
            follow += (
                f": the rate had begun to fall after step {full}, and a state up to there goes on "
                "without a trace of it"
            )
        yield Note(f"{length} was {before}, now {optim.steps}{follow if scheduled else ''}")
    own = set(run.steps())
    others = [step for step in saved_steps(run.folder) if step not in own]
    if others and not run.replacing:
        steps = ", ".join(map(str, others))
        yield Note(f"states of another run are left as they are: after steps {steps}")


def due(every: int, done: int, steps: int) -> bool:
    """Whether something is due after `done` of `steps` steps: at every multiple of `every` and at
    the end, and never when `every` is 0.
    """
    return bool(every) and (done % every == 0 or done == steps)


def seed_step(seed: int, step: int, shard: int = 0) -> None:
    """Seed torch's own generators for one step of one process, so that their state need not be
    saved.

    What they draw differs by process: the dropout of adapters, the noise of `pretrain`'s
    autoencoder, and what loss terms of others draw.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 4_099 + shard) % 2**63)


def figures_of(losses: Losses) -> dict[str, float]:
    """The figures of one batch of this process."""
    found = losses._asdict().items()
    return {n: float(torch.as_tensor(v).detach()) for n, v in found if v is not None}


def over_processes(parts: Sequence[Losses]) -> list[dict[str, float]]:
    """The figures of each batch of a step, as means over the processes.

    Losses are divided by mean counts, so the mean of a process's sums is that of the whole batch.
    """
    found = [figures_of(losses) for losses in parts]
    values = [value for figures in found for value in figures.values()]
    following = iter(all_reduce_mean(torch.tensor(values, dtype=torch.float64)).tolist())
    return [{name: next(following) for name in figures} for figures in found]


def versions() -> str:
    """The versions that the processes of a training must have in common."""
    import transformers

    import orthus_core

    return f"orthus {orthus_core.__version__}, torch {torch.__version__}, transformers " + (
        transformers.__version__
    )


def check_finite(
    value: float,
    name: str,
    step: int,
    batch: int,
    run: HasStates,
    unchanged: nn.Module | None = None,
) -> None:
    """Check that a value is finite.

    Args:
        value: The loss, or the norm of the gradient.
        name: What it is.
        step, batch: Where it was measured.
        run: The run, whose saved states the hint names, or what saves them.
        unchanged: What is trained, while this run has not changed it: then the learning rate is
            not the cause.

    Raises:
        TrainingError: Names the step and the batch when it is not.
    """
    if math.isfinite(value):
        return
    where = f"step {step}, batch {batch}"
    said = f"the {name} is {value} at step {step}, in batch {batch}"
    if unchanged is not None:
        weights = unchanged.named_parameters()
        wrong = gather_lists([n for n, w in weights if not local(w.detach()).isfinite().all()])
        raise TrainingError(
            said + (f", because weights are no numbers: {wrong[0]}" if wrong else ""),
            where=where,
            hint="the weights were like that when it began: begin with another model or state"
            if wrong
            else "it was the first step, so optim.lr is not the cause: look at the rows of that "
            "batch, and at the weights of the losses",
        )
    saved = run.steps()
    raise TrainingError(
        said,
        where=where,
        hint=f"--resume auto goes on after step {saved[-1]}, the last good state; should it happen "
        "again, begin anew with --overwrite and a lower optim.lr"
        if saved
        else "no state was saved before it: begin anew with --overwrite and a lower optim.lr",
    )


@contextmanager
def at_rest(objective: nn.Module) -> Iterator[None]:
    """The objective as it measures and draws, for as long as this lasts: without what is random in
    training alone. It trains again even where nothing could be drawn.
    """
    objective.eval()
    try:
        yield
    finally:
        objective.train()


@torch.no_grad()
def validate(stage: Stage, device: torch.device) -> dict[str, float]:
    """Mean losses on the rows that are never trained on, as `validation_*`; for a stage that
    `MeasuresWords`, also the image loss of its pictures with each choice of words.
    """
    by_words = stage.held_out_by_words() if isinstance(stage, MeasuresWords) else {}
    with at_rest(stage.objective):
        images = {
            name: means_over(stage.objective, parts, device)["image"]
            for name, parts in by_words.items()
        }
        # Last, so that torch's own generator is left in the same state with and without the others.
        found = means_over(stage.objective, stage.held_out(), device) | images
    return {f"validation_{name}": value for name, value in found.items()}


def means_over(
    objective: nn.Module, parts: Sequence[tuple[Any, ...]], device: torch.device
) -> dict[str, float]:
    """Mean losses over the batches of all processes, always with the same random numbers."""
    torch.manual_seed(VALIDATION_SEED)
    found: list[tuple[int, dict[str, float]]] = []
    for batch, *more in parts:
        # Losses of rows are divided by counts already; those of pictures are means over them.
        count = len(batch) if isinstance(batch, Tensor) else 1
        found.append((count, figures_of(objective(batch.to(device), *more))))
    found = gather_lists(found)
    total = sum(count for count, _ in found)
    names = dict.fromkeys(name for _, figures in found for name in figures)
    return {name: sum(n * figures.get(name, 0.0) for n, figures in found) / total for name in names}


def save_samples(stage: Stage, folder: Path, step: int) -> None:
    """Write the stage's sample sheet as step-000500.png, if it has one."""
    with at_rest(stage.objective):
        sheet = stage.samples()
    if sheet is not None:
        folder.mkdir(parents=True, exist_ok=True)
        sheet.save(folder / f"step-{step:06d}.png")
