"""Combine pictures into one grid: prompts and seeds, training samples, benchmark tiles.

Legend: H height, W width, 3 colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

WHITE = (255, 255, 255)
GAP = 4  # pixels between two pictures of a contact sheet
# Labels on a sheet: the narrowest pictures that have them and the height of their letters, in
# pixels, and the most lines of a label.
NARROWEST_LABELLED = 32
SMALLEST_LETTERS, LARGEST_LETTERS = 10, 16
LABEL_LINES = 4
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def columns_for(pictures: int, *, per_prompt: int, cell: tuple[int, int] = (1, 1)) -> int:
    """Columns that make a sheet most nearly square, with each prompt's pictures side by side.

    Args:
        pictures: Number of pictures, all those of the first prompt first.
        per_prompt: Pictures of each prompt. A row holds those of one prompt or several, or a prompt
            takes several rows.
        cell: Width and height of a picture with its label, in pixels.
    """

    def longer_side(columns: int) -> int:
        return max(columns * cell[0], len(sheet_rows(pictures, columns, per_prompt)) * cell[1])

    several = range(per_prompt, pictures + 1, per_prompt)
    return min({*range(1, per_prompt), *several} or {1}, key=lambda n: (longer_side(n), -n))


def sheet_rows(pictures: int, columns: int, per_prompt: int) -> list[range]:
    """The places of a sheet's pictures, row by row; a prompt that takes several rows begins one."""
    group = per_prompt if columns < per_prompt else pictures
    return [
        range(first, min(first + columns, start + group, pictures))
        for start in range(0, pictures, group)
        for first in range(start, min(start + group, pictures), columns)
    ]


def labels_for(prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """What tells the pictures of a sheet apart: prompts, seeds, both, or nothing of a single one.

    Args:
        prompts, seeds: Prompt and seed of each picture.
    """
    if len(prompts) < 2:
        return [""] * len(prompts)
    several_prompts, several_seeds = len(set(prompts)) > 1, len(set(seeds)) > 1
    return [
        "\n".join([prompt] * several_prompts + [f"seed {seed}"] * several_seeds)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def labelled_sheet(
    pictures: Sequence[Image.Image], labels: Sequence[str], *, per_prompt: int = 1
) -> Image.Image:
    """The pictures on a sheet that is nearly square, each above its label.

    Args:
        pictures: RGB pictures, all those of the first prompt first.
        labels: Label of each; without any text, and below pictures too narrow for words, there is
            no room for labels.
        per_prompt: Pictures of each prompt.
    """
    assert pictures, "a sheet shows something"
    width = max(picture.width for picture in pictures)
    if any(labels) and width >= NARROWEST_LABELLED:
        size = min(LARGEST_LETTERS, max(SMALLEST_LETTERS, width // 16))
        lines = max(len(_wrapped(text, label_font(size), width, LABEL_LINES)) for text in labels)
        pictures = [
            with_caption(picture, text, size=size, lines=lines)
            for picture, text in zip(pictures, labels, strict=True)
        ]
    cell = tuple(max(p.size[axis] for p in pictures) + GAP for axis in (0, 1))
    columns = columns_for(len(pictures), per_prompt=per_prompt, cell=(cell[0], cell[1]))
    rows = sheet_rows(len(pictures), columns, per_prompt)
    return image_grid([[pictures[place] for place in row] for row in rows], gap=GAP)


def contact_sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """The pictures in reading order on white; each cell has the size of the largest picture."""
    assert pictures and columns > 0, "a sheet shows something"
    rows = sheet_rows(len(pictures), columns, per_prompt=1)
    return image_grid([[pictures[place] for place in row] for row in rows], gap=GAP)


def image_grid(rows: Sequence[Sequence[Image.Image]], *, gap: int = 0) -> Image.Image:
    """Rows of pictures on white; each cell has the size of the largest picture.

    Args:
        rows: Rows of pictures, at least one picture in all; lengths may differ.
        gap: Pixels between neighbouring cells.
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
        text: Caption. An ellipsis stands for words that do not fit into the lines, and a box for
            letters that the font lacks.
        size: Height of the letters in pixels.
        lines: Lines of text that there is room for, whether they are used or not.
    """
    font = label_font(size)
    line_height = size + size // 3
    captioned = Image.new("RGB", (picture.width, picture.height + lines * line_height), WHITE)
    captioned.paste(picture)
    draw = ImageDraw.Draw(captioned)
    for number, line in enumerate(_wrapped(text, font, picture.width, lines)):
        place = (picture.width / 2, picture.height + number * line_height)
        draw.text(place, line, fill="black", font=font, anchor="ma")
    return captioned


def label_font(size: int) -> ImageFont.FreeTypeFont:
    """Letters of this height in pixels; the font lacks emoji and most scripts but Latin."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "a size needs FreeType, which wheels bring"
    return font


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """The lines of a text, each at most `width` pixels wide; an ellipsis ends what does not fit.

    A text of several paragraphs keeps a line for each: the last one, such as a seed, is never lost.
    """
    # A prompt may hold bytes that are no text, and control characters.
    printable = "".join(c if c.isprintable() or c.isspace() else "?" for c in text)
    paragraphs = [part for part in printable.split("\n") if part.strip()][:lines]
    wrapped: list[str] = []
    for place, part in enumerate(paragraphs):
        room = lines - len(wrapped) - (len(paragraphs) - place - 1)
        wrapped += _wrapped_paragraph(part, font, width, room)
    return wrapped


def _wrapped_paragraph(
    text: str, font: ImageFont.FreeTypeFont, width: int, lines: int
) -> list[str]:
    wrapped, words = [""], text.split()
    while words:
        word = words.pop(0)
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            wrapped[-1] = longer
        elif len(wrapped) == lines:
            wrapped[-1] = _shortened(longer, font, width)
            break
        elif wrapped[-1]:
            wrapped.append("")
            words.insert(0, word)
        else:  # a word that is wider than the picture goes on in the next line
            fits = fitting(word, font, width)
            wrapped[-1] = word[:fits]
            wrapped.append("")
            words.insert(0, word[fits:])
    return [line for line in wrapped if line]


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while text and font.getlength(f"{text} {ELLIPSIS}") > width:
        text = text[:-1].rstrip()
    return f"{text} {ELLIPSIS}".lstrip()


def fitting(word: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many of a word's letters fit into the width; at least one."""
    fits = 1
    while fits < len(word) and font.getlength(word[: fits + 1]) <= width:
        fits += 1
    return fits


def rounded_image(values_3HW: Tensor) -> Image.Image:
    """A picture from values in [0, 1], each rounded to the nearest of 256 levels."""
    levels_HW3 = (values_3HW.detach() * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(levels_HW3.contiguous().cpu().numpy())
