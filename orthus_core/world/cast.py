"""Who plays in scenes: sprites that stay distinct at half the picture's size, by what they can do.

Each is named by the noun that scenes use for it, which `World.find` knows too. The lists are short
on purpose: what a small model learns to combine, it must have seen often.
"""

from __future__ import annotations

# Those who act in stories; also things of scenes.
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

# Things that have one main colour, so that another can be laid on.
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
