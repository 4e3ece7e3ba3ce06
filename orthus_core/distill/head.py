"""`orthus distill head`: a diffusion head that takes few steps, learnt from a model's own.

    1. The model draws the pictures of some rows once; the hidden states of all patches and the
       features are kept (head_contexts.py). The backbone is not needed again.
    2. A flow map head begins as the model's own head, with a layer more for where a step ends,
       which starts at zero: so it starts as DDIM in as few steps. It learns jumps
       (losses/flow_map.py).
    3. The ends of its runs are measured against fine paths of the teacher, beside those of the
       teacher's solvers in as many steps.
    4. The model is written with the new head, and with the solver `flow-map` and its steps among
       the sampling defaults.

Legend: S pictures, P patches, R branches, N contexts, C feature channels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import open_orthus, read_config
from orthus_core.distill.contexts import Contexts
from orthus_core.distill.head_contexts import (
    HeadContexts,
    record_rows,
    save_contexts,
    saved_contexts,
)
from orthus_core.distill.step_errors import FINE_SOLVER, fine_times
from orthus_core.errors import CheckpointError, TrainingError
from orthus_core.events import Event, Note
from orthus_core.losses.flow_map import Angles, FlowMapLoss, Steps, draw_steps
from orthus_core.model.config import OrthusConfig
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.flow_map_head import FlowMapHead
from orthus_core.model.image_heads import image_head
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe.distill_head import DistillHeadRecipe
from orthus_core.samplers.params import SamplingParams, Task
from orthus_core.samplers.patch_sampler import draw_patches, patch_plan
from orthus_core.samplers.prompt import Guidance, mixing
from orthus_core.samplers.solvers import check_run
from orthus_core.train.batches import (
    VALIDATION_SEED,
    read_rows,
    row_encoder,
    training_rule,
    usable,
)
from orthus_core.train.distributed import current_rank, device, ends_together
from orthus_core.train.state import as_saved, training_folder
from orthus_core.train.trainings import Extras, is_finished, run, words_of
from orthus_core.user_files import user_path

FLOW_MAP = "flow-map"
"""The solver of flow map heads, by its name in the registry."""

CONTEXTS, HELD_OUT = "contexts.safetensors", "held-out.safetensors"
"""Files of a training folder."""

MEASURED_STEPS = (1, 2, 4, 8)
# Contexts that ends of runs are measured on.
MEASURED_CONTEXTS = 512


@ends_together
def distill_head(
    recipe: DistillHeadRecipe, init_from: str | Path, output: Path, **options: Any
) -> Generator[Event, None, None]:
    """Train a few-step head for a model; options as for `trainings.run`.

    Args:
        init_from: The model whose head is the teacher.
        output: Folder of the model with the new head.

    Raises:
        CheckpointError: When the model has no diffusion head that predicts v, or a flow map head.
        TrainingError: When there are several processes.
        DataError: When no row asks for a picture.
    """
    output = user_path(output)
    if (yield from is_finished(recipe, init_from, output, **options)):
        return
    check_teacher(read_config(resolve(init_from)), resolve(init_from))
    if current_rank().shards > 1:
        raise TrainingError(
            "a head is distilled by one process, and there are several",
            where="distill head",
            hint="start one process: the head alone is trained, on hidden states that are kept",
        )
    opened = open_orthus(init_from, device=device(), dtype="fp32")
    teacher, tokenizer = words_of(opened)
    teacher.requires_grad_(False)
    check_run(teacher.schedule, recipe.steps)
    params = params_of(recipe, teacher.config)
    rows = yield from read_rows(recipe.data, teacher.config.vq_config.resolution)
    encode = row_encoder(tokenizer, teacher.config)
    rows = yield from usable(rows, training_rule(recipe, encode))
    student = student_of(teacher, recipe.seed)
    stage = HeadStage(recipe, FlowMapLoss(student, teacher.diffusion_head, teacher.schedule))
    stage.latent_scale = teacher.config.latent_scale
    work, drawn_with = training_folder(output), identity(recipe, opened.path, params, rows.identity)

    def contexts(name: str, mixture: Any, wanted: int, seed: int) -> Iterator[Event]:
        found = saved_contexts(work / name, drawn_with)
        if found is None:
            for event in record_rows(
                *(teacher, tokenizer, mixture, params, wanted),
                self_drawn=recipe.self_drawn,
                seed=seed,
            ):
                if isinstance(event, HeadContexts):
                    found = event
                else:
                    yield event
            assert found is not None, "the contexts come last"
            save_contexts(found, work / name, drawn_with)
        stage.contexts[name] = found

    def prepare() -> Iterator[Event]:
        yield from contexts(CONTEXTS, rows.train, recipe.pictures, recipe.seed)
        if rows.held_out is not None:
            wanted = min(recipe.log.validate_rows, recipe.pictures)
            yield from contexts(HELD_OUT, rows.held_out, wanted, VALIDATION_SEED)

    def before(start: int, batches: int) -> Iterator[Event]:
        yield from prepare()

    def finish() -> Generator[Event, None, Extras]:
        if not stage.contexts:  # a training that was resumed at its end
            yield from prepare()
        measured = end_errors(teacher, student, stage.apart, recipe.steps)
        yield from map(Note, error_lines(measured))
        errors = {f"{each.solver} {each.steps}": round(each.error, 5) for each in measured}
        put_head(teacher, student, recipe.steps, params)
        of_teacher = {"teacher": opened.path.name, "teacher_hash": fingerprint(opened.path)[:10]}
        return Extras(origin={**of_teacher, "end_errors": errors})

    yield from run(
        stage, recipe, opened, output, rows=rows.identity, before=before, finish=finish, **options
    )


def check_teacher(config: Any, path: Path) -> None:
    """Checks that a model's head can be the teacher.

    Raises:
        CheckpointError: When it cannot.
    """
    why = hint = ""
    if not isinstance(config, OrthusConfig) or not config.denoises:
        why = "this model has no diffusion head, so it takes one step a patch already"
        hint = "take an Orthus with a diffusion head"
    elif config.flow_map_head:
        why = "this model's head is a flow map already, and no teacher"
        hint = "name the model that it was distilled from, which `orthus info` shows"
    elif config.prediction != "v":
        why = f"this model's head predicts {config.prediction}, and a flow map is learnt from v"
        hint = "take a model whose head predicts v"
    if why:
        raise CheckpointError(why, where=str(path), hint=hint)


def params_of(recipe: DistillHeadRecipe, config: OrthusConfig) -> dict[Task, SamplingParams]:
    """How the teacher draws pictures and edits for the contexts: guided at all timesteps, as the
    jumps are learnt.
    """
    asked = {"picture": recipe.guidance, "edit": recipe.edit_guidance}
    tasks: tuple[Task, ...] = ("picture", "edit")
    return {
        task: SamplingParams.resolve(
            config, task, preset="turbo", guidance=asked[task], guidance_interval=()
        )
        for task in tasks
    }


def identity(
    recipe: DistillHeadRecipe, teacher: Path, params: dict[Task, SamplingParams], rows: str
) -> str:
    """What tells contexts from others."""
    sampling = {task: each.to_dict() for task, each in params.items()}
    data = as_saved(replace(recipe.data, workers=0, cache="", strict=False))
    keys = (recipe.seed, recipe.pictures, recipe.self_drawn, recipe.log.validate_rows)
    return str((fingerprint(teacher), as_saved(sampling), data, keys, rows))


def student_of(teacher: OrthusForConditionalGeneration, seed: int) -> FlowMapHead:
    """A flow map head that predicts what the teacher's head does, wherever a step ends."""
    config = OrthusConfig.from_dict(teacher.config.to_dict() | {"flow_map_head": True})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the first layer of the second time starts from random weights
        student = image_head(config)
    assert isinstance(student, FlowMapHead), "the configuration says so"
    known = teacher.diffusion_head.state_dict()
    new = student.load_state_dict(known, strict=False).missing_keys
    assert all(name.startswith("time_embed.end_mlp.") for name in new), "nothing else is new"
    return student.to(teacher.device)


def put_head(
    model: OrthusForConditionalGeneration,
    head: FlowMapHead,
    steps: int,
    learnt_for: Mapping[Task, SamplingParams],
) -> None:
    """Puts a flow map head into a model, which draws with it in `steps` steps from then on, at the
    guidance that its jumps were learnt for.
    """
    own = model.config.sampling or {}
    names: dict[Task, str] = {
        "picture": "guidance",
        "edit": "edit_guidance",
        "story": "story_guidance",
    }
    before = {task: SamplingParams.resolve(model.config, task).guidance for task in names}
    after = {t: learnt_for[t].guidance if t in learnt_for else before[t] for t in names}
    # Guidance of edits and stories follows that of pictures, which must not move it.
    moved = after["picture"] != before["picture"]
    learnt = {name: after[t] for t, name in names.items() if moved or after[t] != before[t]}
    head.requires_grad_(False)
    model.mlp_head = head
    model.config.flow_map_head = True
    model.config.sampling = {**own, **learnt, "scheduler": FLOW_MAP, "steps": steps}
    # No step says how sure it is, and a jump is learnt for guidance on all of its way.
    for name in ("step_tolerance", "guidance_interval"):
        model.config.sampling.pop(name, None)


class HeadStage:
    """A head on kept contexts, as a stage of the training loop.

    Args:
        recipe: Recipe of the training.
        objective: The losses.

    Attributes:
        contexts: The contexts by the name of their file, once they are there.
        latent_scale: Factor on features while they are denoised.
    """

    sixteen_bit = False  # a head is small, and its derivative by time a difference
    report = None

    def __init__(self, recipe: DistillHeadRecipe, objective: FlowMapLoss) -> None:
        self.objective = objective
        self.contexts: dict[str, HeadContexts] = {}
        self.latent_scale = 1.0
        self._recipe = recipe
        how = recipe.angles
        self._angles = Angles(how.mean, how.spread, how.noise_share, how.jumps)

    def trainable(self) -> list[nn.Parameter]:
        return list(self.objective.student.parameters())

    def parts(self, step: int, count: int) -> Sequence[tuple[Steps]]:
        """Steps from some patches of `batch_size` pictures, by step alone."""
        recipe = self._recipe
        found = []
        for part in range(step * count, (step + 1) * count):
            random = torch.Generator().manual_seed((recipe.seed * 1_000_003 + part) % 2**63)
            found.append((self._steps(self.contexts[CONTEXTS], recipe.optim.batch_size, random),))
        return found

    def held_out(self) -> Sequence[tuple[Steps]]:
        """Steps from the held-out pictures, the same at each call."""
        kept = self.contexts.get(HELD_OUT)
        if kept is None:
            return []
        random = torch.Generator().manual_seed(VALIDATION_SEED)
        return [(self._steps(kept, kept.pictures, random),)]

    def begin_step(self, step: int) -> list[nn.Parameter]:
        return []

    def samples(self) -> Image.Image | None:
        return None

    @property
    def apart(self) -> HeadContexts:
        """The contexts to measure with: held-out ones where there are some."""
        return self.contexts.get(HELD_OUT, self.contexts[CONTEXTS])

    def _steps(self, kept: HeadContexts, pictures: int, random: torch.Generator) -> Steps:
        _, patches, branches, _ = kept.hidden_SPRD.shape
        # In random order, also where all are taken: the last of them jump (`draw_steps`).
        chosen = torch.randperm(kept.pictures, generator=random)[:pictures]
        each = max(1, round(self._recipe.patch_share * patches))
        order = torch.rand(len(chosen), patches, generator=random).argsort(1)[:, :each]
        place_N, picture_N = order.flatten(), chosen.repeat_interleave(each)
        return draw_steps(
            kept.hidden_SPRD[picture_N, place_N].float(),
            kept.weights_SPR[picture_N, place_N],
            kept.features_SPC[picture_N, place_N] * self.latent_scale,
            self.objective.schedule,
            self._recipe.draws,
            random,
            self._angles,
        )


class EndError(NamedTuple):
    """How far runs end from the ends of fine paths of the teacher, relative to their size."""

    solver: str
    steps: int
    error: float


@torch.no_grad()
def end_errors(
    teacher: OrthusForConditionalGeneration,
    student: FlowMapHead,
    kept: HeadContexts,
    own_steps: int = 4,
) -> list[EndError]:
    """The errors of the student and of the teacher's solvers in few steps, under guidance.

    Args:
        teacher: The model with its own head.
        student: A flow map head for it.
        kept: Contexts to measure on; evenly spaced ones are used.
        own_steps: A further number of steps to measure.
    """
    hidden_XRD = kept.hidden_SPRD.flatten(0, 1)
    weights_XR = kept.weights_SPR.flatten(0, 1)
    chosen = torch.arange(0, len(hidden_XRD), max(1, len(hidden_XRD) // MEASURED_CONTEXTS))
    weights_NR = weights_XR[chosen]
    contexts = Contexts(
        hidden_XRD[chosen].flatten(0, 1),
        mixing([Guidance(tuple(each)) for each in weights_NR.tolist()]),
    )
    # A branch of weight 0 belongs to its context all the same.
    random = torch.Generator().manual_seed(VALIDATION_SEED)
    noise_NC = torch.randn(len(chosen), teacher.config.feature_channels, generator=random)
    heads = {"teacher": DenoisingHead(teacher.diffusion_head), "student": DenoisingHead(student)}

    def ends(head: str, solver: str, steps: int, times: Sequence[int] | None = None) -> Tensor:
        plan = patch_plan(teacher, steps, solver, heads[head], times)
        return draw_patches(plan, contexts.hidden_RD, noise_NC, contexts.mix_NR).cpu()

    fine = fine_times(teacher.schedule.num_timesteps).tolist()
    wanted_NC = ends("teacher", FINE_SOLVER, len(fine), fine)
    runs = [
        *(("student", FLOW_MAP, steps) for steps in sorted({*MEASURED_STEPS, own_steps})),
        *(("teacher", "ddim", steps) for steps in sorted({*MEASURED_STEPS, own_steps})),
        *(("teacher", "unipc", steps) for steps in sorted({*MEASURED_STEPS, own_steps})),
    ]
    return [
        EndError(solver, steps, float((ends(h, solver, steps) - wanted_NC).norm() / size))
        for size in [wanted_NC.norm()]
        for h, solver, steps in runs
    ]


def error_lines(measured: Sequence[EndError]) -> Iterator[str]:
    """The errors, a line for each solver."""
    for solver in dict.fromkeys(each.solver for each in measured):
        errors = [f"{e.error:.4f} in {e.steps}" for e in measured if e.solver == solver]
        whose = "the new head" if solver == FLOW_MAP else f"the teacher by {solver}"
        yield f"error at the end of a patch, {whose}: {', '.join(errors)} steps"
