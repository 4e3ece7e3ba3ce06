"""The cast: sprites that may appear in scenes, grouped by what they can do.

All of them stay distinct at half the picture's size. Each is listed by the noun that scenes use for
it, which `World.find` accepts too. The lists are short on purpose: a small model learns to combine
only what it has seen often.
"""

from __future__ import annotations

# Actors of stories; they appear in scenes as well.
ACTORS: tuple[str, ...] = (
    "dog",
    "cat",
    "fox",
    "bear",
    "panda",
    "pig",
    "frog",
    "lion",
    "rabbit",
    "mouse",
    "penguin",
    "owl",
    "hen",
    "unicorn",
    "turtle",
    "elephant",
    "snowman",
    "robot",
    "ghost",
    "alien",
    "santa",
    "princess",
    "astronaut",
    "wizard",
)

# Things with one main colour, which can be replaced by another.
COLOURED: tuple[str, ...] = (
    "apple",
    "balloon",
    "car",
    "heart",
    "book",
    "butterfly",
    "umbrella",
    "tulip",
    "t-shirt",
    "dress",
    "bus",
    "backpack",
    "crab",
    "octopus",
    "fish",
    "kite",
    "chair",
    "circle",
    "gift",
    "star",
    "key",
    "mushroom",
)

FOOD: tuple[str, ...] = (
    "banana",
    "strawberry",
    "watermelon",
    "pizza",
    "hamburger",
    "ice cream",
    "cake",
    "doughnut",
    "cookie",
    "carrot",
    "cherries",
    "lemon",
    "egg",
    "grapes",
)

THINGS: tuple[str, ...] = (
    "house",
    "fir tree",
    "cactus",
    "sunflower",
    "rose",
    "guitar",
    "drum",
    "ball",
    "crown",
    "clock",
    "bell",
    "candle",
    "camera",
    "rocket",
    "sailboat",
    "helicopter",
    "train",
    "tractor",
    "scissors",
    "hammer",
    "magnet",
    "diamond",
    "trophy",
    "teapot",
)

CAST: tuple[str, ...] = ACTORS + COLOURED + FOOD + THINGS
