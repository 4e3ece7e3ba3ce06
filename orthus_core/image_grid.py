"""Pictures side by side in one: prompts and seeds, samples of a training, a benchmark's tiles.

Legend: H height, W width, 3 colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

WHITE = (255, 255, 255)
GAP = 4  # pixels between two pictures of a contact sheet


def columns_for(pictures: int, *, per_prompt: int) -> int:
    """Columns of a sheet: a prompt's seeds side by side, or near a square where it has one."""
    return per_prompt if 1 < per_prompt < pictures else math.ceil(math.sqrt(pictures))


def contact_sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """The pictures in reading order on white; a cell is as large as the largest of them."""
    assert pictures and columns > 0, "a sheet shows something"
    starts = range(0, len(pictures), columns)
    return image_grid([pictures[start : start + columns] for start in starts], gap=GAP)


def image_grid(rows: Sequence[Sequence[Image.Image]], *, gap: int = 0) -> Image.Image:
    """Rows of pictures on white; a cell is as large as the largest picture of all.

    Args:
        rows: At least one picture; rows may be of different lengths.
        gap: Pixels between two cells.
    """
    pictures = [picture for row in rows for picture in row]
    width = max(picture.width for picture in pictures) + gap
    height = max(picture.height for picture in pictures) + gap
    size = (max(map(len, rows)) * width - gap, len(rows) * height - gap)
    grid = Image.new("RGB", size, WHITE)
    for row, line in enumerate(rows):
        for column, picture in enumerate(line):
            grid.paste(picture, (column * width, row * height))
    return grid


def with_caption(picture: Image.Image, text: str, *, size: int = 12, lines: int = 2) -> Image.Image:
    """A picture with centred text below it, on white.

    Args:
        picture: RGB picture; text is wrapped to its width.
        text: Caption; words that do not fit into the lines are left out.
        size: Height of the letters in pixels.
        lines: Lines of text that there is room for, whether they are used or not.
    """
    font = ImageFont.load_default(size)
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= picture.width or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    line_height = size + size // 3
    captioned = Image.new("RGB", (picture.width, picture.height + lines * line_height), WHITE)
    captioned.paste(picture)
    draw = ImageDraw.Draw(captioned)
    for number, line in enumerate(wrapped[:lines]):
        place = (picture.width / 2, picture.height + number * line_height)
        draw.text(place, line, fill="black", font=font, anchor="ma")
    return captioned


def rounded_image(values_3HW: Tensor) -> Image.Image:
    """A picture of values in [0, 1], each rounded to the nearest of 256 levels."""
    levels_HW3 = (values_3HW.detach() * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(levels_HW3.contiguous().cpu().numpy())
