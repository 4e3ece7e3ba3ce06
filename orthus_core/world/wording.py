"""Descriptions of scenes in words: things, counts, relations and places."""

from __future__ import annotations

from collections.abc import Sequence

from orthus_core.world.arrange import relation_between, word_for_size, words_for_place
from orthus_core.world.backdrops import (
    GROUND_WORDS,
    SKY_WORDS,
    is_outdoors,
    place_of,
)
from orthus_core.world.english import is_plural, join_list, with_article
from orthus_core.world.scene import WHOLE, Scene, Thing

NUMBERS = ("no", "one", "two", "three", "four")
# Irregular plurals.
_PLURALS = {
    "fish": "fish",
    "knife": "knives",
    "man": "men",
    "mouse": "mice",
    "sheep": "sheep",
    "snowman": "snowmen",
    "tomato": "tomatoes",
    "wolf": "wolves",
    "woman": "women",
}


def plural(noun: str) -> str:
    """The plural of a noun: "dogs", "cherries", "boxes", "blue fish"."""
    *before, last = noun.split(" ")
    if last in _PLURALS:
        return " ".join((*before, _PLURALS[last]))
    if is_plural(noun):
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def with_count(noun: str, count: int) -> str:
    """A noun with a number: "a dog", "three dogs"."""
    return with_article(noun) if count == 1 else f"{NUMBERS[count]} {plural(noun)}"


def with_colour(noun: str, colour: str) -> str:
    """A noun with its colour, if it is recoloured: "blue car"."""
    return f"{colour} {noun}" if colour else noun


def place_phrase(backdrop: str) -> str:
    """A phrase for a backdrop: "in a meadow at night", "on a blue background", "" for white."""
    if is_outdoors(backdrop):
        ground, sky = place_of(backdrop)
        return f"{GROUND_WORDS[ground]} {SKY_WORDS[sky]}"
    if backdrop in GROUND_WORDS:  # a place without a sky
        return GROUND_WORDS[backdrop]
    return "" if backdrop == "white" else f"on {with_article(backdrop)} background"


def things_phrase(scene: Scene, nouns: Sequence[str], *, relation: bool = True) -> str:
    """A phrase for the things of a scene: "two dogs and a blue car", "a dog left of a cat".

    Args:
        scene: Scene to describe.
        nouns: Noun of each thing, in the scene's order, without its colour.
        relation: Whether to name the relation between two different things.
    """
    named = [with_colour(noun, t.colour) for noun, t in zip(nouns, scene.things, strict=True)]
    counts = {name: named.count(name) for name in named}
    phrases = [with_count(name, count) for name, count in counts.items()]
    if relation and len(scene.things) == 2 == len(counts):
        stands = relation_between(*scene.things)
        if stands:
            return f"{phrases[0]} {stands} {phrases[1]}"
    return join_list(phrases) if phrases else "nothing"


def describe(scene: Scene, nouns: Sequence[str], *, relation: bool = True) -> str:
    """The one right caption of a scene: "a dog left of a cat in a meadow at night"."""
    return (
        f"{things_phrase(scene, nouns, relation=relation)} {place_phrase(scene.backdrop)}".strip()
    )


def describe_in_places(scene: Scene, nouns: Sequence[str]) -> str:
    """All things of a scene with their places, in reading order: "a large dog top left, a blue car
    right, in a meadow at night".
    """
    named = sorted(zip(scene.things, nouns, strict=True), key=lambda each: _reading_order(each[0]))
    phrases = [_with_place(thing, with_colour(noun, thing.colour)) for thing, noun in named]
    phrases.append(place_phrase(scene.backdrop))
    return ", ".join(phrase for phrase in phrases if phrase)


def _reading_order(thing: Thing) -> tuple[int, float]:
    row, _ = words_for_place(thing)
    return ("top", "", "bottom").index(row), thing.centre[0]


def _with_place(thing: Thing, name: str) -> str:
    """A thing with its size and place, unless it fills the picture: "a large dog left"."""
    if thing.side == WHOLE:
        return with_article(name)
    place = " ".join(word for word in words_for_place(thing) if word) or "middle"
    size = word_for_size(thing)
    return f"{with_article(f'{size} {name}' if size else name)} {place}"
