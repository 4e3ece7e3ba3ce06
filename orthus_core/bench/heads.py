"""Benchmark the head alone: one patch with guidance, and patches of several pictures at once, with
every layout of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from orthus_core.bench.clock import Clock
from orthus_core.events import Progress
from orthus_core.model.cpu_linear import LAYOUTS, Layout, packs
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.schedule import make_schedule
from orthus_core.samplers.cuda_graph import CUDAGraphCache
from orthus_core.samplers.patch_sampler import PatchPlan, denoise
from orthus_core.samplers.prompt import Guidance, mixing
from orthus_core.samplers.reference import ddim_steps, denoise_patch
from orthus_core.samplers.solvers import solver_for

GUIDANCE_SCALE = 5.0


@dataclass(frozen=True)
class HeadLap:
    """Timing of one patch each of N pictures at once.

    Attributes:
        layout: Layout of the engine's weights; None is its own choice.
        released_seconds, seconds: Seconds per patch with the release's algorithm and with the
            engine.
        ratio: Speed-up of the engine.
        difference: Largest difference between their features, in the head's scale.
    """

    pictures: int
    layout: Layout | None
    released_seconds: float
    seconds: float
    ratio: float
    difference: float


def head_laps(
    head: DiffusionHead, steps: int, pictures: Sequence[int], repeats: int
) -> Iterator[Progress | HeadLap]:
    """Time the head and the release's loop alternately; yields progress and results."""
    weight = head.input_proj.weight
    channels, hidden = weight.shape[1], head.cond_embed.weight.shape[1]
    device, dtype, clock = weight.device, weight.dtype, Clock(weight.device)
    random = torch.Generator().manual_seed(0)
    schedule = make_schedule()
    ddim, solver = ddim_steps(schedule, steps), solver_for(schedule, "ddim", steps)
    recordings = CUDAGraphCache()
    layouts = [None, *(each for each in LAYOUTS if each != "packed" or packs(weight))]
    for row, count in enumerate(pictures):
        hidden_RD = torch.randn(2 * count, hidden, generator=random).to(device, dtype)
        noise_NC = torch.randn(count, channels, generator=random).to(device)
        mix_NR = mixing([Guidance.text(GUIDANCE_SCALE)] * count).to(device)

        def slow(hidden_RD: Tensor = hidden_RD, noise_NC: Tensor = noise_NC) -> Tensor:
            return denoise_patch(head, ddim, hidden_RD[:2], noise_NC[:1], GUIDANCE_SCALE)

        for column, layout in enumerate(layouts):
            yield Progress(
                "head", row * len(layouts) + column, len(pictures) * len(layouts), "rows"
            )
            ready = DenoisingHead(head, layout=layout)
            plan = PatchPlan(solver, ready, ready.times(solver.timesteps_T), 1.0)

            def fast(
                plan: PatchPlan = plan,
                inputs: tuple[Tensor, ...] = (hidden_RD, noise_NC, mix_NR),
                key: object = (count, layout),
            ) -> Tensor:
                if device.type == "cuda":
                    return recordings(key, lambda *given: denoise(plan, *given), *inputs)
                return denoise(plan, *inputs)

            with torch.no_grad():
                for warm in (fast, fast, slow):
                    warm()
                times = [(clock.time(slow)[0], clock.time(fast)[0] / count) for _ in range(repeats)]
                difference = float((slow() - fast()[:1]).abs().max())
            theirs, ours = (median(side) for side in zip(*times, strict=True))
            yield HeadLap(count, layout, theirs, ours, theirs / ours, difference)
