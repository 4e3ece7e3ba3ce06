"""Time grids of a model: for each number of steps, the times that a solver should step over.

    1. Contexts are recorded while the model draws.                     contexts.py
    2. Half of them give the error of every possible step.              step_errors.py
    3. The grids whose steps miss least are chosen, for all N at once.  best_grids.py
    4. The other half measure the end of each grid against that of the solver's own times, and the
       better of the two is kept.
    5. They are stored with the noise schedule they hold for, among the sampling defaults of a copy
       of the model's folder.

Nothing is trained. UniPC's grids count the errors of its forward step alone, which is that of
DPM-Solver++; its corrector makes them smaller.

Legend: N contexts, C feature channels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from orthus_core.atomic import real_path
from orthus_core.atomic_folder import check_folder, staged_folder
from orthus_core.checkpoint.headers import CONFIG, MODEL_FILES, check_path
from orthus_core.checkpoint.layout import read_json
from orthus_core.checkpoint.model_folder import Opened, check_orthus
from orthus_core.data.known_words import KnownWords
from orthus_core.distill.best_grids import best_grids
from orthus_core.distill.contexts import PICTURES, PROMPTS, Contexts, record_contexts
from orthus_core.distill.step_errors import FINE_SOLVER, fine_paths, fine_times, step_errors
from orthus_core.errors import CheckpointError, PromptError
from orthus_core.events import Progress
from orthus_core.model.config import OrthusConfig
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.output_checks import check_room
from orthus_core.recipe.solver_registry import SOLVERS, check_name
from orthus_core.samplers.params import PRESETS, SamplingParams, schedule_record
from orthus_core.samplers.patch_sampler import draw_patches, patch_plan
from orthus_core.samplers.prompt_builder import PromptBuilder

FIRST_ORDER = ("ddim",)
"""Solvers whose step uses no older estimate."""

# Seeds of the noise: of the contexts' pictures, of the paths, and of the paths that measure.
DRAWN, MEASURED_ON, HELD_OUT = 0, 1, 2


class GridError(NamedTuple):
    """How far runs of some number of steps end from the fine paths' end, relative to its size.

    Attributes:
        own: Error with the solver's own times.
        grid: Error with the grid that was found.
    """

    steps: int
    own: float
    grid: float

    @property
    def is_kept(self) -> bool:
        """Whether the grid is the better one."""
        return self.grid < self.own


class TimeGrids(NamedTuple):
    """The grids of one solver.

    Attributes:
        times: The timesteps, by number of steps.
        errors: The errors on contexts that were not used to find them.
        guidance: Guidance that the contexts were drawn with.
    """

    solver: str
    times: dict[int, tuple[int, ...]]
    errors: tuple[GridError, ...]
    guidance: float


def solvers_of_presets() -> dict[str, int]:
    """The solvers of the presets that take a grid, and the most steps of each."""
    return {
        preset.scheduler: preset.steps
        for preset in PRESETS.values()
        if preset.takes_grid and preset.scheduler and preset.steps
    }


def check_solvers(solvers: Sequence[str]) -> None:
    """Raises: PromptError for a solver that does not exist or takes no time grid."""
    able = [name for name, entry in SOLVERS.items() if entry.takes_grid and entry.stops_early]
    for name in solvers:
        check_name(name)
        if name not in able:
            raise PromptError(
                f"{name} steps over its own timesteps, so it has no best ones",
                where="scheduler",
                hint=f"use one of {', '.join(able)}",
            )


def find_time_grids(
    opened: Opened,
    solvers: dict[str, int],
    *,
    prompts: Sequence[str] = (),
    guidance: float | None = None,
    contexts: int = 256,
) -> Iterator[Progress | TimeGrids]:
    """The best grids of a model.

    Args:
        opened: An Orthus with a diffusion head.
        solvers: Most steps of each solver's grids.
        prompts: Texts to draw for the contexts; by default things that the model lists, or
            `PROMPTS`.
        guidance: Guidance to draw with; the model's own by default.
        contexts: Contexts to record; half of them measure.

    Yields: Progress, and the grids of each solver in turn.

    Raises:
        PromptError: As `check_solvers`, and as `generate`.
        CheckpointError: When the model has nothing to denoise, or no tokenizer.
    """
    check_solvers([*solvers])
    model = opened.model
    config = check_orthus(model.config, opened.path)
    if not config.denoises:
        raise CheckpointError(
            "this model's head regresses a feature at once, so there are no steps to place",
            where=str(opened.path),
            hint="time grids are for a diffusion head",
        )
    assert isinstance(model, OrthusForConditionalGeneration), "as its configuration says"
    params = SamplingParams.resolve(config, preset="turbo", time_grid=(), guidance=guidance)
    recorded: list[Contexts] = []
    asked = [*_prompts(opened, prompts, params)]
    for event in record_contexts(model, asked, params, contexts):
        if isinstance(event, Progress):
            yield event
        else:
            recorded = event
    yield from grids_of_contexts(model, recorded, solvers, params)


def grids_of_contexts(
    model: OrthusForConditionalGeneration,
    contexts: Sequence[Contexts],
    solvers: dict[str, int],
    params: SamplingParams,
) -> Iterator[Progress | TimeGrids]:
    """The best grids for these contexts; every second one measures.

    Yields: As `find_time_grids`.
    """
    head, channels = DenoisingHead(model.diffusion_head), model.config.feature_channels
    times_T = fine_times(model.schedule.num_timesteps)
    acts = params.guidance_interval
    fine = patch_plan(model, len(times_T), FINE_SOLVER, head, times_T.tolist(), acts)
    used, aside = contexts[::2], contexts[1::2] or contexts
    paths = fine_paths(fine, used, channels, params.noise_scale, MEASURED_ON)
    measure = _HeldOut(model, head, aside, params, times_T.tolist())
    errors: dict[bool, np.ndarray] = {}
    for solver, most in solvers.items():
        remembers = solver not in FIRST_ORDER
        if remembers not in errors:
            errors[remembers] = step_errors(model.schedule, times_T, paths, remembers=remembers)
        chosen, measured = {}, []
        for found in best_grids(errors[remembers], most):
            times = tuple(times_T[list(found.places)].tolist())
            steps = len(times)
            own, own_error = measure(solver, steps, None)
            _, error = measure(solver, steps, times)
            measured.append(GridError(steps, own_error, error))
            chosen[steps] = times if measured[-1].is_kept else own
            yield Progress(f"grids of {solver}", steps, min(most, len(times_T)), "steps")
        yield TimeGrids(solver, chosen, tuple(measured), params.guidance)


class _HeldOut:
    """Ends of runs against the ends of fine paths, on contexts that no grid was chosen by."""

    def __init__(
        self,
        model: OrthusForConditionalGeneration,
        head: DenoisingHead,
        contexts: Sequence[Contexts],
        params: SamplingParams,
        fine: Sequence[int],
    ) -> None:
        self._model, self._head, self._contexts = model, head, contexts
        self._acts = params.guidance_interval
        random, channels = torch.Generator().manual_seed(HELD_OUT), model.config.feature_channels
        self._noise = [
            params.noise_scale * torch.randn(each.images, channels, generator=random)
            for each in contexts
        ]
        self._wanted_NC = self._ends(FINE_SOLVER, len(fine), fine)[1]

    def __call__(
        self, solver: str, steps: int, times: Sequence[int] | None
    ) -> tuple[tuple[int, ...], float]:
        """The times that were stepped over, and the error."""
        taken, found_NC = self._ends(solver, steps, times)
        error = (found_NC - self._wanted_NC).norm() / self._wanted_NC.norm()
        return taken, float(error)

    @torch.no_grad()
    def _ends(
        self, solver: str, steps: int, times: Sequence[int] | None
    ) -> tuple[tuple[int, ...], Tensor]:
        plan = patch_plan(self._model, steps, solver, self._head, times, self._acts)
        ends = [
            draw_patches(plan, each.hidden_RD, noise_NC, each.mix_NR).cpu()
            for each, noise_NC in zip(self._contexts, self._noise, strict=True)
        ]
        return tuple(plan.solver.timesteps_T.tolist()), torch.cat(ends)


def _prompts(opened: Opened, texts: Sequence[str], params: SamplingParams) -> Iterator[Any]:
    if opened.processor is None:
        raise CheckpointError(
            "this folder has no tokenizer, so nothing can be drawn from words",
            where=str(opened.path),
            hint="copy tokenizer.json and the processor's files of the model it came from",
        )
    known = KnownWords.of(opened.path)
    if not texts and known and known.listed:
        names = [f"a {thing.name}" for thing in known.listed.every_thing]
        texts = names[:: max(1, len(names) // PICTURES)][:PICTURES]
    builder = PromptBuilder(opened.model, opened.processor.tokenizer, known.read if known else None)
    for seed, text in enumerate(texts or PROMPTS, start=DRAWN):
        yield builder.picture(text, params)._replace(seed=seed)


def stored(grids: Sequence[TimeGrids], config: OrthusConfig) -> dict[str, Any]:
    """The grids as `sampling.time_grids` holds them."""
    return {
        each.solver: {
            "schedule": schedule_record(config),
            "guidance": each.guidance,
            "times": {str(steps): [*times] for steps, times in each.times.items()},
        }
        for each in grids
    }


def check_copy(source: Path, output: Path, *, overwrite: bool) -> None:
    """Raises: CheckpointError, OutputError when the model cannot be copied to `output`."""
    check_path(output)
    check_folder(output, mark=CONFIG, overwrite=overwrite)
    if real_path(output) == real_path(source):
        raise CheckpointError(
            "the model would be replaced while it is read",
            where=str(output),
            hint="write the model with its grids to another folder with -o",
        )


def write_with_grids(
    opened: Opened, output: Path, grids: Sequence[TimeGrids], *, overwrite: bool = False
) -> Path:
    """Writes a copy of a model's folder with these grids; those of other solvers stay.

    Only `sampling.time_grids` of config.json differs, so pictures of both name the same model.

    Args:
        opened: The model that they were found for.
        output: Folder to create; it appears once everything is written.
        overwrite: Replace a model folder at `output`.

    Raises:
        CheckpointError: When `output` is the model's own folder.
        OutputError: When `output` exists, cannot be written, or does not fit on the disk.
    """
    source = opened.path
    check_copy(source, output, overwrite=overwrite)
    files = [file for file in sorted(source.iterdir()) if file.is_file()]
    files = [file for file in files if not file.name.startswith(".")]
    check_room(output, sum(file.stat().st_size for file in files))
    table = read_json(source / CONFIG)
    sampling = table.get("sampling") or {}
    new = stored(grids, check_orthus(opened.model.config, source))
    table["sampling"] = {**sampling, "time_grids": {**sampling.get("time_grids", {}), **new}}
    with staged_folder(output, mark=CONFIG, replaces=MODEL_FILES, overwrite=overwrite) as staged:
        for file in files:
            if file.name != CONFIG:
                shutil.copyfile(file, staged / file.name)
        text = json.dumps(table, indent=2, ensure_ascii=False) + "\n"
        (staged / CONFIG).write_text(text, encoding="utf-8")
    return output
