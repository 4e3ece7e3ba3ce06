"""Parses captions into slots: entities, counts, colours, relations and the backdrop.

True captions of the small world are parsed without loss: `slots(describe(scene))` determines the
scene. Of a model's caption, the parts with the same grammar are parsed. An entity that no scene can
contain still counts as a claim.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from orthus_core.world.arrange import OPPOSITE, RELATIONS
from orthus_core.world.backdrops import BACKDROPS
from orthus_core.world.benchmark.scores import F1
from orthus_core.world.recolour import HUES
from orthus_core.world.wording import NUMBERS, place_phrase, plural

KINDS = ("entity", "count", "colour", "relation", "backdrop")
ARTICLES = ("a ", "an ", "the ")

_PLACES = {place_phrase(backdrop): backdrop for backdrop in BACKDROPS if place_phrase(backdrop)}
_BETWEEN = re.compile(r",| and ")


class Slot(NamedTuple):
    """One claim of a caption: ("count", "dog", "two").

    Attributes:
        kind: Kind of claim, one of `KINDS`.
        subject: Noun (or two nouns, for a relation) that the claim is about; "" for a backdrop.
        value: Claimed count, colour, relation or backdrop; "" for an entity.
    """

    kind: str
    subject: str
    value: str = ""


def slots(caption: str, nouns: Collection[str]) -> frozenset[Slot]:
    """All claims of a caption.

    Args:
        caption: Caption to parse.
        nouns: Known nouns in the singular, such as a world's cast.
    """
    rest = " ".join(caption.lower().strip().rstrip(".").split())
    backdrop = "white"
    for phrase, place in _PLACES.items():
        if rest == phrase or rest.endswith(f" {phrase}"):
            rest, backdrop = rest.removesuffix(phrase).strip(), place
            break
    found = {Slot("backdrop", "", backdrop)}
    for relation in RELATIONS:
        first, between, second = rest.partition(f" {relation} ")
        if between:
            one, other = _thing(first, nouns), _thing(second, nouns)
            # "a left of b" and "b right of a" are the same claim.
            if (other.noun, one.noun) < (one.noun, other.noun):
                one, other, relation = other, one, OPPOSITE[relation]
            found.add(Slot("relation", f"{one.noun}, {other.noun}", relation))
            return frozenset(found | one.slots() | other.slots())
    for words in _BETWEEN.split(rest):
        if words.strip() and words.strip() != "nothing":
            found |= _thing(words, nouns).slots()
    return frozenset(found)


def slot_f1(pairs: Sequence[tuple[frozenset[Slot], frozenset[Slot]]]) -> float:
    """Micro-averaged F1 over pairs of claimed and true slots."""
    hits = sum(len(claimed & true) for claimed, true in pairs)
    return F1(
        hits, sum(len(claimed) for claimed, _ in pairs), sum(len(true) for _, true in pairs)
    ).value


def slots_of_kind(kind: str, captions: Sequence[frozenset[Slot]]) -> list[frozenset[Slot]]:
    """The slots of one of `KINDS` in each caption."""
    return [frozenset(slot for slot in slots if slot.kind == kind) for slots in captions]


class _NounPhrase(NamedTuple):
    noun: str
    count: str
    colour: str

    def slots(self) -> set[Slot]:
        found = {Slot("entity", self.noun), Slot("count", self.noun, self.count)}
        return found | ({Slot("colour", self.noun, self.colour)} if self.colour else set())


def _thing(words: str, nouns: Collection[str]) -> _NounPhrase:
    """Parses a noun phrase: "two blue cars", "a dog", "cherries"."""
    rest, count = words.strip(), "one"
    for article in ARTICLES:
        rest = rest.removeprefix(article)
    first, _, after = rest.partition(" ")
    if first in NUMBERS and after:
        count, rest = first, after
    colour, _, after = rest.partition(" ")
    if colour in HUES and after:
        return _NounPhrase(_singular(after, nouns), count, colour)
    return _NounPhrase(_singular(rest, nouns), count, "")


def _singular(noun: str, nouns: Collection[str]) -> str:
    if noun in nouns:
        return noun
    return next((one for one in nouns if plural(one) == noun), noun)
