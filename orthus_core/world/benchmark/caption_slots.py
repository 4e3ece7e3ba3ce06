"""What a caption says, taken apart: its things, how many, their colours, how they stand, and where.

A caption of the small world reads back exactly: `slots(describe(scene))` is the scene. Of a model's
caption as much is read as is English of that kind; a thing no scene has counts as a claim all the
same.
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
    """One thing that is said: ("count", "dog", "two")."""

    kind: str
    subject: str
    value: str = ""


def slots(caption: str, nouns: Collection[str]) -> frozenset[Slot]:
    """Everything a caption says.

    Args:
        nouns: The singulars that it may use, such as a world's cast.
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
            # "a left of b" and "b right of a" say the same.
            if (other.noun, one.noun) < (one.noun, other.noun):
                one, other, relation = other, one, OPPOSITE[relation]
            found.add(Slot("relation", f"{one.noun}, {other.noun}", relation))
            return frozenset(found | one.slots() | other.slots())
    for words in _BETWEEN.split(rest):
        if words.strip() and words.strip() != "nothing":
            found |= _thing(words, nouns).slots()
    return frozenset(found)


def slot_f1(pairs: Sequence[tuple[frozenset[Slot], frozenset[Slot]]]) -> float:
    """What was said against what is true, counted over all captions together."""
    hits = sum(len(claimed & true) for claimed, true in pairs)
    return F1(
        hits, sum(len(claimed) for claimed, _ in pairs), sum(len(true) for _, true in pairs)
    ).value


def slots_of_kind(kind: str, captions: Sequence[frozenset[Slot]]) -> list[frozenset[Slot]]:
    """The slots of one of `KINDS`, caption by caption."""
    return [frozenset(slot for slot in slots if slot.kind == kind) for slots in captions]


class _NounPhrase(NamedTuple):
    noun: str
    count: str
    colour: str

    def slots(self) -> set[Slot]:
        found = {Slot("entity", self.noun), Slot("count", self.noun, self.count)}
        return found | ({Slot("colour", self.noun, self.colour)} if self.colour else set())


def _thing(words: str, nouns: Collection[str]) -> _NounPhrase:
    """A noun phrase: "two blue cars", "a dog", "cherries"."""
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
