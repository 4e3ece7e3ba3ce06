"""The figures of an arm's training, from the metrics that it wrote: losses, gradients, the mixture.

They are of the trainings and not of questions, so each seed has one value.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthus_core.train.metrics import METRICS

# Steps at the beginning that say nothing of stability: the learning rate of recipe
# paper/5-posttrain still rises.
SETTLING = 50
HELD_OUT = "validation_"
IMAGE, TEXT = "image", "text"
FIGURES = {
    TEXT: f"{HELD_OUT}text",
    IMAGE: f"{HELD_OUT}image",
    "entropy": f"{HELD_OUT}mixture_entropy",
    "distance": f"{HELD_OUT}argmin_distance",
}
"""Figures on held-out rows after the last step: our names, and those of the metrics."""


def training_figures(model: Path, base: Path | None = None) -> dict[str, float]:
    """The figures of a trained model; those that it has not are left out.

    Args:
        model: Its folder.
        base: The folder of the model that it began with, for the mixture before.
    """
    lines = _lines(model)
    found = {ours: _last(lines, theirs) for ours, theirs in FIGURES.items()}
    if base is not None:
        found["entropy_before"] = _last(_lines(base), FIGURES["entropy"])
    norms = [line["grad_norm"] for line in lines if "grad_norm" in line]
    norms = norms[SETTLING:] or norms
    if norms:
        found["log_gradient"] = math.log10(max(statistics.fmean(norms), 1e-12))
        median = statistics.median(norms)
        found["gradient_jump"] = max(norms) / median if median else None
    return {name: value for name, value in found.items() if value is not None}


def _lines(model: Path) -> list[dict[str, Any]]:
    file = model / METRICS
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def _last(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return next((line[name] for line in reversed(lines) if line.get(name) is not None), None)
