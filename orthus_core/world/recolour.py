"""Recolours a sprite: its hue is replaced, light and shade stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image


class Hue(NamedTuple):
    """A target colour, all values in 0..1.

    Attributes:
        hue: Hue.
        saturation: Median saturation.
        value: Median brightness.
    """

    hue: float
    saturation: float
    value: float


HUES: Mapping[str, Hue] = {
    "red": Hue(0.0, 0.85, 0.85),
    "orange": Hue(0.08, 0.9, 0.97),
    "yellow": Hue(0.145, 0.85, 1.0),
    "green": Hue(0.36, 0.75, 0.7),
    "blue": Hue(0.6, 0.8, 0.9),
    "purple": Hue(0.77, 0.7, 0.75),
    "pink": Hue(0.92, 0.45, 1.0),
}

# Pixels less saturated than this (white, grey, black) keep their colour.
PALE = 0.22


def recolour(rgba: Image.Image, colour: str) -> Image.Image:
    """The picture (with alpha) with its coloured parts in another colour of `HUES`."""
    target = HUES[colour]
    alpha = rgba.getchannel("A")
    hsv_HW3 = np.asarray(rgba.convert("RGB").convert("HSV"), dtype=np.float32) / 255
    _, saturation_HW, value_HW = np.moveaxis(hsv_HW3, -1, 0)
    coloured_HW = (saturation_HW > PALE) & (value_HW > 0.15) & (np.asarray(alpha) > 0)
    if not coloured_HW.any():
        return rgba
    # Brightness and saturation vary around the target's as they did around their own median.
    value_HW = np.clip(value_HW * target.value / np.median(value_HW[coloured_HW]), 0, 1)
    typical = float(np.median(saturation_HW[coloured_HW]))
    saturated_HW = np.clip(saturation_HW * target.saturation / typical, 0, 1)
    changed_HW3 = np.stack([np.full_like(value_HW, target.hue), saturated_HW, value_HW], axis=-1)
    out_HW3 = np.where(coloured_HW[..., None], changed_HW3, hsv_HW3)
    image = Image.fromarray(np.rint(out_HW3 * 255).astype(np.uint8), "HSV").convert("RGB")
    image.putalpha(alpha)
    return image
