"""Words that change nothing in a picture, put between the words of prompts and questions.

People say more than a table of wordings holds. A model that has learnt to pass over such words also
passes over some that it never read.
"""

from __future__ import annotations

import random
import re

FILLERS = tuple(
    "really very quite rather lovely beautiful cute great perfect wonderful amazing cool "
    "funny friendly kind brave calm clever gentle lucky proud quiet smart strange "
    "famous favourite clean old new modern classic ordinary typical usual real certain "
    "special tiny huge little small maybe perhaps probably definitely simply actually "
    "basically kindly quickly slowly carefully hello hey hi thanks today now again some any "
    "this these those here my your our his her their please decent charming ancient humble "
    "sturdy".split()
)
# Syllables of words that do not exist: their tokens are those of any unknown word.
_STARTS = "bl br cl cr dr fl fr gl gr pl pr sk sl sm sn sp st str sw thr tr tw v w y z".split()
_VOWELS = "a e i o u ai ea oo ou".split()
_ENDS = "b ck d ft g ll lk lm mp nd nk nt rb rd rk rm rn rt sk ss st sp th tt x".split()
_SYLLABLE = "".join(f"(?:{'|'.join(parts)})" for parts in (_STARTS, _VOWELS, _ENDS))
_MADE_UP = re.compile(rf" ?\b(?:{_SYLLABLE}){{2}}\b", re.IGNORECASE)
MADE_UP_CHANCE = 0.5
# Share of rows whose prompts, questions and instructions have fillers.
FILLED_CHANCE = 0.15
MOST_FILLERS = 2


def with_fillers(rng: random.Random, text: str) -> str:
    """A text with one or two fillers at random places: "a really red car left of drempcroox"."""
    words = text.split(" ")
    for _ in range(rng.randint(1, MOST_FILLERS)):
        words.insert(rng.randint(0, len(words) - 1), filler(rng))
    return " ".join(words)


def filler(rng: random.Random) -> str:
    """A word that changes nothing: "really", or one that does not exist."""
    return made_up_word(rng) if rng.random() < MADE_UP_CHANCE else rng.choice(FILLERS)


def made_up_word(rng: random.Random) -> str:
    """Two syllables that are no word of the world: "drempcroox"."""
    return "".join(part for _ in range(2) for part in map(rng.choice, (_STARTS, _VOWELS, _ENDS)))


def without_made_up_words(text: str) -> str:
    """A text of a row without the words that do not exist, which no list of words should have."""
    return _MADE_UP.sub("", text)
