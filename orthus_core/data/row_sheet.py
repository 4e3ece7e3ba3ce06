"""A sheet of rows as a training sees them: texts and pictures in the order of the row, with what is
learnt in colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from orthus_core.data.shown_row import RowPart, ShownRow
from orthus_core.errors import DataError
from orthus_core.image_grid import WHITE, fitting, label_font

# Sizes in pixels.
WIDTH, MARGIN, LETTERS, LINE = 620, 12, 14, 20
SMALLEST_SHOWN, LARGEST_SHOWN = 96, 256  # side of a picture on the sheet
# The most lines of a text, which may be as long as the context, and of one that is cut off.
MOST_LINES, MOST_CUT_LINES = 24, 2

LEARNT, READ, MARK, FAULT = (16, 78, 190), (110, 110, 110), (176, 120, 16), (190, 30, 30)
RULE = (220, 220, 220)
LEGEND = (
    ("learnt", LEARNT),
    ("read, not learnt", READ),
    ("special token", MARK),
    ("left out", FAULT),
)


class _Box(NamedTuple):
    """A word or a picture and its place in a row."""

    x: int
    y: int
    drawn: str | Image.Image
    colour: tuple[int, int, int]
    underlined: bool = False


def row_sheet(rows: Sequence[ShownRow], side: int) -> Image.Image:
    """The rows on a sheet, two beside each other, below a legend of the colours.

    Args:
        rows: Rows, at least one.
        side: Side of the model's pictures: they are cropped and scaled to it, as in the training.
    """
    cells = [_cell(number, row, side) for number, row in enumerate(rows, start=1)]
    columns = min(2, len(cells))
    lines = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in line) for line in lines]
    sheet = Image.new("RGB", (columns * WIDTH, LINE + MARGIN + sum(heights)), WHITE)
    _draw_legend(sheet)
    top = LINE + MARGIN
    for line, height in zip(lines, heights, strict=True):
        ImageDraw.Draw(sheet).line((0, top, sheet.width, top), fill=RULE)
        for column, cell in enumerate(line):
            sheet.paste(cell, (column * WIDTH, top + 1))
        top += height
    return sheet


def _draw_legend(sheet: Image.Image) -> None:
    draw, font, x = ImageDraw.Draw(sheet), label_font(LETTERS), MARGIN
    for name, colour in LEGEND:
        draw.text((x, MARGIN // 2), name, fill=colour, font=font)
        x += round(font.getlength(name)) + 2 * MARGIN


def _cell(number: int, row: ShownRow, side: int) -> Image.Image:
    """One row: its name, then its parts from left to right in lines."""
    boxes, bottom = _placed(row, side, top=LINE + MARGIN)
    if row.problem:
        boxes.append(_Box(MARGIN, bottom, f"left out: {row.problem}", FAULT))
        bottom += LINE
    cell = Image.new("RGB", (WIDTH, bottom + MARGIN), WHITE)
    draw, font = ImageDraw.Draw(cell), label_font(LETTERS)
    draw.text((MARGIN, MARGIN // 2), _heading(number, row, font), fill="black", font=font)
    for box in boxes:
        if isinstance(box.drawn, str):
            draw.text((box.x, box.y), box.drawn, fill=box.colour, font=font)
            if box.underlined:
                end = box.x + font.getlength(box.drawn)
                draw.line((box.x, box.y + LINE - 3, end, box.y + LINE - 3), fill=box.colour)
        else:
            frame = (
                box.x - 2,
                box.y - 2,
                box.x + box.drawn.width + 1,
                box.y + box.drawn.height + 1,
            )
            draw.rectangle(frame, outline=box.colour, width=2)
            cell.paste(box.drawn, (box.x, box.y))
    return cell


def _heading(number: int, row: ShownRow, font: ImageFont.FreeTypeFont) -> str:
    length = f" ({row.positions} positions{', cut' if row.cut else ''})" if row.positions else ""
    name = _printable(row.name)
    while font.getlength(f"{number}  {name}{length}") > WIDTH - 2 * MARGIN and len(name) > 1:
        name = f"\N{HORIZONTAL ELLIPSIS}{name[2:]}"  # a path's end names the record
    return f"{number}  {name}{length}"


def _placed(row: ShownRow, side: int, top: int) -> tuple[list[_Box], int]:
    """The boxes of a row's parts and the bottom of the last line."""
    font, right = label_font(LETTERS), WIDTH - MARGIN
    boxes: list[_Box] = []
    x, y, height = MARGIN, top, LINE
    space = round(font.getlength(" "))
    role = row.parts[0].role if row.parts else "user"
    for part in row.parts:
        colour = _colour(part)
        if part.role != role:  # a turn begins a line
            role, x, y, height = part.role, MARGIN, y + height, LINE
        if part.picture is not None:
            picture = _shown(part, side)
            if isinstance(picture, Image.Image):
                if x + picture.width > right and x > MARGIN:
                    x, y, height = MARGIN, y + height, LINE
                boxes.append(_Box(x + 2, y + 2, picture, colour))
                x, height = x + picture.width + 4 + space, max(height, picture.height + 8)
                continue
            part = part._replace(text=picture)
        lines, most = 1, MOST_CUT_LINES if part.cut else MOST_LINES
        for word in _printable(part.text).split():
            for piece in _pieces(word, font, right - MARGIN):
                width = round(font.getlength(piece))
                if x + width > right and x > MARGIN:
                    lines += 1
                    x, y, height = MARGIN, y + height, LINE
                    if lines > most:
                        break
                boxes.append(_Box(x, y, piece, colour, underlined=part.learnt))
                x += width + space
            if lines > most:
                boxes.append(_Box(x, y, "\N{HORIZONTAL ELLIPSIS}", colour))
                x += 2 * space
                break
    return boxes, y + height


def _colour(part: RowPart) -> tuple[int, int, int]:
    if part.cut:
        return FAULT
    if part.learnt:
        return LEARNT
    return MARK if part.kind == "special" else READ


def _shown(part: RowPart, side: int) -> Image.Image | str:
    """The picture as the model reads it, larger or smaller for the sheet; why it cannot be."""
    assert part.picture is not None
    try:
        pixels: np.ndarray = part.picture.load(side)
    except DataError as error:
        return f"({part.text}: {error.message})"
    picture = Image.fromarray(pixels)
    times = -(-SMALLEST_SHOWN // side)
    if times > 1:
        return picture.resize((side * times, side * times), Image.Resampling.NEAREST)
    shown = min(side, LARGEST_SHOWN)
    return picture.resize((shown, shown), Image.Resampling.LANCZOS) if shown < side else picture


def _pieces(word: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """A word, or its pieces if it is wider than a line."""
    while word:
        count = fitting(word, font, width)
        yield word[:count]
        word = word[count:]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c.isspace() else "?" for c in text)
