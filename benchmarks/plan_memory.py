"""Compare `orthus plan`'s memory of trainings with measured peaks: python benchmarks/plan_memory.py

Steps of a model of 190M parameters with random weights, in fp32 on the CPU, each as its training
runs it. Every allocation of torch is counted, so the peak is exact; libraries and the interpreter
are not in it, nor in the plan it is compared with.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from transformers.models.chameleon.modeling_chameleon import ChameleonDecoderLayer

from orthus_core.bench.model_sizes import Shape, config_of, random_model
from orthus_core.data.collate import Batch
from orthus_core.losses.joint import JointLoss
from orthus_core.losses.picture_loss import PictureLoss
from orthus_core.model.config import OrthusConfig
from orthus_core.model.diffusion_head import Block
from orthus_core.model.vision import OrthusVQ
from orthus_core.plan.memory_parts import MARGIN, total
from orthus_core.plan.training_memory import Training, training_memory
from orthus_core.recipe.training import AutoencoderLosses, LoraRecipe, OptimRecipe
from orthus_core.train.autoencoder import DecoderObjective
from orthus_core.train.freeze import all_but_autoencoder, only_image_parts
from orthus_core.train.lora import add_lora
from orthus_core.train.optim import WeightAverage, make_optimizers

MID = Shape("190M parameters, 256 patches", 640, 12, 10, 1728, 256, 640, base_channels=64)
TOY = Shape("toy", 64, 2, 2, 128, 64, 48, base_channels=32)
WORDS = 64
LORA = LoraRecipe(rank=16)
CASES = {
    "posttrain": Training("posttrain", 4, 0),
    "posttrain, checkpointed": Training("posttrain", 4, 0, checkpoint=True),
    "posttrain, two batches a step": Training("posttrain", 2, 0, accumulate=2),
    "posttrain, Muon and average": Training("posttrain", 2, 0, optimiser="muon", averaged=True),
    "build-base": Training("build-base", 4, 0),
    "build-base, checkpointed": Training("build-base", 4, 0, checkpoint=True),
    "LoRA": Training("posttrain", 4, 0, lora=LORA),
    "LoRA, checkpointed": Training("posttrain", 4, 0, lora=LORA, checkpoint=True),
    "finetune-vae": Training("finetune-vae", 4, 0),
}


class Measured(NamedTuple):
    """Bytes at the peak of a step, by the plan and as they were; and the step's seconds."""

    planned: int
    found: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--only", help="cases whose name holds this")
    options = parser.parse_args()
    print("| training | planned, GB | measured, GB | planned / measured |\n|---|---|---|---|")
    for name, case in CASES.items():
        if not options.only or options.only in name:
            one = measured(config_of(TOY if options.toy else MID), case)
            gigabytes = f"{one.planned / 1e9:.2f} | {one.found / 1e9:.2f} | "
            print(f"| {name} | {gigabytes}{one.planned / one.found:.2f} |", flush=True)


def measured(config: OrthusConfig, case: Training) -> Measured:
    """One step of a training that has made a step before."""
    length = config.patches + 3 + (0 if case.command == "build-base" else WORDS)
    case = case._replace(length=length, repeats=4, words=WORDS)
    torch.manual_seed(0)
    model = random_model(config, torch.device("cpu"), torch.float32)
    run: Callable[[], Tensor]
    if case.command == "finetune-vae":
        objective, trainable, run = autoencoder(model.model.vqmodel, case.rows)
        model = model.model.vqmodel  # all that the training opens
    else:
        if case.lora.rank:
            trainable = add_lora(model, case.lora)
        else:
            chosen = only_image_parts if case.command == "build-base" else all_but_autoencoder
            trainable = chosen(model)
        weight = 0 if case.command == "build-base" else 1
        objective = JointLoss(model, text_weight=weight, repeats=case.repeats).train()
        batch = rows_of(config, case.rows, length, case.words if weight else 0)
        run = lambda: objective(batch).total  # noqa: E731
    if case.checkpoint:
        checkpoint_layers(objective)
    optimizers = make_optimizers(trainable, OptimRecipe(kind=case.optimiser, lr=1e-6))  # type: ignore[arg-type]
    average = WeightAverage(trainable, 0.9 if case.averaged else 0)
    for parameter in trainable:  # what an optimiser keeps is made with its first step
        parameter.grad = torch.zeros_like(parameter)
    move(optimizers)
    held = sum(p.nbytes for p in model.parameters()) + sum(a.nbytes for a in average.averages)
    for optimizer in optimizers:
        states = optimizer.state.values()
        held += sum(t.nbytes for s in states for t in s.values() if isinstance(t, Tensor))
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(case.accumulate):
            run().backward()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        move(optimizers)
        average.update(0)
    seconds = time.perf_counter() - began
    planned = [
        item for item in training_memory(config, case, "cpu") if item.name != "allocator and driver"
    ]
    return Measured(round(total(planned) / MARGIN), held + peak_of(profiler), seconds)


def autoencoder(
    vq: OrthusVQ, pictures: int
) -> tuple[nn.Module, list[nn.Parameter], Callable[[], Tensor]]:
    """finetune-vae's objective on random pictures."""
    vq.requires_grad_(False)
    trainable = [*vq.decoder.parameters(), *vq.post_quant_conv.parameters()]  # type: ignore
    for parameter in trainable:
        parameter.requires_grad_(True)
    losses = AutoencoderLosses(commitment=0.0, codebook=0.0)
    objective = DecoderObjective(vq, PictureLoss(losses), 0.0).train()
    side = vq.config.resolution  # type: ignore[union-attr]
    pixels_M3HW = torch.rand(pictures, 3, side, side) * 2 - 1  # type: ignore[arg-type]
    return objective, trainable, lambda: objective(pixels_M3HW).total


def rows_of(config: OrthusConfig, rows: int, length: int, words: int) -> Batch:
    """Rows of words and one picture."""
    patches, text = config.patches, length - config.patches - 3
    picture = [config.boi_token_id, *[config.image_token_id] * patches, config.eoi_token_id]
    ids_BS = torch.tensor([[0, *[2] * text, *picture]] * rows)
    targets_BS = torch.full_like(ids_BS, -100)
    targets_BS[:, :words] = 2
    slots_N = (ids_BS.flatten() == config.image_token_id).nonzero().flatten()
    return Batch(
        ids_BS,
        torch.ones_like(ids_BS),
        torch.arange(length).expand(rows, -1),
        targets_BS,
        slots_N - 1,
        torch.randn(len(slots_N), config.feature_channels),
    )


def checkpoint_layers(objective: nn.Module) -> None:
    """Have layers and the head's blocks keep their inputs alone, as a training does."""
    for module in objective.modules():
        if isinstance(module, (ChameleonDecoderLayer, Block)):
            forward = module.forward
            module.forward = lambda *args, _forward=forward, **options: checkpoint(  # type: ignore
                _forward, *args, use_reentrant=False, **options
            )


def move(optimizers: list[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def peak_of(profiler: profile) -> int:
    """The most bytes that were allocated at once since the profiler began."""
    changes = []

    def add(events) -> None:
        for event in events:
            if "Allocation" in str(event.tag):
                changes.append((event.start_time_ns, event.extra_fields.alloc_size))
            add(event.children)

    add(profiler.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    now = most = 0
    for _, change in sorted(changes, key=lambda each: each[0]):
        now += change
        most = max(most, now)
    return most


if __name__ == "__main__":
    main()
