"""mini-recon: how well the autoencoder gives pictures back, from features and from codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from orthus_core.data.pictures import Picture
from orthus_core.evaluation.reconstruction import BYTE_RANGE, levels, psnr, ssim
from orthus_core.events import Progress
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.model_under_test import CHUNK, Work, chunked, in_unit_range
from orthus_core.world.benchmark.scores import average, mean
from orthus_core.world.scenes import a_scene
from orthus_core.world.single_sprites import any_single

NAME = "mini-recon"
PICTURES = 100
"""Of held-out scenes, and as many of sprites on grounds or in styles that are held out."""
COLOURED_CHANCE = 0.5
SHOWN = 20


@torch.no_grad()
def run(bench: EvalContext) -> Work[TaskResult]:
    """PSNR and SSIM of both paths, over scenes and over sprites. Chance is a picture of nothing but
    the mean colour.
    """
    vq = bench.subject.model.model.vqmodel
    paths: dict[str, Callable[[Tensor], Tensor]] = {
        "features": lambda pixels: vq.pixels(vq.features(pixels)),
        "codes": lambda pixels: vq.pixels_of_codes(vq.codes(pixels)),
        "mean": lambda pixels: pixels.mean((2, 3), keepdim=True).expand_as(pixels),
    }
    scores, samples, rows = [], [], []
    of = _pictures(bench)
    done, total = 0, sum(map(len, of.values()))
    for part, pictures in of.items():
        decibels: dict[str, list[float]] = {path: [] for path in paths}
        similarity: dict[str, list[float]] = {path: [] for path in paths}
        shown: dict[str, list[Tile]] = {"truth": [], "features": [], "codes": []}
        for _, some in chunked(pictures, CHUNK):
            pixels_M3HW = bench.subject.pixels(some)
            truth = levels(pixels_M3HW)
            shown["truth"] += [Tile(in_unit_range(each)) for each in pixels_M3HW]
            for path, through in paths.items():
                decoded = through(pixels_M3HW.to(vq.device, vq.dtype))
                given = levels(decoded)
                decibels[path] += psnr(given, truth, data_range=BYTE_RANGE).tolist()
                similarity[path] += ssim(given, truth, data_range=BYTE_RANGE).tolist()
                if path in shown:
                    shown[path] += [Tile(in_unit_range(each)) for each in decoded]
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
            {"part": part, "features_psnr": features, "codes_psnr": codes}
            for features, codes in zip(decibels["features"], decibels["codes"], strict=True)
        ]
        rows += [tiles[:SHOWN] for tiles in shown.values()]
    return TaskResult(NAME, scores, samples, rows)


def _pictures(bench: EvalContext) -> dict[str, list[Picture]]:
    count = bench.count(PICTURES, parts=2)
    rng = bench.rng(NAME)
    world = bench.world
    return {
        "scenes": [world.shown(a_scene(rng, world).scene) for _ in range(count)],
        "sprites": [any_single(rng, world, COLOURED_CHANCE).picture(world) for _ in range(count)],
    }
