"""Words that change nothing in a picture, put between the words of prompts and questions.

People say more than a table of wordings holds. A model that has learnt to pass over such words also
passes over some that it never read.
"""

from __future__ import annotations

import random

FILLERS = tuple(
    "really very quite rather lovely beautiful cute great perfect wonderful amazing cool "
    "funny friendly kind brave calm clever gentle lucky proud quiet smart strange "
    "famous favourite clean old new modern classic ordinary typical usual real certain "
    "special tiny huge little small maybe perhaps probably definitely simply actually "
    "basically kindly quickly slowly carefully hello hey hi thanks today now again some any "
    "this these those here my your our his her their please decent charming ancient humble "
    "sturdy".split()
)
# Share of rows whose prompts, questions and instructions have fillers.
FILLED_CHANCE = 0.15
MOST_FILLERS = 2


def with_fillers(rng: random.Random, text: str) -> str:
    """A text with one or two fillers at random places: "a really red car left of your owl"."""
    words = text.split(" ")
    for _ in range(rng.randint(1, MOST_FILLERS)):
        words.insert(rng.randint(0, len(words) - 1), rng.choice(FILLERS))
    return " ".join(words)
