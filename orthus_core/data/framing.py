"""What of a picture a model sees: its middle square, at the model's own size, said in words."""

from __future__ import annotations


def framing(width: int, height: int, size: int) -> str:
    """How a picture is brought to the square of the model, as in `its middle 48 x 48 is seen, at
    16 x 16`; empty where it is that square already.

    Args:
        width, height: Of the picture, in pixels.
        size: Side of the model's pictures, in pixels.
    """
    short = min(width, height)
    if width == height == size:
        return ""
    scaled = f"at {size} x {size}"
    if width == height:
        return f"it is seen {scaled}"
    return f"its middle {short} x {short} is seen" + (f", {scaled}" if short != size else "")
