"""The report of a benchmark: result.json, samples.jsonl, and a contact sheet for each task."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from orthus_core.image_grid import image_grid, rounded_image
from orthus_core.version import __version__
from orthus_core.world.benchmark.context import TaskResult, Tile
from orthus_core.world.benchmark.detector import JUDGE
from orthus_core.world.benchmark.scores import Score

RESULT = "result.json"
SAMPLES = "samples.jsonl"
# Maximum number of tiles side by side; longer rows are wrapped.
ACROSS = 20
# Width of a tile's frame in pixels, and its colours: no verdict, right, wrong.
FRAME = 2
WHITE, GREEN, RED = (1.0, 1.0, 1.0), (0.1, 0.65, 0.2), (0.85, 0.15, 0.15)


def report_files(
    results: Sequence[TaskResult], model: Mapping[str, Any], run: Mapping[str, Any]
) -> dict[str, bytes]:
    """The content of the report's files, by file name.

    Args:
        results: Results of the tasks, in order.
        model: Description of the model: name, hash, device, precision.
        run: Settings of the run: seed, limit, tasks, sampling.
    """
    table = {
        "benchmark": "mini",
        "judge": JUDGE,
        "version": __version__,
        "model": dict(model),
        "run": dict(run),
        "tasks": {
            result.task: [score_table(score) for score in result.scores] for result in results
        },
    }
    lines = [
        json.dumps({"task": result.task, **sample}, ensure_ascii=False)
        for result in results
        for sample in result.samples
    ]
    files = {
        RESULT: (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode(),
        SAMPLES: ("\n".join(lines) + "\n").encode(),
    }
    for result in results:
        file = io.BytesIO()
        tile_grid(result.sheet).save(file, "PNG")
        files[f"{result.task}.png"] = file.getvalue()
    return files


def score_table(score: Score) -> dict[str, Any]:
    """A score as a JSON object; missing and infinite numbers are null."""
    return {
        "name": score.name,
        "value": _number(score.value),
        "n": score.n,
        "interval": [_number(bound) for bound in score.interval],
        "chance": _number(score.chance),
        "truth": _number(score.truth),
        "ceiling": _number(score.ceiling),
    }


def tile_grid(rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Rows of tiles in one image; correct pictures have a green frame, wrong ones a red frame."""
    lines = [
        [rounded_image(with_frame(tile)) for tile in row[first : first + ACROSS]]
        for row in rows
        for first in range(0, len(row), ACROSS)
    ]
    if not lines:
        return Image.new("RGB", (1, 1), "white")
    return image_grid(lines)


def with_frame(tile: Tile) -> Tensor:
    """The picture of a tile with a frame in the colour of its verdict: [3, H + 2 F, W + 2 F]."""
    colour = {None: WHITE, True: GREEN, False: RED}[tile.right]
    channels = [
        F.pad(channel_HW, (FRAME,) * 4, value=value)
        for channel_HW, value in zip(tile.picture_3HW, colour, strict=True)
    ]
    return torch.stack(channels)


def _number(value: float | None) -> float | None:
    return round(value, 6) if value is not None and math.isfinite(value) else None
