"""Where a training's step spends its time: python benchmarks/training_step.py --init-from mini

Parts of a step of `posttrain` on the small world, each waited for; the same step at a shape it has
met and at one it has not, which on a card are far apart; and how fast workers make rows.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.data.collate import Batch
from orthus_core.device import has_bf16
from orthus_core.losses.joint import JointLoss
from orthus_core.recipe import load
from orthus_core.recipe.training import PosttrainRecipe
from orthus_core.train.batches import orthus_batch_builder, read_rows
from orthus_core.train.distributed import device
from orthus_core.train.freeze import all_but_autoencoder
from orthus_core.train.optim import WeightAverage, make_optimizers
from orthus_core.train.prefetch import Prefetcher
from orthus_core.train.stages import with_counts
from orthus_core.train.trainings import cache_of

STEPS = 6


class Parts:
    """Milliseconds of each part, the device waited for."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str):
        begun = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.spent[name] += 1e3 * (time.perf_counter() - begun)

    def row(self, name: str, steps: int) -> str:
        means = [spent / steps for spent in self.spent.values()]
        return f"| {name} | " + " | ".join(f"{ms:.1f}" for ms in (sum(means), *means)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init-from", default="mini", help="a model: folder or alias")
    parser.add_argument("--batch", type=int, default=48, help="rows a step")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--set", action="append", default=[], help="key=value of the recipe")
    options = parser.parse_args()
    sets = ("data.packing=true", "data.own_pictures=true", "optim.kind=muon", *options.set)
    recipe = load(PosttrainRecipe, None, sets)

    # 1. What a training is made of.
    place = device()
    opened = open_orthus(options.init_from, device=place, dtype="fp32")
    model, tokenizer = opened.model, opened.processor.tokenizer
    reading = read_rows(recipe.data)
    rows = next(stop.value for stop in _ends(reading))
    with TemporaryDirectory() as folder:
        cache = cache_of(opened, Path(folder) / "out", recipe.data)
    batch_builder = orthus_batch_builder(recipe.data, model.config, tokenizer, cache)
    objective = JointLoss(model, lambda_image=1, text_weight=0.5, repeats=4, prefix_noise=0.2)
    objective.to(place).train()
    parameters = all_but_autoencoder(model)
    optimizers = make_optimizers(parameters, recipe.optim)
    average = WeightAverage(parameters, 0.998)

    def made(number: int) -> Batch:
        """Batch number n without features."""
        numbers = range(number * options.batch, (number + 1) * options.batch)
        return batch_builder.loaded([batch_builder.encode(rows.train(n)) for n in numbers])

    def step(batch: Batch, parts: Parts) -> None:
        with parts.part("features"):
            ((batch, counts),) = with_counts([batch_builder.finished(batch)])
            batch = batch.to(place)
        with parts.part("forward"), torch.autocast(place.type, torch.bfloat16, has_bf16(place)):
            losses = objective(batch, counts)
        with parts.part("backward"):
            losses.total.backward()
        with parts.part("clip"):
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        with parts.part("optimiser"):
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        with parts.part("average"):
            average.update(STEPS)

    # 2. Steps at shapes that are new, and again.
    batches = [made(number) for number in range(STEPS)]
    for _ in range(2):
        step(batches[0], Parts())
    print("| ms a step | all | features | forward | backward | clip | optimiser | average |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("other rows, first met", "the same again"):
        parts = Parts()
        for batch in batches:
            step(batch, parts)
        print(parts.row(name, STEPS))
    if place.type == "cuda":
        print(f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")

    # 3. Rows alone.
    ahead = Prefetcher(made, options.workers)
    for number in range(2 * options.workers):
        ahead(number)
    begun = time.perf_counter()
    for number in range(2 * options.workers, 4 * options.workers):
        ahead(number)
    rate = 2 * options.workers * options.batch / (time.perf_counter() - begun)
    print(f"{options.workers} workers make {rate:.0f} rows a second")


def _ends(generator):
    """How a generator ends, its events passed over."""
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            yield stop
            return


if __name__ == "__main__":
    main()
