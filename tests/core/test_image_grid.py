"""Pictures side by side, and the words below them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from orthus_core.image_grid import image_grid, with_caption


def test_a_caption_stands_below_the_picture_and_leaves_it_as_it_is():
    picture = Image.new("RGB", (128, 64), "red")
    captioned = with_caption(picture, "a red field", size=12, lines=2)
    pixels_HW3 = np.asarray(captioned)
    assert np.array_equal(pixels_HW3[:64], np.asarray(picture))
    first, second = pixels_HW3[64:80], pixels_HW3[80:]
    assert first.min() < 100 and second.min() == 255, "one line of text, and room for another"


def test_a_long_caption_is_wrapped_to_the_width():
    picture = Image.new("RGB", (60, 10), "white")
    captioned = np.asarray(with_caption(picture, "one two three four five", lines=3))
    assert captioned[26:42].min() < 100, "the second line"
    assert captioned[:, [0, -1]].min() > 200, "nothing runs out at the sides"


def test_cells_are_as_large_as_the_largest_picture():
    small, large = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (4, 3), "blue")
    grid = image_grid([[small, large], [large]], gap=1)
    assert grid.size == (9, 7)
    assert grid.getpixel((5, 0)) == (0, 0, 255) and grid.getpixel((3, 0)) == (255, 255, 255)
