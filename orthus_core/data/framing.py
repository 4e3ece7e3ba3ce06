"""Describes the part of a picture that a model sees: the centre square at the model's own size."""

from __future__ import annotations


def framing(width: int, height: int, size: int) -> str:
    """Describes how a picture is cropped and scaled, such as `its middle 48 x 48 is seen, at
    16 x 16`; empty if it has the model's size already.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        size: Side of the model's pictures in pixels.
    """
    short = min(width, height)
    if width == height == size:
        return ""
    scaled = f"at {size} x {size}"
    if width == height:
        return f"it is seen {scaled}"
    return f"its middle {short} x {short} is seen" + (f", {scaled}" if short != size else "")
