"""Steps of a 7B's training with random weights: build-base as trainings.py runs it, on rows of one
picture each. LoRA is not part of this version, and posttrain of the whole model fits on no card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from card_parts.drawing import product_rate
from card_parts.findings import Asked, Finding, gib, the_device
from orthus_core.bench.clock import Clock, peak_memory
from orthus_core.bench.model_sizes import SHAPES, config_of, random_model
from orthus_core.data.collate import Batch
from orthus_core.device import has_bf16
from orthus_core.losses.joint import JointLoss
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.plan.memory_parts import total
from orthus_core.plan.training_memory import Training, training_memory
from orthus_core.recipe.training import OptimRecipe
from orthus_core.train.freeze import hold_frozen_in_bf16, only_image_parts
from orthus_core.train.optim import make_optimizers

REPEATS = 8


def findings(asked: Asked) -> Iterator[Finding]:
    device = the_device()
    shape = SHAPES["7b"]
    assert shape is not None, "the 7B has a shape"
    if asked.toy:
        shape = shape._replace(
            hidden=64, layers=2, heads=2, intermediate=128, resolution=64, head_width=32
        )
        shape = shape._replace(base_channels=32)
    config = config_of(shape)
    model = random_model(config, device, torch.bfloat16)
    trainable = only_image_parts(model)
    model.float()  # as trainings open it
    saved = hold_frozen_in_bf16(model, device)
    yield Finding("build-base: memory saved by frozen weights in bf16", gib(saved))
    rate = product_rate(device, 256 if asked.toy else 8192) * 1e12
    objective = JointLoss(model, lambda_image=100, text_weight=0, repeats=REPEATS).train()
    recipe = OptimRecipe(lr=1e-4, steps=10)
    optimizers = make_optimizers(trainable, recipe)
    for rows in (1, 2) if asked.toy else (4, 16, 32):
        if device.type == "cuda":
            torch.cuda.empty_cache()
        batch = rows_of(model, rows).to(device)
        try:
            with peak_memory(device) as peak:
                seconds = min(
                    stepped(objective, optimizers, trainable, batch, device)
                    for _ in range(2 if asked.toy else 4)
                )
                most = peak()
        except torch.OutOfMemoryError:
            yield Finding(f"build-base, {rows} rows", "does not fit")
            return
        tokens = batch.ids_BS.numel()
        done = flops(model, tokens, rows * config.patches)
        detail = f"{seconds:.3g} s a step, {tokens / seconds:.0f} tokens/s, "
        detail += f"{done / seconds / rate:.0%} of the rate of bf16 products"
        yield Finding(f"build-base, {rows} rows of {tokens // rows} tokens", detail)
        planned = total(
            training_memory(
                config,
                Training("build-base", rows, tokens // rows, repeats=REPEATS),
                device.type,
            )
        )
        if most is not None:
            yield Finding(f"memory of {rows} rows", f"{gib(most)}, planned {gib(planned)}")
    yield Finding("posttrain with LoRA", "not run: this version has no LoRA")


def rows_of(model: OrthusForConditionalGeneration, rows: int) -> Batch:
    """Rows of one picture each, as build-base reads them, rounded up to a multiple of 64."""
    config = model.config
    assert config.boi_token_id is not None and config.eoi_token_id is not None
    picture = [config.boi_token_id, *[config.image_token_id] * config.patches, config.eoi_token_id]
    ids = [0, *picture, 2]
    padded = -(-len(ids) // 64) * 64
    ids_BS = torch.tensor([ids + [1] * (padded - len(ids))] * rows)
    mask_BS = (torch.arange(padded) < len(ids)).long().expand(rows, -1)
    slots_N = (ids_BS.flatten() == config.image_token_id).nonzero().flatten()
    return Batch(
        ids_BS,
        mask_BS,
        torch.arange(padded).expand(rows, -1),
        torch.full_like(ids_BS, -100),
        slots_N - 1,
        torch.randn(len(slots_N), config.feature_channels),
    )


def stepped(
    objective: JointLoss,
    optimizers: list[torch.optim.Optimizer],
    trainable: list[Any],
    batch: Batch,
    device: torch.device,
) -> float:
    """Seconds of one step."""

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
            losses = objective(batch)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return Clock(device).time(step)[0]


def flops(model: OrthusForConditionalGeneration, tokens: int, patches: int) -> float:
    """Arithmetic of a step: forward and, through the frozen backbone, backward without gradients of
    its weights; the head forward, backward and gradients for every draw; attention's scores.
    """
    config = model.config
    backbone = sum(p.numel() for p in model.model.layers.parameters())
    head = sum(p.numel() for p in model.mlp_head.parameters())
    length = config.patches
    # Causal: half of the scores. Two products forward, four backward.
    attention = 6 * config.num_hidden_layers * tokens * length * config.hidden_size
    codes = 6 * patches * config.num_codes * (config.hidden_size + config.feature_channels)
    return 4 * backbone * tokens + 6 * head * patches * REPEATS + attention + codes
