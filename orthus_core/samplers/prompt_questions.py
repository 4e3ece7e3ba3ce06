"""Questions that a picture of a prompt should answer in a known way: a plain rule on its words.

The prompt is cut into things at relations, commas, "and" and "with"; a place ("in a meadow at
night") ends a thing and is not asked about. A thing is an article or a number, a colour if there is
one, and a noun:

    a snowman            Is this a snowman?                        yes
    a dog and a cat      Is there a dog in the picture?            yes, and so for the cat
    three dogs           How many dogs are there?                  three
    a blue car           What colour is the car?                   blue
    a dog left of a cat  Where is the dog?                         left
    a dog behind a cat   Is the dog behind the cat?                yes
    on a red background  What colour is the background?            red
    any other prompt     Does the picture show ...?                yes

These are wordings that the bundled model was trained on, where it knows such questions at all, and
plain English for any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# A longer prompt is judged by what it says first.
MOST_QUESTIONS = 12

YES_NO = ("yes", "no")
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COLOURS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    *("brown", "black", "white", "grey"),
)
SIDES = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
OTHER_RELATIONS = (
    *("on top of", "in front of", "next to", "behind", "beside", "under", "near", "inside", "on"),
)
_SPELLINGS = {"gray": "grey", "to the left of": "left of", "to the right of": "right of"}
_ARTICLES = ("a", "an", "the")
# What begins a request, and says nothing of the picture.
_OPENING = re.compile(
    r"^(?:draw |show |generate )?(?:an? |the )?(?:photo|picture|image|drawing) of "
)
_BACKGROUND = re.compile(r"\bon an? (\w+) background\b")
_CUT = re.compile(
    rf"\b({'|'.join([*SIDES, *OTHER_RELATIONS])}|and|with)\b|([,;.:!?])", re.IGNORECASE
)
# Words that begin a place or a style.
_PLACE = re.compile(r"\b(?:in|at|by|during|from)\b")


class PromptQuestion(NamedTuple):
    """A question about a picture, its answer if the picture is right, and all likely answers."""

    text: str
    answer: str
    choices: tuple[str, ...]


class _Thing(NamedTuple):
    """What a part of a prompt asks for; `count` is 0 where it names no number."""

    noun: str
    count: int
    colour: str


def questions_of(prompt: str) -> list[PromptQuestion]:
    """The questions of a prompt, at least one and at most `MOST_QUESTIONS`."""
    found = list(dict.fromkeys(_questions(" ".join(prompt.split()))))
    return found[:MOST_QUESTIONS]


def _questions(prompt: str) -> Iterator[PromptQuestion]:
    words = _OPENING.sub("", prompt.lower())
    for spelling, usual in _SPELLINGS.items():
        words = re.sub(rf"\b{spelling}\b", usual, words)
    background = _BACKGROUND.search(words)
    if background:
        words = words.replace(background[0], "")
    # 1. The things, and how each stands to the one before it.
    things: list[_Thing] = []
    relations: list[tuple[_Thing, str, _Thing]] = []
    relation = ""
    for part in _parts(words):
        if part in SIDES or part in OTHER_RELATIONS:
            relation = part
        elif thing := _thing(part):
            if relation and things:
                relations.append((things[-1], relation, thing))
            things.append(thing)
            relation = ""
        else:
            relation = ""
    # 2. What is there, and how many; what colour; where.
    alone = len(things) == 1 and things[0].count == 1
    for thing in things:
        if thing.count > 1:
            yield PromptQuestion(f"How many {thing.noun} are there?", COUNTS[thing.count], COUNTS)
        else:
            yield _yes(_presence(thing, alone=alone))
        if thing.colour:
            be = "is" if thing.count == 1 else "are"
            yield PromptQuestion(f"What colour {be} the {thing.noun}?", thing.colour, COLOURS)
    for one, stands, other in relations:
        be = "is" if one.count == 1 else "are"
        if stands in SIDES:
            yield PromptQuestion(
                f"Where {be} the {one.noun}?", SIDES[stands], tuple(SIDES.values())
            )
        else:
            yield _yes(f"{be.capitalize()} the {one.noun} {stands} the {other.noun}?")
    if background and background[1] in COLOURS:
        yield PromptQuestion("What colour is the background?", background[1], COLOURS)
    if not things:
        yield _yes(f"Does the picture show {prompt.rstrip(' .?!')}?")


def _parts(words: str) -> Iterator[str]:
    """The things and relations of a prompt in order; an empty part ends a relation."""
    start = 0
    for cut in _CUT.finditer(words):
        yield from filter(None, [_PLACE.split(words[start : cut.start()])[0].strip()])
        yield cut[1] if cut[1] in SIDES or cut[1] in OTHER_RELATIONS else ""
        start = cut.end()
    yield from filter(None, [_PLACE.split(words[start:])[0].strip()])


def _thing(part: str) -> _Thing | None:
    """The thing of a part that begins with an article or a number; None for any other part."""
    first, *rest = part.split(" ") if part else [""]
    if first in _ARTICLES:
        count = 1
    elif first in COUNTS[1:]:
        count = COUNTS.index(first)
    elif first.isdecimal() and 0 < int(first) < len(COUNTS):
        count = int(first)
    elif first == "some":
        count = 0
    else:
        return None
    colour = next((word for word in rest if word in COLOURS), "")
    noun = " ".join(word for word in rest if word != colour)
    return _Thing(noun, count, colour) if noun else None


def _presence(thing: _Thing, *, alone: bool) -> str:
    if thing.count == 0:
        return f"Are there {thing.noun} in the picture?"
    named = f"{'an' if thing.noun[0] in 'aeiou' else 'a'} {thing.noun}"
    return f"Is this {named}?" if alone else f"Is there {named} in the picture?"


def _yes(text: str) -> PromptQuestion:
    return PromptQuestion(text, "yes", YES_NO)
