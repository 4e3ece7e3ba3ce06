"""The one training loop. A stage says what is trained on what; the loop makes the steps, saves and
reports.

Every step's randomness is a function of (seed, step) alone, which makes a resumed training equal to
one that was never interrupted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from orthus_core.errors import TrainingError
from orthus_core.events import Event, Note, StepDone
from orthus_core.recipe.training import LogRecipe, OptimRecipe
from orthus_core.train.optim import WeightAverage, learning_rate, make_optimizer
from orthus_core.train.state import load_state, save_state, saved_steps, state_path


class Losses(Protocol):
    """What an objective returns: a named tuple whose `total` is minimised and whose other fields
    are reported.
    """

    @property
    def total(self) -> Tensor: ...

    def _asdict(self) -> dict[str, Any]: ...


class Stage(Protocol):
    """One kind of training.

    objective: The module whose forward(batch) gives Losses; its state is what a saved state holds.
    sixteen_bit: Whether its products may be taken in bf16 where the processor has it.
    """

    @property
    def objective(self) -> nn.Module: ...
    @property
    def sixteen_bit(self) -> bool: ...

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that move."""
        ...

    def batch(self, step: int) -> Any:
        """The rows of a step: a function of the step (and the stage's seed) alone."""
        ...

    def begin_step(self, step: int) -> list[nn.Parameter]:
        """Whatever has to change before a step, such as a temperature; returns parameters that were
        set anew.
        """
        ...

    def samples(self) -> Image.Image | None:
        """A sheet of pictures that shows where the training stands, or None."""
        ...


def has_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bf16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def train(
    stage: Stage,
    *,
    optim: OptimRecipe,
    log: LogRecipe,
    seed: int,
    folder: Path,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Run a stage to its last step; yields a StepDone a step and Notes between.

    Args:
        folder: Where states, metrics.jsonl and samples go. The model folder is the caller's to
            write.
        resume: Go on from the newest saved state, if there is one.
        should_stop: Asked after each step; when true the state is saved and the generator ends.

    Raises: TrainingError when a loss is not finite; the last saved state stays.
    """
    # 1. Everything that moves.
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device = accelerator.device
    bf16 = torch.autocast(
        device.type, torch.bfloat16, enabled=stage.sixteen_bit and has_bf16(device)
    )
    parameters = stage.trainable()
    optimizer = make_optimizer(parameters, optim)
    average = WeightAverage(parameters, optim.ema_decay)
    objective, optimizer = accelerator.prepare(stage.objective, optimizer)
    about = {"optim.batch_size": optim.batch_size, "optim.steps": optim.steps, "seed": seed}

    # 2. Where an earlier run left off.
    start = 0
    if resume and (done := saved_steps(folder)):
        path = state_path(folder, done[-1])
        start = load_state(path, stage.objective, optimizer, average, about=about)
        yield Note(f"resuming after step {start} of {optim.steps}")
    metrics = MetricsFile(folder / "metrics.jsonl", start)

    # 3. The steps.
    for step in range(start, optim.steps):
        seed_step(seed, step)
        average.restart(stage.begin_step(step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, step)
        figures: dict[str, float] = {"lr": learning_rate(optim, step)}
        for part in range(optim.accumulate):
            with bf16:
                losses = objective(stage.batch(step * optim.accumulate + part).to(device))
            check_finite(losses.total.detach(), step)
            accelerator.backward(losses.total / optim.accumulate)
            for name, value in losses._asdict().items():
                figures[name] = (
                    figures.get(name, 0.0)
                    + float(torch.as_tensor(value).detach()) / optim.accumulate
                )
        if optim.clip_norm:
            norm = accelerator.clip_grad_norm_(parameters, optim.clip_norm)
            assert norm is not None, "only XLA clips without telling"
            figures["grad_norm"] = float(norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)

        # 4. What is told, shown and kept.
        done_steps, last = step + 1, step + 1 == optim.steps
        stopping = should_stop()
        if done_steps % log.every == 0 or last:
            metrics.write(done_steps, figures)
        yield StepDone(done_steps, optim.steps, figures)
        if log.sample_every and (done_steps % log.sample_every == 0 or last):
            average.swap()
            save_samples(stage, folder / "samples", done_steps)
            average.swap()
        if last or stopping or (log.save_every and done_steps % log.save_every == 0):
            save_state(
                folder,
                done_steps,
                stage.objective,
                optimizer,
                average,
                keep_last=log.keep_last,
                about=about,
            )
        if stopping and not last:
            yield Note(
                f"stopped after step {done_steps}; the same command with --resume auto goes on"
            )
            return

    # 5. The average is what is kept.
    average.swap()


def seed_step(seed: int, step: int) -> None:
    """Set torch's own generators for one step, so that no state of them has to be saved."""
    torch.manual_seed((seed * 1_000_003 + step) % 2**63)


def check_finite(loss: Tensor, step: int) -> None:
    """Raises: TrainingError naming the step."""
    if not math.isfinite(float(loss)):
        raise TrainingError(
            f"the loss is {float(loss)} at step {step}",
            where=f"step {step}, batch {step}",
            hint="the last saved state is good: resume from it with a lower optim.lr",
        )


def save_samples(stage: Stage, folder: Path, step: int) -> None:
    """Write the stage's sheet as step-000500.png, if it has one."""
    stage.objective.eval()
    sheet = stage.samples()
    stage.objective.train()
    if sheet is not None:
        folder.mkdir(parents=True, exist_ok=True)
        sheet.save(folder / f"step-{step:06d}.png")


class MetricsFile:
    """metrics.jsonl, an object a line; lines after the step a run resumes from are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if start and path.exists():
            lines = path.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= start]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        os.replace(partial, path)

    def write(self, step: int, figures: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
