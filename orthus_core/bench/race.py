"""The race: the release's algorithm and the engine draw the same pictures alternately, in a
process.

Each repeat runs every side once, so that other load on the machine affects all of them equally;
medians and their ratios are reported. Both sides start from the same noise, so that their features
can be compared.

Legend: N pictures, P patches, C feature channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.bench import release_costs
from orthus_core.bench.clock import Clock, copy_bandwidth, peak_memory
from orthus_core.bench.roofline import backbone_traffic, head_traffic
from orthus_core.errors import PromptError
from orthus_core.events import Event, ImageDone, PatchDone, Progress
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.decode import PendingImage, decode, ordered_events
from orthus_core.samplers.generate import RunningBatch, prepare_batch, run_batch
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import seeded_noise
from orthus_core.samplers.prompt import Context, Guidance, Prompt

# A prompt of typical length, and the release's unconditional one.
PROMPT_TOKENS, UNCONDITIONAL_TOKENS = 16, 6
# Lower ids are bos, pad, eos and similar tokens in every vocabulary here.
FIRST_WORD = 8
# Parts that occur once per picture; all others occur once per patch.
ONCE = ("prefill", "decode")


class Course(NamedTuple):
    """What is drawn in a race.

    Attributes:
        steps, guidance: Denoising steps and guidance scale of the pictures.
        batches: Batch sizes of the engine, with one race for each.
        patches: Patches per picture; None is all. With fewer, those in the middle are timed and the
            total is extrapolated.
        repeats: Number of repeats.
    """

    steps: int
    guidance: float
    batches: tuple[int, ...] = (1,)
    patches: int | None = None
    repeats: int = 3


@dataclass(frozen=True)
class Lap:
    """Timing of one side, at one batch size.

    Attributes:
        seconds_a_picture: Median over the repeats, for all patches of a picture even when fewer
            were drawn.
        parts: Seconds per picture of each part of the work.
        peak_bytes: Peak memory; None when unknown.
    """

    side: str
    batch: int
    seconds_a_picture: float
    parts: dict[str, float]
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Race:
    """All laps, their comparison, and the machine's limit.

    Attributes:
        ratios: Speed-up per picture over the release, by batch size.
        difference: Largest difference between the features of both sides.
        feature_size: Largest feature, for comparison with `difference`.
        pixel_difference: Largest difference between their pictures, in steps of 1/255.
        bandwidth: Bytes per second that a copy reads and writes.
        roofline: Seconds per picture at that bandwidth, by batch size: backbone, head.
    """

    laps: list[Lap]
    ratios: dict[int, float]
    difference: float
    feature_size: float
    pixel_difference: float
    bandwidth: float
    roofline: dict[int, dict[str, float]] = field(default_factory=dict)


class _Run(NamedTuple):
    seconds: float
    parts: dict[str, float]
    peak_bytes: int | None
    features_NPC: Tensor
    pixels_N3HW: Tensor


def race(model: OrthusForConditionalGeneration, course: Course) -> Iterator[Progress | Race]:
    """Run the course, and yield progress and then the result.

    Raises:
        PromptError: When more patches are requested than a picture has.
    """
    _check(model, course)
    sides = [("release", 1), *(("engine", batch) for batch in course.batches)]
    runs: dict[tuple[str, int], list[_Run]] = {side: [] for side in sides}
    bandwidths: list[float] = []
    total = len(sides) * course.repeats
    for side in sides:
        # One patch each, so that neither side's time includes a library's work at its first call.
        _run(model, course._replace(patches=1), *side)
    for repeat in range(course.repeats):
        bandwidths.append(copy_bandwidth(model.device))
        for number, side in enumerate(sides):
            yield Progress("racing", repeat * len(sides) + number, total, "runs")
            runs[side].append(_run(model, course, *side))
    yield Progress("racing", total, total, "runs")
    laps = [_lap(model, course, side, runs[side]) for side in sides]
    reference, ours = runs[sides[0]][0], runs[sides[1]][0]
    bandwidth = median(bandwidths)
    patches = course.patches or model.config.patches
    yield Race(
        laps,
        {lap.batch: laps[0].seconds_a_picture / lap.seconds_a_picture for lap in laps[1:]},
        _largest(reference.features_NPC[:, :patches] - ours.features_NPC[:1, :patches]),
        _largest(reference.features_NPC[:, :patches]),
        _largest(reference.pixels_N3HW - ours.pixels_N3HW[:1]) * 127.5,
        bandwidth,
        {batch: _roofline(model, course, batch, bandwidth) for batch in course.batches},
    )


def course_of(model: OrthusForConditionalGeneration, **asked: object) -> Course:
    """A course with the model's own steps and guidance where none are given."""
    params = SamplingParams.resolve(model.config)
    own = {"steps": params.steps, "guidance": params.guidance}
    return Course(**(own | {key: value for key, value in asked.items() if value is not None}))  # type: ignore[arg-type]


def prompts_of(model: OrthusForConditionalGeneration, course: Course, count: int) -> list[Prompt]:
    """N prompts with the same text and one seed each."""
    config = model.config
    marks = {config.boi_token_id, config.eoi_token_id, config.sep_token_id, config.image_token_id}
    not_words = {*config.code_token_ids, *range(FIRST_WORD), *marks}
    # When only some patches are drawn, the prompt is longer by the number of preceding patches.
    wanted = PROMPT_TOKENS + _already(model, course)
    words = [token for token in range(config.vocab_size) if token not in not_words]
    words = (words * (1 + wanted // len(words)))[:wanted]
    bos, sep = int(config.bos_token_id or 0), config.sep_token_id
    assert sep is not None, "shapes that are measured have all tokens"
    whole, empty = (bos, *words, sep), (bos, *words[:UNCONDITIONAL_TOKENS], sep)
    if course.patches:
        empty = whole[:-2] + (sep,)
    return [
        Prompt(Context(whole), seed, Guidance.text(course.guidance), (Context(empty),))
        for seed in range(count)
    ]


def _check(model: OrthusForConditionalGeneration, course: Course) -> None:
    if course.patches and not 1 <= course.patches <= model.config.patches:
        raise PromptError(
            f"{course.patches} patches of a picture of {model.config.patches}", where="--patches"
        )


def _already(model: OrthusForConditionalGeneration, course: Course) -> int:
    """Number of patches before the timed ones, which lie in the middle of the picture."""
    return (model.config.patches - course.patches) // 2 if course.patches else 0


def _run(model: OrthusForConditionalGeneration, course: Course, side: str, batch: int) -> _Run:
    """Run one side; on a GPU run it again to time its parts, since timing them takes time."""
    draw = _release if side == "release" else _engine
    prompts = prompts_of(model, course, batch)
    on_gpu = model.device.type == "cuda"
    whole = Clock(model.device, parts=not on_gpu)
    with peak_memory(model.device) as peak:
        seconds, (features_NPC, pixels_N3HW) = whole.time(
            lambda: draw(model, course, prompts, whole)
        )
        peak_bytes = peak()
    parts = whole.seconds
    if on_gpu:
        looking = Clock(model.device)
        draw(model, course, prompts, looking)
        parts = looking.seconds
    return _Run(seconds, parts, peak_bytes, features_NPC.cpu(), pixels_N3HW.cpu())


def _release(
    model: OrthusForConditionalGeneration, course: Course, prompts: Sequence[Prompt], clock: Clock
) -> tuple[Tensor, Tensor]:
    (prompt,) = prompts
    noise_scale = SamplingParams.resolve(model.config).noise_scale
    noise = (noise_scale * n for n in seeded_noise(prompt.seed, model.config.feature_channels))
    return release_costs.draw(
        model,
        prompt,
        noise,
        course.steps,
        clock,
        patches=course.patches,
        already=_already(model, course),
    )


@torch.no_grad()
def _engine(
    model: OrthusForConditionalGeneration, course: Course, prompts: Sequence[Prompt], clock: Clock
) -> tuple[Tensor, Tensor]:
    """Draw as `generate` does, but stop after the course's number of patches."""
    patches = course.patches or model.config.patches
    noise_scale = SamplingParams.resolve(model.config).noise_scale
    params = SamplingParams(max_images=1, steps=course.steps, noise_scale=noise_scale)
    job, rows = prepare_batch(model, prompts, params)
    timed = job._replace(
        patch_sampler=clock.around(job.patch_sampler, draw="head"),
        backbone=clock.around(job.backbone, read="prefill", step="backbone"),
        decoder=clock.around(job.decoder, submit="decode"),
    )
    patches = course.patches or model.config.patches
    made: list[list[Tensor]] = [[] for _ in prompts]
    pixels: dict[int, Tensor] = {}

    def events() -> Iterator[Event | PendingImage]:
        if patches == model.config.patches:
            yield from run_batch(timed, rows)
            return
        batch = RunningBatch(timed.backbone)
        batch.join(timed, rows)
        # Each step draws a patch and reads it, so that both are counted as often.
        for _ in range(patches):
            yield from batch.step()

    with job.decoder:
        for event in ordered_events(events()):
            if isinstance(event, PatchDone) and event.feature_C is not None:
                made[event.row].append(event.feature_C)
            elif isinstance(event, ImageDone):
                pixels[event.row] = event.pixels_3HW
    features_NPC = torch.stack([torch.stack(row) for row in made])
    if pixels:
        return features_NPC, torch.stack([pixels[row] for row in range(len(prompts))])
    with clock("decode"):
        missing = model.config.patches - patches
        features_NPC = torch.nn.functional.pad(features_NPC, (0, 0, 0, missing))
        return features_NPC, decode(model, features_NPC).float()


def _lap(
    model: OrthusForConditionalGeneration,
    course: Course,
    side: tuple[str, int],
    runs: Sequence[_Run],
) -> Lap:
    name, batch = side
    share = model.config.patches / (course.patches or model.config.patches)

    def whole(run: _Run) -> dict[str, float]:
        """Seconds of each part for one picture, from a run of some patches of several pictures."""
        parts = run.parts | {"rest": max(0.0, run.seconds - sum(run.parts.values()))}
        return {
            part: seconds * (1 if part in ONCE else share) / batch
            for part, seconds in parts.items()
        }

    parts = [whole(run) for run in runs]
    totals = [
        run.seconds / batch if course.patches is None else sum(of_run.values())
        for run, of_run in zip(runs, parts, strict=True)
    ]
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return Lap(
        name,
        batch,
        median(totals),
        {part: median(of_run[part] for of_run in parts) for part in parts[0]},
        max(peaks, default=None),
    )


def _roofline(
    model: OrthusForConditionalGeneration, course: Course, batch: int, bandwidth: float
) -> dict[str, float]:
    patches = model.config.patches
    halfway = PROMPT_TOKENS + patches // 2
    least = {
        "backbone": backbone_traffic(model, 2, halfway),
        "head": head_traffic(model.diffusion_head, course.steps),
    }
    return {
        part: traffic.seconds_a_picture(patches, batch, bandwidth)
        for part, traffic in least.items()
    }


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
