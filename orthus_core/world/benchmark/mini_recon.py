"""mini-recon: how well does the autoencoder reconstruct pictures, from features and from codes?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from orthus_core.data.pictures import Picture
from orthus_core.evaluation.reconstruction import BYTE_RANGE, psnr, ssim, to_byte_levels
from orthus_core.events import Progress
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.model_under_test import CHUNK, Work, chunks, to_unit_range
from orthus_core.world.benchmark.scores import average, mean
from orthus_core.world.scenes import sample_scene
from orthus_core.world.single_sprites import sample_single

NAME = "mini-recon"
PICTURES = 100
"""Number of held-out scenes, and of sprites on held-out grounds."""
COLOURED_CHANCE = 0.5
SHEET_PICTURES = 20


@torch.no_grad()
def run(context: EvalContext) -> Work[TaskResult]:
    """PSNR and SSIM of both paths, over scenes and over sprites.

    The score by chance is that of each picture's mean colour.
    """
    vq = context.subject.model.model.vqmodel
    paths: dict[str, Callable[[Tensor], Tensor]] = {
        "features": lambda pixels: vq.pixels(vq.features(pixels)),
        "codes": lambda pixels: vq.pixels_of_codes(vq.codes(pixels)),
        "mean": lambda pixels: pixels.mean((2, 3), keepdim=True).expand_as(pixels),
    }
    scores, samples, rows = [], [], []
    parts = _pictures(context)
    done, total = 0, sum(map(len, parts.values()))
    for part, pictures in parts.items():
        decibels: dict[str, list[float]] = {path: [] for path in paths}
        similarity: dict[str, list[float]] = {path: [] for path in paths}
        tiles_of: dict[str, list[Tile]] = {"truth": [], "features": [], "codes": []}
        for _, some in chunks(pictures, CHUNK):
            pixels_M3HW = context.subject.pixels(some)
            truth = to_byte_levels(pixels_M3HW)
            tiles_of["truth"] += [Tile(to_unit_range(each)) for each in pixels_M3HW]
            for path, through in paths.items():
                decoded = through(pixels_M3HW.to(vq.device, vq.dtype))
                output = to_byte_levels(decoded)
                decibels[path] += psnr(output, truth, data_range=BYTE_RANGE).tolist()
                similarity[path] += ssim(output, truth, data_range=BYTE_RANGE).tolist()
                if path in tiles_of:
                    tiles_of[path] += [Tile(to_unit_range(each)) for each in decoded]
            done += len(some)
            yield Progress(NAME, done, total, "pictures")
        for path in ("features", "codes"):
            about = f"{part}, {path}"
            scores.append(average(f"{about}, dB", decibels[path], chance=mean(decibels["mean"])))
            scores.append(
                average(
                    f"{about}, SSIM", similarity[path], chance=mean(similarity["mean"]), truth=1.0
                )
            )
        samples += [
            {
                "part": part,
                **{f"{path}_psnr": decibels[path][number] for path in ("features", "codes")},
                **{f"{path}_ssim": similarity[path][number] for path in ("features", "codes")},
            }
            for number in range(len(pictures))
        ]
        rows += [tiles[:SHEET_PICTURES] for tiles in tiles_of.values()]
    return TaskResult(NAME, scores, samples, rows)


def _pictures(context: EvalContext) -> dict[str, list[Picture]]:
    count = context.count(PICTURES, parts=2)
    rng = context.rng(NAME)
    world = context.world
    return {
        "scenes": [world.scene_image(sample_scene(rng, world).scene) for _ in range(count)],
        "sprites": [
            sample_single(rng, world, COLOURED_CHANCE).picture(world) for _ in range(count)
        ],
    }
