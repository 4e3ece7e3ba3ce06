"""Backdrops of scenes: a plain colour, or a sky above a ground.

There are 16 outdoor backdrops: four grounds, each under four skies. They are painted from colours
alone, so a picture of any size shows the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from orthus_core.world.sprites import WHITE, Colour

COLOURS: Mapping[str, Colour] = {
    "red": (220, 60, 55),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 80),
    "green": (85, 180, 95),
    "blue": (70, 130, 230),
    "purple": (145, 90, 205),
    "pink": (250, 170, 200),
    "brown": (140, 95, 60),
    "grey": (150, 150, 150),
    "black": (25, 25, 25),
}
PLAIN: Mapping[str, Colour] = {"white": WHITE} | COLOURS

# Colours at the top and at the horizon of each sky; at the near and the far end of each ground.
SKIES: Mapping[str, tuple[Colour, Colour]] = {
    "day": ((110, 180, 245), (205, 232, 252)),
    "sunset": ((120, 70, 150), (252, 160, 90)),
    "night": ((12, 16, 48), (46, 54, 110)),
    "rain": ((96, 106, 120), (160, 170, 180)),
}
GROUNDS: Mapping[str, tuple[Colour, Colour]] = {
    "meadow": ((80, 160, 60), (140, 200, 95)),
    "beach": ((232, 205, 140), (245, 225, 170)),
    "snow": ((215, 226, 240), (246, 250, 255)),
    "autumn": ((160, 96, 40), (214, 150, 66)),
}
# Phrases for a place and a time of day in a sentence.
GROUND_WORDS: Mapping[str, str] = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "snow": "in the snow",
    "autumn": "in an autumn field",
}
SKY_WORDS: Mapping[str, str] = {
    "day": "by day",
    "sunset": "at sunset",
    "night": "at night",
    "rain": "in the rain",
}
OUTDOORS: tuple[str, ...] = tuple(f"{ground} {sky}" for ground in GROUNDS for sky in SKIES)
BACKDROPS: tuple[str, ...] = (*PLAIN, *OUTDOORS)

# Share of the picture that is sky, and the factor by which each sky dims the ground.
HORIZON = 5 / 8
LIGHT: Mapping[str, float] = {"day": 1.0, "sunset": 0.85, "night": 0.45, "rain": 0.75}


def is_outdoors(backdrop: str) -> bool:
    """Whether a backdrop is a sky above a ground."""
    return backdrop in OUTDOORS


def place_of(backdrop: str) -> tuple[str, str]:
    """The ground and the sky of an outdoor backdrop: ("meadow", "night")."""
    ground, sky = backdrop.split()
    return ground, sky


@lru_cache(maxsize=128)
def paint(backdrop: str, size: int) -> np.ndarray:
    """A backdrop of `BACKDROPS` as uint8 [size, size, 3], cached and therefore read-only."""
    canvas_HW3 = np.empty((size, size, 3), dtype=np.float64)
    if backdrop in PLAIN:
        canvas_HW3[:] = PLAIN[backdrop]
    else:
        ground, sky = place_of(backdrop)
        horizon = round(size * HORIZON)
        canvas_HW3[:horizon] = _gradient(*SKIES[sky], horizon)
        near, far = GROUNDS[ground]
        canvas_HW3[horizon:] = LIGHT[sky] * _gradient(far, near, size - horizon)
    painted_HW3 = np.rint(canvas_HW3).astype(np.uint8)
    painted_HW3.setflags(write=False)
    return painted_HW3


def _gradient(top: Colour, bottom: Colour, rows: int) -> np.ndarray:
    """A vertical gradient between two colours: [rows, 1, 3]."""
    share_H11 = np.linspace(0, 1, rows)[:, None, None]
    return (1 - share_H11) * np.array(top) + share_H11 * np.array(bottom)
