"""A picture in the terminal while it is drawn: two pixels per character, one above the other.

The upper half block U+2580 paints the upper pixel with the text's colour and the lower one with the
background's. Where colours are disabled, shading characters show brightness.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from orthus_cli.console import Reporter
from orthus_cli.streams import encoding_of
from orthus_core.events import ImageDone, PatchDone

if TYPE_CHECKING:
    from PIL import Image
    from rich.text import Text
    from torch import Tensor

    from orthus_core.model.interleaved import InterleavedModel

E = TypeVar("E")
UPPER_HALF = "\N{UPPER HALF BLOCK}"
SHADES = " \N{LIGHT SHADE}\N{MEDIUM SHADE}\N{DARK SHADE}\N{FULL BLOCK}"
ASCII_SHADES = " .:+#@"
WIDEST = 64  # characters; beyond, it is quicker to open the file


def with_preview(r: Reporter, events: Iterable[E], model: InterleavedModel) -> Iterator[E]:
    """Passes events on, and shows the first unfinished picture whenever a row of patches is full.

    Without a terminal, nothing is shown or decoded.
    """
    if not r.can_show:
        r.say("--preview needs a terminal to draw in")
        yield from events
        return
    columns = model.config.grid[1]
    patches: dict[tuple[int, int], list[Tensor]] = {}
    for event in events:
        if isinstance(event, PatchDone) and event.feature_C is not None:
            patches.setdefault((event.row, event.image), []).append(event.feature_C)
            mine = patches[event.row, event.image]
            if (event.row, event.image) == min(patches) and len(mine) % columns == 0:
                r.show(canvas(rows_so_far(model, mine), *r.room()))
        elif isinstance(event, ImageDone):
            patches.pop((event.row, event.image), None)
            if not patches:
                r.show(None)
        yield event


def rows_so_far(model: InterleavedModel, patches: list[Tensor]) -> Image.Image:
    """The picture so far, white elsewhere."""
    import torch

    from orthus_core.data.pixels import to_image
    from orthus_core.samplers.decode import decode_unfinished

    with torch.no_grad():
        return to_image(decode_unfinished(model, [torch.stack(patches)])[0])


def canvas(image: Image.Image, columns: int, lines: int) -> Text:
    """The picture in at most `columns` columns and `lines` lines of a terminal."""
    import numpy as np
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    width = max(1, min(columns, WIDEST, 2 * lines * image.width // image.height))
    height = max(1, width * image.height // image.width // 2)
    small_HW3 = np.asarray(image.convert("RGB").resize((width, 2 * height))).tolist()
    plain = "NO_COLOR" in os.environ or not _has(UPPER_HALF)
    text = Text(no_wrap=True)
    for line in range(height):
        for column in range(width):
            over, under = small_HW3[2 * line][column], small_HW3[2 * line + 1][column]
            if plain:
                text.append(_shade(over, under))
            else:
                style = Style(color=Color.from_rgb(*over), bgcolor=Color.from_rgb(*under))
                text.append(UPPER_HALF, style)
        text.append("\n" if line + 1 < height else "")
    return text


def _shade(*pixels: list[int]) -> str:
    """A character about as bright as these pixels are on average, on a dark screen."""
    brightness = sum(map(sum, pixels)) / (3 * 256 * len(pixels))
    shades = SHADES if _has(SHADES) else ASCII_SHADES
    return shades[int(brightness * len(shades))]


def _has(characters: str) -> bool:
    """Whether the terminal's encoding has these characters."""
    try:
        characters.encode(encoding_of(sys.stderr))
    except UnicodeEncodeError:
        return False
    return True
