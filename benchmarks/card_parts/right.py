"""Correctness: the tests marked `gpu`, the release's tensors in three precisions, batched pictures
beside single ones, recorded steps beside eager ones, a story, and weights in fewer bits.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from card_parts.findings import Asked, Finding, compared, name_of, the_device
from orthus_core.bench.model_sizes import model_of
from orthus_core.bench.race import Course, prompts_of
from orthus_core.events import ImageDone, PatchDone, TextPiece
from orthus_core.model.config import OrthusConfig
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.quantised import quantise
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Branch, Prompt

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
# Limits on the difference as a share of the tensor; on a card convolutions in fp32 are TF32.
LIMITS = {torch.float32: 5e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def findings(asked: Asked) -> Iterator[Finding]:
    device = the_device()
    yield Finding("card", f"{name_of(device)}, torch {torch.__version__}")
    if device.type == "cuda":
        yield gpu_tests(asked)
    with torch.no_grad():
        yield from goldens(device)
        yield from drawings(device, asked)


def gpu_tests(asked: Asked) -> Finding:
    """pytest -m gpu, where pytest is installed."""
    if importlib.util.find_spec("pytest") is None:
        return Finding("pytest -m gpu", "not run: pytest is not installed")
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-x", "tests/core", "-p"]
    limit = asked.seconds / 2
    try:
        done = subprocess.run(
            [*words, "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return Finding("pytest -m gpu", f"not finished after {limit:.0f} s")
    (asked.folder / "pytest.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1].strip("= ")
    return Finding("pytest -m gpu", last, "wrong" if done.returncode else "right")


def goldens(device: torch.device) -> Iterator[Finding]:
    """The released implementation's tensors, recorded in fp32."""
    golden = load_file(GOLDEN / "golden.safetensors")
    for dtype, limit in LIMITS.items():
        if device.type == "cpu" and dtype == torch.float16:
            continue
        model = golden_model().to(device, dtype)
        name = str(dtype).removeprefix("torch.")
        pixels = golden["a.pixel_values"].to(device, dtype)
        theirs = golden["a.image_latents_bhwc"].flatten(1, 2)
        yield compared(f"features, {name}", model.encode_images(pixels), theirs, limit)
        ids_BS = golden["d.input_ids"].to(device)
        theirs = golden["d.last_hidden_state"]
        yield compared(
            f"hidden states, {name}", model.run_backbone(ids_BS).hidden_BSD, theirs, limit
        )


def golden_model() -> OrthusForConditionalGeneration:
    """The model that made them, as tests/conftest.py opens it."""
    spec = importlib.util.spec_from_file_location("shrink", GOLDEN / "shrink.py")
    assert spec is not None and spec.loader is not None, "the file lies beside the tensors"
    shrink = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shrink)
    fields = json.loads((GOLDEN / "config.json").read_text())
    fields.pop("model_type")
    config = OrthusConfig(**fields, head_width=64, head_depth=3, embedding_distance="exact")
    config.dtype = torch.float32
    model = OrthusForConditionalGeneration(config).float().eval()
    weights = shrink.read_weights(GOLDEN / "model.npz")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model


def drawings(device: torch.device, asked: Asked) -> Iterator[Finding]:
    """The bundled model: pictures, steps and a story."""
    model = model_of("mini", device, torch.float32)
    steps = 2 if asked.toy else 25
    count = 2 if asked.toy else 4
    prompts = prompts_of(model, Course(steps, 3.0), count)
    params = SamplingParams(max_images=1, steps=steps)
    together = features_of(model, prompts, params)
    alone = torch.cat([features_of(model, [prompt], params) for prompt in prompts])
    yield compared(f"{count} pictures drawn together and singly", together, alone, 1e-2)
    on_cpu = copy.deepcopy(model).cpu()
    theirs = features_of(on_cpu, prompts[:1], params)
    yield compared("a picture drawn on the device and on the CPU", together[:1], theirs, 2e-2)

    plain, recorded = (stepped(model, records=records) for records in (False, True))
    yield compared("decoding steps as a CUDA graph and eager", recorded, plain, 1e-4)
    yield story(model, prompts[:1], steps)

    ids_BS = torch.tensor([prompts[0].context.ids], device=device)
    whole = copy.deepcopy(model).bfloat16()
    hidden = whole.run_backbone(ids_BS).hidden_BSD
    for bits, limit in ((8, 5e-2), (4, 5e-1)):
        fewer = copy.deepcopy(whole)
        quantise(fewer, bits)  # type: ignore[arg-type]
        yield compared(
            f"hidden states with weights in {bits} bits and in bf16",
            fewer.run_backbone(ids_BS).hidden_BSD,
            hidden,
            limit,
        )


def features_of(model, prompts: list[Prompt], params: SamplingParams) -> Tensor:
    """Features of each prompt's picture: [N, P, C]."""
    found = {
        event.row: event.features_PC
        for event in generate(model, prompts, params)
        if isinstance(event, ImageDone)
    }
    return torch.stack([found[row] for row in range(len(prompts))])


def stepped(model, *, records: bool) -> Tensor:
    """Hidden states of a dozen steps of two branches of different lengths."""
    first = max(model.code_token_ids) + 8
    backbone = Backbone(model, records=records)
    branches = [Branch((0, first, first + 1)), Branch((0, *range(first, first + 9)))]
    cache, _ = backbone.read(branches, 32)
    positions, hidden = [3, 10], []
    for step in range(12):
        ids_BS = torch.tensor([[first + step, first + 2 * step]], device=model.device)
        hidden.append(backbone.step(cache, model.embed(ids_BS)[0], positions))
        positions = [position + 1 for position in positions]
    return torch.stack(hidden)


def story(model, prompts: list[Prompt], steps: int) -> Finding:
    """A story with text and two pictures in turn."""
    params = SamplingParams(
        max_images=2, min_images=2, max_text=12, text_before_image=4, steps=steps, temperature=0.8
    )
    events = [*generate(model, prompts, params)]
    pictures = [event for event in events if isinstance(event, ImageDone)]
    words = sum(len(event.token_ids) for event in events if isinstance(event, TextPiece))
    patches = sum(isinstance(event, PatchDone) for event in events)
    finite = all(bool(event.pixels_3HW.isfinite().all()) for event in pictures)
    is_right = finite and len(pictures) == 2 and patches == 2 * model.config.patches
    detail = f"{words} tokens, {len(pictures)} pictures"
    return Finding("story with two pictures", detail, "right" if is_right else "wrong")
