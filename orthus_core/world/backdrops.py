"""Backdrops of scenes: a plain colour, a soft gradient, or a place.

A place is a ground under a sky ("meadow night"), or one without a sky ("room"). Backdrops are
painted from colours and a few shapes, so a picture of any size shows the same place. The shapes are
large and blurred by distance, so that they neither hide things nor look like one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

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
# Soft gradients: colours at the top and at the bottom.
GRADIENTS: Mapping[str, tuple[Colour, Colour]] = {
    "light blue": ((240, 248, 255), (168, 208, 245)),
    "light green": ((242, 252, 240), (176, 224, 178)),
    "light yellow": ((255, 253, 238), (252, 234, 160)),
    "light orange": ((255, 246, 236), (252, 206, 160)),
    "light pink": ((255, 242, 247), (250, 196, 216)),
    "light purple": ((248, 243, 255), (208, 186, 240)),
    "light grey": ((246, 246, 248), (200, 203, 210)),
}

# Colours at the top and at the horizon of each sky.
SKIES: Mapping[str, tuple[Colour, Colour]] = {
    "day": ((96, 172, 246), (205, 232, 252)),
    "sunset": ((112, 62, 150), (255, 168, 92)),
    "night": ((8, 12, 40), (44, 54, 112)),
    "rain": ((92, 102, 116), (160, 170, 180)),
}
# Colours at the near and the far end of each ground.
GROUNDS: Mapping[str, tuple[Colour, Colour]] = {
    "meadow": ((82, 164, 62), (140, 202, 96)),
    "beach": ((234, 206, 140), (246, 226, 172)),
    "snow": ((216, 228, 244), (246, 250, 255)),
    "autumn": ((166, 98, 40), (216, 152, 68)),
    "city": ((112, 114, 122), (142, 144, 152)),
    "room": ((178, 120, 74), (202, 148, 100)),
    "sea": ((18, 90, 168), (36, 134, 184)),
    "space": ((30, 18, 62), (10, 10, 34)),
}
SKYLESS: tuple[str, ...] = ("room", "sea", "space")
# Phrases for a place and a time of day in a sentence.
GROUND_WORDS: Mapping[str, str] = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "snow": "in the snow",
    "autumn": "in an autumn field",
    "city": "in a city",
    "room": "in a room",
    "sea": "under the sea",
    "space": "in space",
}
SKY_WORDS: Mapping[str, str] = {
    "day": "by day",
    "sunset": "at sunset",
    "night": "at night",
    "rain": "in the rain",
}
OUTDOORS: tuple[str, ...] = tuple(
    f"{ground} {sky}" for ground in GROUNDS if ground not in SKYLESS for sky in SKIES
)
PLACES: tuple[str, ...] = (*OUTDOORS, *SKYLESS)
BACKDROPS: tuple[str, ...] = (*PLAIN, *GRADIENTS, *PLACES)

# Height of the horizon in 64ths of the picture's side, and the factor by which each sky dims what
# lies below it.
HORIZON = 24
LIGHT: Mapping[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (0.92, 0.74, 0.68),
    "night": (0.42, 0.44, 0.6),
    "rain": (0.72, 0.75, 0.8),
}
# Shapes are drawn this many times larger, then scaled down, so that their edges are smooth.
OVERSAMPLED = 4


def is_outdoors(backdrop: str) -> bool:
    """Whether a backdrop is a sky above a ground."""
    return backdrop in OUTDOORS


def is_place(backdrop: str) -> bool:
    """Whether a backdrop is a place, with or without a sky."""
    return backdrop in PLACES


def has_floor(backdrop: str) -> bool:
    """Whether things stand on something, so that they must not float."""
    return is_outdoors(backdrop) or backdrop == "room"


def place_of(backdrop: str) -> tuple[str, str]:
    """The ground and the sky of a place: ("meadow", "night"); ("room", "") without a sky."""
    ground, _, sky = backdrop.partition(" ")
    return ground, sky


@lru_cache(maxsize=128)
def paint(backdrop: str, size: int) -> np.ndarray:
    """A backdrop of `BACKDROPS` as uint8 [size, size, 3], cached and therefore read-only."""
    if backdrop in PLAIN:
        painted_HW3 = np.full((size, size, 3), PLAIN[backdrop], dtype=np.uint8)
    elif backdrop in GRADIENTS:
        painted_HW3 = _rounded(_gradient(*GRADIENTS[backdrop], size), size)
    else:
        painted_HW3 = _paint_place(backdrop, size)
    painted_HW3.setflags(write=False)
    return painted_HW3


def _paint_place(backdrop: str, size: int) -> np.ndarray:
    ground, sky = place_of(backdrop)
    large = size * OVERSAMPLED
    horizon = large * HORIZON // 64
    rows = [_gradient(*SKIES.get(sky, _BEHIND.get(ground, GROUNDS[ground])), horizon)]
    near, far = GROUNDS[ground]
    rows.append(_gradient(far, near, large - horizon))
    image = Image.fromarray(_rounded(np.concatenate(rows), large))
    shapes = ImageDraw.Draw(image)
    if sky:
        # What the sky lights up is drawn by day, then dimmed; the sky itself is not dimmed.
        below = Image.fromarray(_rounded(np.concatenate(rows), large))
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).rectangle((0, horizon, large, large), fill=255)
        _SHAPES[ground](_Pen(ImageDraw.Draw(below), large, ImageDraw.Draw(mask)))
        lit_HW3 = np.asarray(below) * np.array(LIGHT[sky])
        _SKY_SHAPES.get(sky, _nothing)(_Pen(shapes, large))
        image.paste(Image.fromarray(np.rint(lit_HW3).astype(np.uint8)), (0, 0), mask)
        if ground == "city" and sky in ("night", "sunset"):
            _lit_windows(_Pen(ImageDraw.Draw(image), large))
        if sky == "rain":
            image = _with_rain(image)
    else:
        _SHAPES[ground](_Pen(shapes, large))
    return np.array(image.resize((size, size), Image.Resampling.BOX))


class _Pen:
    """Draws shapes given in 64ths of the picture's side.

    Args:
        draw: Picture to draw on.
        side: Its side in pixels.
        also: A mask in which the same shapes are filled with 255.
    """

    def __init__(
        self, draw: ImageDraw.ImageDraw, side: int, also: ImageDraw.ImageDraw | None = None
    ) -> None:
        self._draw, self._unit, self._also = draw, side / 64, also

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        scaled = [(x * self._unit, y * self._unit) for x, y in points]
        self._draw.polygon(scaled, fill=colour)
        if self._also:
            self._also.polygon(scaled, fill=255)

    def ellipse(self, x: float, y: float, wide: float, high: float, colour: Colour) -> None:
        """An ellipse around a centre."""
        box = [
            (x - wide / 2) * self._unit,
            (y - high / 2) * self._unit,
            (x + wide / 2) * self._unit,
            (y + high / 2) * self._unit,
        ]
        self._draw.ellipse(box, fill=colour)
        if self._also:
            self._also.ellipse(box, fill=255)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)


def _meadow(pen: _Pen) -> None:
    pen.ellipse(14, 29, 60, 18, (112, 186, 84))
    pen.ellipse(54, 29, 56, 14, (126, 196, 92))
    pen.box(0, 28, 64, 32, (134, 200, 94))
    for x, y in ((5, 46), (18, 38), (30, 58), (41, 44), (55, 52), (60, 37), (10, 60), (48, 61)):
        for lean in (-1.2, 0, 1.2):
            pen.polygon([(x - 0.5, y), (x + 0.5, y), (x + lean, y - 2.4)], (58, 138, 46))


def _beach(pen: _Pen) -> None:
    pen.box(0, 23, 64, 31, (44, 136, 200))
    pen.box(0, 27, 64, 31, (74, 168, 214))
    pen.polygon(
        [(0, 30), (12, 31.5), (26, 30), (40, 31.5), (54, 30), (64, 31), (64, 34), (0, 34)],
        (236, 246, 250),
    )
    pen.polygon(
        [(0, 31.5), (12, 33), (26, 31.5), (40, 33), (54, 31.5), (64, 32.5), (64, 36), (0, 36)],
        (240, 216, 154),
    )


def _snow(pen: _Pen) -> None:
    for x, high in ((5, 11), (13, 8), (49, 9), (58, 12)):
        for layer in range(3):
            top, wide = 26 - high + layer * high / 4, high * (0.16 + 0.1 * layer)
            pen.polygon(
                [(x, top), (x + wide, top + high / 2), (x - wide, top + high / 2)], (86, 128, 128)
            )
    pen.ellipse(18, 31, 64, 14, (250, 252, 255))
    pen.ellipse(54, 31, 56, 11, (238, 244, 252))


def _autumn(pen: _Pen) -> None:
    for x, wide, high, colour in (
        (6, 15, 13, (206, 92, 34)),
        (19, 12, 10, (226, 140, 40)),
        (45, 13, 11, (190, 72, 36)),
        (58, 15, 13, (222, 126, 38)),
    ):
        pen.box(x - 0.7, 20, x + 0.7, 27, (104, 66, 40))
        pen.ellipse(x, 24 - high / 2, wide, high, colour)
    pen.box(0, 24.5, 64, 27, (212, 146, 64))
    for x, y in ((6, 42), (20, 52), (29, 36), (38, 60), (50, 45), (60, 56), (12, 60), (57, 35)):
        pen.ellipse(x, y, 2.4, 1.3, (230, 170, 60))
        pen.ellipse(x + 4, y + 3, 2.2, 1.2, (140, 66, 30))


_HOUSES = ((0, 9, 9), (9, 8, 17), (17, 7, 11), (24, 9, 20), (33, 8, 13), (41, 9, 18), (50, 7, 10))
_HOUSES += ((57, 7, 15),)


def _city(pen: _Pen) -> None:
    for number, (left, wide, high) in enumerate(_HOUSES):
        shade = (128, 142, 166) if number % 2 else (106, 120, 148)
        pen.box(left, 27 - high, left + wide, 27, shade)
    _windows(pen, (176, 192, 214))
    pen.box(0, 27, 64, 31, (178, 178, 182))
    for left in (2, 20, 38, 56):
        pen.box(left, 46.5, left + 9, 48.5, (236, 226, 170))


def _windows(pen: _Pen, colour: Colour) -> None:
    for left, wide, high in _HOUSES:
        for row in range(int((high - 3) / 3)):
            for x in range(2):
                start = left + wide * (0.22 + 0.36 * x)
                pen.box(start, 28.5 - high + 3 * row, start + 1.5, 30 - high + 3 * row, colour)


def _lit_windows(pen: _Pen) -> None:
    _windows(pen, (255, 214, 120))


def _room(pen: _Pen) -> None:
    pen.box(0, 24, 64, 26, (250, 246, 238))
    pen.box(0, 26, 64, 26.5, (150, 98, 60))
    for x in range(-28, 29, 8):
        near, far = 32 + x * 1.9, 32 + x
        pen.polygon([(far, 26.5), (far + 0.5, 26.5), (near + 0.9, 64), (near, 64)], (160, 106, 64))
    pen.box(39, 3, 57, 19, (252, 250, 246))
    pen.box(40.5, 4.5, 55.5, 17.5, (158, 208, 246))
    pen.box(47.4, 4.5, 48.6, 17.5, (252, 250, 246))
    pen.box(40.5, 10.5, 55.5, 11.5, (252, 250, 246))


def _sea(pen: _Pen) -> None:
    for y in range(24, 56):
        share = (y - 24) / 31
        pen.box(0, y, 64, y + 1, (round(36 - 18 * share), round(134 - 44 * share), 196 - y // 2))
    for left, lean, deep in ((6, 9, 40), (25, 5, 34), (44, 11, 44)):
        for step in range(8):
            top, bottom = deep * step / 8, deep * (step + 1) / 8
            fade = 26 - 3.2 * step
            shift, further = lean * step / 8, lean * (step + 1) / 8
            pen.polygon(
                [
                    (left + shift, top),
                    (left + 6 + shift, top),
                    (left + 6 + further, bottom),
                    (left + further, bottom),
                ],
                (round(32 + fade), round(130 - 0.4 * top + fade), round(204 - 0.5 * top + fade)),
            )
    pen.ellipse(16, 62, 62, 18, (224, 202, 146))
    pen.ellipse(54, 63, 52, 16, (214, 190, 132))
    for x, high in ((4, 20), (8, 13), (59, 18), (55, 11)):
        pen.polygon(
            [(x - 1.2, 58), (x + 1.2, 58), (x + 1.6, 58 - high / 2), (x - 0.4, 58 - high)],
            (38, 150, 100),
        )


def _space(pen: _Pen) -> None:
    pen.ellipse(50, 74, 72, 36, (70, 66, 140))
    pen.ellipse(54, 79, 72, 38, (92, 86, 166))
    _stars(pen, 64)


_STARS = ((4, 5), (11, 15), (18, 4), (25, 11), (33, 5), (40, 17), (47, 6), (53, 13), (60, 4))
_STARS += ((15, 22), (29, 20), (58, 21), (6, 30), (20, 36), (36, 30), (50, 28), (61, 36), (10, 46))
_STARS += ((27, 47), (42, 42), (3, 58), (55, 47), (18, 57))


def _stars(pen: _Pen, down_to: float) -> None:
    for number, (x, y) in enumerate(_STARS):
        if y < down_to:
            size = (0.7, 1.0, 1.4)[number % 3]
            pen.ellipse(x, y, size, size, (250, 246, 220))


def _night_sky(pen: _Pen) -> None:
    _stars(pen, HORIZON)


def _sunset_sky(pen: _Pen) -> None:
    for size, colour in ((34, (250, 160, 96)), (24, (254, 186, 104)), (15, (255, 226, 140))):
        pen.ellipse(32, HORIZON, size, size, colour)


def _day_sky(pen: _Pen) -> None:
    for x, y, wide in ((10, 7, 14), (46, 5, 18), (30, 14, 11)):
        pen.ellipse(x, y, wide, 3.4, (214, 234, 252))
        pen.ellipse(x + 2, y - 1.2, wide * 0.55, 3, (214, 234, 252))


def _nothing(pen: _Pen) -> None:
    """No shapes."""


def _with_rain(image: Image.Image) -> Image.Image:
    """The picture with streaks of rain, which let three quarters of it show through."""
    over = image.copy()
    unit, draw = image.width / 64, ImageDraw.Draw(over)
    for number in range(28):
        x, y = (number * 23) % 67, (number * 37) % 64
        ends = [x * unit, y * unit, (x - 1.6) * unit, (y + 5) * unit]
        draw.line(ends, fill=(214, 226, 240), width=max(1, round(0.45 * unit)))
    return Image.blend(image, over, 0.6)


_SHAPES: Mapping[str, Callable[[_Pen], None]] = {
    "meadow": _meadow,
    "beach": _beach,
    "snow": _snow,
    "autumn": _autumn,
    "city": _city,
    "room": _room,
    "sea": _sea,
    "space": _space,
}
_SKY_SHAPES: Mapping[str, Callable[[_Pen], None]] = {
    "day": _day_sky,
    "sunset": _sunset_sky,
    "night": _night_sky,
}
# What lies above the horizon of a ground without a sky.
_BEHIND: Mapping[str, tuple[Colour, Colour]] = {
    "room": ((246, 232, 206), (238, 220, 190)),
    "sea": ((32, 130, 206), (36, 134, 184)),
    "space": ((8, 8, 28), (16, 12, 44)),
}


def _gradient(top: Colour, bottom: Colour, rows: int) -> np.ndarray:
    """A vertical gradient between two colours: [rows, 1, 3]."""
    share_H11 = np.linspace(0, 1, rows)[:, None, None]
    return (1 - share_H11) * np.array(top) + share_H11 * np.array(bottom)


def _rounded(rows_H13: np.ndarray, wide: int) -> np.ndarray:
    """Rows of one colour each as a picture: uint8 [H, wide, 3]."""
    return np.repeat(np.rint(rows_H13).astype(np.uint8), wide, axis=1)
