"""Pictures that were drawn in one go: what each says of the others.

Rounding depends on how many rows a product has, so the last bit of a picture may hang on those it
was drawn with. A picture that names them can be drawn again to that bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orthus_core.results.picture import Making

# A picture names so many others that it was drawn with; beyond, its file would be mostly names.
MOST_TOLD = 64


def with_run(makings: Sequence[Making]) -> list[Making]:
    """How each picture was made, and among which others."""
    run = _run(makings)
    return [made._replace(among=run) for made in makings]


def _run(makings: Sequence[Making]) -> dict[str, Any] | None:
    """Prompts, seeds and files of all; nothing when a picture is alone, or they are many, or they
    are not each subject with each seed."""
    subjects = list(dict.fromkeys((made.prompt, made.files) for made in makings))
    seeds = list(dict.fromkeys(made.seed for made in makings))
    pairs = [(*subject, seed) for subject in subjects for seed in seeds]
    if not 1 < len(makings) <= MOST_TOLD:
        return None
    if pairs != [(made.prompt, made.files, made.seed) for made in makings]:
        return None
    files = [list(files) for _, files in subjects]
    return {
        "prompts": [prompt for prompt, _ in subjects],
        "seeds": seeds,
        **({"files": files} if any(files) else {}),
    }
