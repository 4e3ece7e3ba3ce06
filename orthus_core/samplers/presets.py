"""Presets: how much of a picture's time goes into denoising, by name.

Early patches settle what the picture shows, late ones are nearly determined by what is there, so
they need fewer steps (DiSA, 2505.20297): a preset's steps fall in a straight line from the first
patch of a picture to its last.
"""

from __future__ import annotations

from typing import NamedTuple

from orthus_core.errors import PromptError


class Preset(NamedTuple):
    """What a preset changes in a model's own sampling.

    steps: Of a picture's first patch, where the model's own are more; None leaves the model's own.
    last_share: The share of them that its last patch takes.
    scheduler: The solver (see `solver_for`); None leaves the model's own.
    """

    steps: int | None
    last_share: float
    scheduler: str | None

    def first_steps(self, own: int) -> int:
        """Steps of the first patch for a model that takes `own` by itself."""
        return own if self.steps is None else min(own, self.steps)

    def last_steps(self, first: int) -> int:
        """Steps of the last patch when the first takes `first`."""
        return max(1, round(first * self.last_share))


PRESETS = {
    "exact": Preset(None, 1.0, None),
    "fast": Preset(20, 0.5, "dpm++"),
    "turbo": Preset(10, 0.5, "unipc"),
}


def preset_of(name: str) -> Preset:
    """The preset of this name. Raises: PromptError when there is none."""
    if name not in PRESETS:
        raise PromptError(
            f"there is no preset {name!r}", where="preset", hint=f"use one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def steps_at(first: int, last: int, patch: int, patches: int) -> int:
    """Steps of patch number `patch` of `patches`, on the straight line from `first` to `last`."""
    if patches == 1:
        return first
    return round(first + (last - first) * patch / (patches - 1))
