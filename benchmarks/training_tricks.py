"""The effect of a setting of `posttrain`, measured in short runs:

    python benchmarks/training_tricks.py --init-from runs/mini-base \\
        --arm default --arm "lr 3e-3" optim.lr=3e-3

Each arm is a short `posttrain` of the recipe on one small closed set of rows, so that something is
learnt in few steps. It is measured on those rows with fixed noise: the diffusion loss at evenly
spaced times, given true patches and slightly wrong ones, and the distance of freely drawn pictures
from the rows' own. The table has a line for each arm; results are in docs/training.md.

Legend: B batch, S sequence, X = B S positions, N patches, C feature channels, D hidden, M pictures,
    P patches of one.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orthus_core import Orthus
from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.data.collate import Batch
from orthus_core.data.document import Document
from orthus_core.device import limit_threads
from orthus_core.events import StepDone
from orthus_core.losses.diffusion import Draws, diffusion_loss
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.packed_attention import packed_mask
from orthus_core.recipe import load
from orthus_core.recipe.training import PosttrainRecipe
from orthus_core.train.batches import orthus_batch_builder, read_rows
from orthus_core.train.trainings import cache_of, posttrain, words_of

TIMES = 10  # evenly spaced times that the loss is measured at
WRONG = 0.4  # noise on patches that are read in the second loss, in standard deviations
DRAWN = {"steps": 12, "guidance": 1.5, "noise_scale": 0.8}
FIRST = 5  # steps whose time does not count: the first of a shape are slower


class Score(NamedTuple):
    """What an arm reached.

    Attributes:
        loss, loss_wrong: Diffusion loss, from true and from slightly wrong earlier patches.
        drawn: Mean PSNR of pictures drawn freely, to their rows' own, in dB.
        right: Share of them that are nearer to their own row's picture than to any other's.
    """

    loss: float
    loss_wrong: float
    drawn: float
    right: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init-from", required=True, help="an Orthus whose embedding is open")
    parser.add_argument("--recipe", default="starter/5-posttrain")
    parser.add_argument("--rows", type=int, default=48, help="rows of the closed set")
    parser.add_argument("--drawn", type=int, default=32, help="of them that are drawn")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16, help="rows a step")
    parser.add_argument("--out", type=Path, default=Path("runs/tricks"))
    parser.add_argument("--set", action="append", default=[], help="key=value for all arms")
    parser.add_argument(
        "--arm",
        nargs="+",
        action="append",
        default=[],
        help="a name, then key=value of the recipe; init_from=MODEL begins with another model",
    )
    options = parser.parse_args()
    limit_threads()
    common = (
        "data.tasks.text_to_image=1",
        *(f"data.tasks.{task}=0" for task in ("scene", "caption", "scene_question")),
        *(f"data.tasks.{task}=0" for task in ("edit", "scene_edit", "story")),
        f"data.rows={options.rows}",
        f"data.cache={options.out / 'features'}",
        f"optim.steps={options.steps}",
        f"optim.batch_size={options.batch}",
        'optim.schedule="cosine"',  # a trapezoid's fall may be longer than a trial
        "optim.decay_steps=0",
        "optim.warmup_steps=20",
        "optim.ema_decay=0.95",
        *(f"log.{key}=0" for key in ("sample_every", "save_every", "validate_every")),
        *options.set,
    )
    print(
        "| setting | loss | loss, wrong patches | drawn, dB | nearest its own | CPU s a step |\n"
        "|---|---|---|---|---|---|",
        flush=True,
    )
    for name, *values in options.arm or [["default"]]:
        start = options.init_from
        sets = []
        for value in values:
            key, _, given = value.partition("=")
            if key == "init_from":
                start = given
            else:
                sets.append(value)
        recipe = load(PosttrainRecipe, options.recipe, (*common, *sets))
        folder = options.out / name.replace(" ", "-").replace("/", "-")
        shutil.rmtree(folder, ignore_errors=True)
        seconds = trained(recipe, start, folder)
        score = measured(recipe, folder, options.drawn)
        print(
            f"| {name} | {score.loss:.4f} | {score.loss_wrong:.4f} | {score.drawn:.1f} "
            f"| {score.right:.2f} | {seconds:.2f} |",
            flush=True,
        )
        record = {"arm": name, "values": values, "steps": recipe.optim.steps, "seconds": seconds}
        with (options.out / "arms.jsonl").open("a") as book:
            book.write(json.dumps(record | score._asdict()) + "\n")
        shutil.rmtree(folder.with_name(folder.name + ".training"), ignore_errors=True)


def trained(recipe: PosttrainRecipe, start: str, folder: Path) -> float:
    """Train an arm; returns processor seconds a step, with all that belongs to a step."""
    begun = spent = 0.0
    for event in posttrain(recipe, start, folder, overwrite=True):
        if isinstance(event, StepDone):
            spent = time.process_time() - begun
            if event.step == FIRST:
                begun = time.process_time()
            if event.step % 40 == 0:
                print(f"<!-- {event.step}: {event.metrics['image']:.4f} -->", flush=True)
    return spent / (recipe.optim.steps - FIRST)


@torch.no_grad()
def measured(recipe: PosttrainRecipe, folder: Path, drawn: int) -> Score:
    """The figures of a trained arm."""
    opened = open_orthus(folder, dtype="fp32")
    model, tokenizer = words_of(opened)
    model.eval()
    rows = last_of(read_rows(recipe.data))
    cache = cache_of(opened, folder, recipe.data)
    data = replace(recipe.data, packing=False)
    builder = orthus_batch_builder(data, model.config, tokenizer, cache)
    documents = unlike([rows.train(number) for number in range(recipe.data.rows)])
    batch = builder.collate([builder.encode(document) for document in documents])
    assert batch.features_NC is not None, "every row has a picture"
    features_NC = batch.features_NC
    generator = torch.Generator().manual_seed(1)
    wrong_NC = features_NC + WRONG * torch.randn(features_NC.shape, generator=generator)
    loss, loss_wrong = (loss_from(model, batch, read_NC) for read_NC in (features_NC, wrong_NC))

    orthus = Orthus(model, tokenizer)
    prompts = [prompt_of(document) for document in documents[:drawn]]
    made = orthus.generate(prompts, seed=[7], **DRAWN)
    true_MPC = features_NC.unflatten(0, (len(documents), -1))[:drawn]
    true_M3HW = model.decode_images(true_MPC).float().clamp(-1, 1)
    drawn_MHW3 = torch.from_numpy(np.stack([np.asarray(image) for image in made.images]))
    drawn_M3HW = drawn_MHW3.permute(0, 3, 1, 2) / 127.5 - 1
    errors_MM = (drawn_M3HW.unsqueeze(1) - true_M3HW).square().mean((2, 3, 4)) / 4
    decibel_M = -10 * errors_MM.diagonal().clamp_min(1e-8).log10()
    right_M = errors_MM.argmin(dim=1) == torch.arange(len(errors_MM))
    return Score(loss, loss_wrong, decibel_M.mean().item(), right_M.float().mean().item())


def loss_from(model: OrthusForConditionalGeneration, batch: Batch, read_NC: Tensor) -> float:
    """Mean diffusion loss at the fixed times, with the same noise for every arm."""
    mask, position_ids_BS = packed_mask(batch.attention_mask_BS, model.dtype)
    hidden_XD = model.run_backbone(
        batch.ids_BS, read_NC, attention_mask=mask, position_ids=position_ids_BS
    ).hidden_BSD.flatten(0, 1)
    assert batch.features_NC is not None, "every row has a picture"
    clean_NC = batch.features_NC.float() * model.config.latent_scale
    schedule = model.schedule
    generator = torch.Generator().manual_seed(2)
    losses = []
    for part in range(TIMES):
        noise_NC = torch.randn(clean_NC.shape, generator=generator)
        time_of_all = math.floor((part + 0.5) / TIMES * schedule.num_timesteps)
        draws = Draws(noise_NC, torch.full((len(clean_NC),), time_of_all))
        cond_ND = hidden_XD[batch.image_index_N]
        losses.append(diffusion_loss(model.mlp_head, schedule, clean_NC, cond_ND, draws).item())
    return sum(losses) / TIMES


def unlike(documents: Sequence[Document]) -> list[Document]:
    """Those whose prompt is no other's: only then is a picture the one that its words mean."""
    prompts = [prompt_of(document) for document in documents]
    return [d for d, prompt in zip(documents, prompts, strict=True) if prompts.count(prompt) == 1]


def prompt_of(document: Document) -> str:
    """The text of the user's turns."""
    first = document.segments[0].value
    assert isinstance(first, str), "rows of text to image begin with text"
    return first


def last_of(generator):
    """What a generator returns, its events passed over."""
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return stop.value


if __name__ == "__main__":
    main()
