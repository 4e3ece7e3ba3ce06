"""Suspected faults of the GPU path that do not occur on a CPU, one line each, at the 7B's shapes
with few layers. The numbers are those of the table in docs/benchmarks.md.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from card_parts.findings import GIB, Asked, Finding, gib, the_device
from card_parts.training import rows_of
from orthus_core.bench.clock import Clock, peak_memory
from orthus_core.bench.model_sizes import SHAPES, config_of, random_model
from orthus_core.bench.race import Course, prompts_of
from orthus_core.device import has_bf16
from orthus_core.events import PatchDone
from orthus_core.losses.joint import JointLoss
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.quantised import quantise
from orthus_core.model.soft_embedding import soft_embed
from orthus_core.samplers.decode import ImageDecoder
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.generate import prepare_batch, run_batch
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Branch
from orthus_core.train.features import always_together, in_bf16, pictures_together

LAYERS = 4


def findings(asked: Asked) -> Iterator[Finding]:
    device = the_device()
    shape = SHAPES["7b"]
    assert shape is not None, "the 7B has a shape"
    shape = shape._replace(layers=LAYERS)
    if asked.toy:
        shape = shape._replace(hidden=64, layers=2, heads=2, intermediate=128, resolution=64)
        shape = shape._replace(base_channels=32, head_width=32)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = random_model(config_of(shape), device, dtype)
    with torch.no_grad():
        yield encoding(model)
        yield from decoding(model)
        yield from steps(model, asked)
        yield from waits(model, asked)
        yield release_distance(device)
    yield training_attention(model)


def encoding(model: OrthusForConditionalGeneration) -> Finding:
    """1: memory of encoding a chunk of pictures of the model's size."""
    side, device = model.config.vq_config.resolution, model.device
    encode = always_together(in_bf16(model.encode_images, device), pictures_together(side, device))
    pixels = torch.rand(8, 3, side, side, device=device)
    with peak_memory(device) as peak:
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        encode(pixels)
        most = (peak() or 0) - before
    return Finding(
        "1 encoding 8 pictures", f"{gib(most)} in addition to the weights", seen(most > 8 * GIB)
    )


def decoding(model: OrthusForConditionalGeneration) -> Iterator[Finding]:
    """5: the memory that the allocator holds after a few pictures and after many."""
    config, device = model.config, model.device
    features = torch.randn(1, config.patches, config.feature_channels, device=device)
    held = []
    with ImageDecoder(model) as decoder:
        for pictures in (2, 8):
            for _ in range(pictures):
                decoder.submit([0], [0], features)[0].done()
            held.append(torch.cuda.memory_reserved(device) if device.type == "cuda" else 0)
    grown = held[1] - held[0]
    detail = f"the allocator holds {gib(held[0])} after 2 pictures, {gib(held[1])} after 10"
    yield Finding("5 memory of decoding streams", detail, seen(grown > GIB))


def steps(model: OrthusForConditionalGeneration, asked: Asked) -> Iterator[Finding]:
    """7, 8, 10: kernels of a decoding step, its recording, and quantised weights."""
    clock, first = Clock(model.device), max(model.code_token_ids) + 8
    context = 16 if asked.toy else 512
    branches = [Branch((0, *range(first, first + context)))] * 2

    def stepper(of: OrthusForConditionalGeneration) -> Callable[[], Any]:
        backbone = Backbone(of)
        cache, hidden_RD = backbone.read(branches, context + 64)
        embeds_RD = torch.zeros_like(hidden_RD)
        return lambda: backbone.step(cache, embeds_RD, [context + 1] * 2)

    step = stepper(model)
    first_one, recording, replay = (clock.time(step)[0] for _ in range(3))
    replay = min(replay, *(clock.time(step)[0] for _ in range(5)))
    detail = f"a recorded step of {len(model.model.layers)} layers takes {1e3 * replay:.2f} ms, "
    detail += f"the first step {1e3 * first_one:.1f} ms, its recording {1e3 * recording:.1f} ms"
    yield Finding("8 recording after a change of the batch", detail)
    backbone = Backbone(model, records=False)
    cache, hidden_RD = backbone.read(branches, context + 64)
    calls = profiled(lambda: backbone.step(cache, torch.zeros_like(hidden_RD), [context + 1] * 2))
    yield Finding("7 attention kernels while drawing", attention_in(calls) or "none found")
    fewer = copy.deepcopy(model)
    quantise(fewer, 8)
    step = stepper(fewer)
    quantised = min(clock.time(step)[0] for _ in range(6))
    detail = f"a step takes {1e3 * quantised:.2f} ms in 8 bits, {1e3 * replay:.2f} in {model.dtype}"
    yield Finding("10 speed of quantised weights", detail, seen(quantised > replay))


def waits(model: OrthusForConditionalGeneration, asked: Asked) -> Iterator[Finding]:
    """9: how often the CPU waits for the card in a patch."""
    params = SamplingParams(max_images=1, steps=2 if asked.toy else 25)
    job, rows = prepare_batch(model, prompts_of(model, Course(params.steps, 3.0), 2), params)
    patches = 4 if asked.toy else 16
    with job.decoder:
        events = (event for event in run_batch(job, rows) if isinstance(event, PatchDone))
        for _ in range(2 * 4):
            next(events)

        def drawn() -> None:
            for _ in range(2 * patches):
                next(events)

        calls = profiled(drawn)
        events.close()
    waiting = sum(n for name, n in calls.items() if "Synchronize" in name and "Event" not in name)
    copies = sum(n for name, n in calls.items() if "HtoD" in name and "Pageable" in name)
    detail = f"the CPU waits {waiting / patches:.1f} times a patch and copies "
    detail += f"{copies / patches:.1f} times from pageable memory"
    # The profiler itself waits a few times at its end.
    yield Finding("9 synchronisation while drawing", detail, seen(waiting > patches // 2))


def release_distance(device: torch.device) -> Finding:
    """11: distances as in the release, in fp16."""
    z_NC, codes_KC = (20 * torch.randn(n, 256, device=device).half() for n in (4, 64))
    table_KD = torch.randn(64, 32, device=device).half()
    is_finite = bool(soft_embed(z_NC, codes_KC, table_KD, distance="release").isfinite().all())
    return Finding(
        '11 fp16 with distance = "release"',
        f"the embedding is {'finite' if is_finite else 'not finite'}",
        seen(not is_finite),
    )


def training_attention(model: OrthusForConditionalGeneration) -> Finding:
    """12: kernels of attention in a training step on rows of one document."""
    model.float().requires_grad_(True)
    objective = JointLoss(model, lambda_image=1, text_weight=0, repeats=1).train()
    batch = rows_of(model, 2).to(model.device)

    def step() -> None:
        on = has_bf16(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=on):
            objective(batch).total.backward()

    found = attention_in(profiled(step))
    is_missed = model.device.type == "cuda" and "flash" not in found
    return Finding("12 attention kernels in training", found or "none found", seen(is_missed))


def profiled(work: Callable[[], Any]) -> Counter[str]:
    """Calls of operators, kernels and of the runtime while work is done."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
    return Counter({event.key: event.count for event in profile.key_averages()})


def attention_in(calls: Counter[str]) -> str:
    """The names of attention among the calls, shortened."""
    names = [name for name in calls if "flash" in name or "attention" in name or "fmha" in name]
    return ", ".join(sorted({f"{name[:60]} x{calls[name]}" for name in names}))


def seen(is_seen: bool) -> str:
    return "seen" if is_seen else "not seen"
