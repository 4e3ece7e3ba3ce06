"""A contact sheet: finished pictures side by side in one, to compare prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

WHITE = (255, 255, 255)
GAP = 4  # pixels between two pictures


def columns_for(pictures: int, *, per_prompt: int) -> int:
    """Columns of a sheet: a prompt's seeds side by side, or near a square where it has one."""
    return per_prompt if 1 < per_prompt < pictures else math.ceil(math.sqrt(pictures))


def contact_sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """The pictures in reading order on white; a cell is as large as the largest of them."""
    assert pictures and columns > 0, "a sheet shows something"
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    width = max(picture.width for picture in pictures) + GAP
    height = max(picture.height for picture in pictures) + GAP
    sheet = Image.new("RGB", (columns * width - GAP, rows * height - GAP), WHITE)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (column * width, row * height))
    return sheet
