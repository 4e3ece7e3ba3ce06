"""What an unknown word probably means: by meaning first, then by spelling.

The table lists everyday words by the words that models know. Spelling alone leads from "grass" to
"gross", and from "hund" to "hand".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

# Known words, the best first where several are separated by a slash: the everyday words for them.
MEANINGS: Mapping[str, str] = {
    "meadow": "grass lawn field pasture park garden countryside hill",
    "sea/beach": "ocean water lake river pool",
    "beach": "sea seaside shore coast sand seashore waterside island",
    "snow": "winter snowy ice arctic blizzard snowfall",
    "autumn": "fall foliage october november",
    "city/house": "town street downtown village",
    "room/house": "indoors inside bedroom kitchen livingroom",
    "sunset": "evening dusk dawn twilight sunrise sundown",
    "night": "midnight dark darkness nighttime nocturnal evening",
    "rain": "rainy storm stormy drizzle rainstorm thunderstorm shower",
    "day": "daytime daylight sunny sunshine noon morning",
    "space/rocket": "universe cosmos galaxy",
    "dog": "puppy doggy doggie pup hound poodle labrador terrier spaniel",
    "cat": "kitten kitty kittycat pussycat tomcat feline",
    "rabbit": "bunny hare bunnies",
    "hen": "chicken chick rooster poultry",
    "pig": "piglet hog swine",
    "bear": "grizzly cub",
    "frog": "toad",
    "mouse": "mice rat rodent",
    "turtle": "tortoise",
    "fish": "goldfish trout salmon tuna",
    "car": "automobile auto vehicle sedan cab",
    "truck/car": "lorry van pickup",
    "airplane/helicopter": "plane aeroplane jet aircraft airliner",
    "sailboat": "boat ship yacht vessel sailing",
    "bicycle": "bike cycle",
    "train": "railway locomotive",
    "rocket": "spaceship spacecraft spaceshuttle missile",
    "house": "home cottage hut building cabin villa",
    "gift": "present parcel presents gifts",
    "hamburger": "burger cheeseburger",
    "doughnut": "donut doughnuts donuts",
    "cookie": "biscuit cracker",
    "candy": "sweets sweet bonbon",
    "ice cream": "gelato icecream",
    "french fries": "chips fries",
    "cake": "tart gateau pie",
    "diamond": "jewel gem gemstone brilliant",
    "clock": "watch wristwatch",
    "t-shirt": "shirt tshirt tee blouse sweater",
    "dress": "gown skirt frock",
    "backpack": "rucksack bag schoolbag satchel",
    "umbrella": "parasol brolly",
    "chair": "seat stool armchair sofa couch",
    "fir tree": "pine spruce conifer tree forest woods",
    "tulip": "flower blossom bloom",
    "robot": "android cyborg machine",
    "wizard": "magician sorcerer warlock mage witch",
    "alien": "martian extraterrestrial",
    "ghost": "phantom spook spirit",
    "princess": "queen lady",
    "astronaut": "cosmonaut spaceman",
    "santa": "claus xmas",
    "ball": "football soccer basketball",
    "trophy": "prize award",
    "star": "stars",
    "red": "crimson scarlet ruby maroon",
    "purple": "violet lilac lavender mauve indigo",
    "blue": "navy cyan turquoise azure teal",
    "yellow": "gold golden amber",
    "green": "olive lime emerald",
    "pink": "magenta salmon fuchsia rosy",
    "grey": "gray silver",
    "brown": "beige tan chestnut",
    "flat": "cartoon vector 2d minimalist",
    "3d": "realistic photorealistic render",
}
# Meanings of words between two things, the best first where several are separated by a slash: the
# wordings that people use.
RELATIONS: Mapping[str, tuple[str, ...]] = {
    "below": ("below", "under", "beneath", "underneath", "at the foot of", "lower than"),
    "above": (
        *("above", "over", "on top of", "on the top of", "atop", "onto", "upon"),
        *("up above", "higher than"),
    ),
    "left of": ("left of", "on the left side of", "to the left side of", "left from"),
    "right of": ("right of", "on the right side of", "to the right side of", "right from"),
    "beside/left of": (
        *("beside", "besides", "next to", "near", "near to", "nearby", "close to", "close by"),
        *("by the side of", "at the side of", "alongside", "adjacent to"),
    ),
}
ARTICLES = ("a", "an", "the", "another", "some")
# What stands before a place and says no more than "in": the place alone is asked for.
WITHIN = tuple(
    f"{lead} of"
    for lead in ("in the middle", "in the centre", "in the center", "in the midst", "inside")
) + ("amid", "amidst", "within")
# Words of this length or less are too short for a letter to be replaced by another.
SHORT, LONG = 4, 8


def by_meaning(word: str, known: Collection[str]) -> str | None:
    """The known word or phrase with the meaning of an everyday word."""
    for meant, words in MEANINGS.items():
        if word in words.split():
            if found := _first_known(meant, known):
                return found
    relation = next((meant for meant, phrases in RELATIONS.items() if word in phrases), "")
    return _first_known(relation, known)


def _first_known(meant: str, known: Collection[str]) -> str | None:
    return next((each for each in meant.split("/") if each in known), None)


def relations_meant(
    text: str,
    relations: Mapping[str, Sequence[str]],
    things: Collection[str],
    looks: Collection[str],
) -> Iterator[tuple[str, str]]:
    """Wordings of a text that stand before a thing and mean a relation that is known by other
    words, each with the first of these: ("atop", "above").

    Args:
        text: Words in lower case, with single spaces.
        relations: Known phrases by relation, in which "A" and "B" are things: "A left of B".
        things: Names of things.
        looks: Colours and counts, which may stand before a name.
    """
    known = {
        meant: [phrase[2:-2] for phrase in phrases if re.fullmatch("A [^AB]+ B", phrase)]
        for meant, phrases in relations.items()
    }
    rest = f" {text} "
    meanings = {phrase: meant for meant, phrases in RELATIONS.items() for phrase in phrases}
    meanings |= {phrase: "" for phrases in known.values() for phrase in phrases}
    # The longest first: "on" may be known, and "on the left side of" is no case of it.
    for phrase, meant in sorted(meanings.items(), key=lambda each: -len(each[0])):
        named = _first_known(meant, [each for each, phrases in known.items() if phrases])
        before, *after = rest.split(f" {phrase} ")
        rest = " , ".join((before, *after)) if after else rest
        if named and any(_begins_with(each, things, looks) for each in after):
            yield phrase, known[named][0]


def places_meant(text: str, places: Collection[str]) -> Iterator[tuple[str, str]]:
    """Places of a text after words that say no more than "in", and the known phrase of each:
    ("in the middle of a meadow", "in a meadow").

    Args:
        text: Words in lower case, with single spaces.
        places: Known phrases, such as "in a meadow".
    """
    leads = "|".join(sorted(WITHIN, key=len, reverse=True))
    for found in re.finditer(rf"\b(?:{leads}) (?:(?:a|an|the|some) )?([\w-]+)", text):
        named = [phrase for phrase in places if phrase.split()[-1] == found[1]]
        if named:
            yield found[0], named[0]


def _begins_with(text: str, things: Collection[str], looks: Collection[str]) -> bool:
    """Whether a text begins with the name of a thing, after an article, a count and a colour."""
    words = text.split()
    while words and (words[0] in ARTICLES or words[0] in looks):
        words.pop(0)
    return any(" ".join(words[:n]) in things for n in (1, 2, 3))


def by_spelling(
    word: str, known: Collection[str], first: Collection[str] = frozenset()
) -> str | None:
    """The known word or phrase that a mistyped word comes nearest to, if it is near enough.

    Near is one letter that is missing, added, replaced or exchanged with the next; in a short word
    none is replaced, and in a long one two may be wrong. The first letter is right.

    Args:
        word: Unknown word.
        known: Words and phrases to choose from.
        first: Those that come first among equally near ones.
    """
    folded = _fold(word)
    most = 1 if len(folded) < LONG else 2
    near: list[tuple[int, bool, str]] = []
    for candidate in known:
        other = _fold_known(candidate)
        if other[:1] != folded[:1] or abs(len(other) - len(folded)) > most or len(other) < 3:
            continue
        distance = _distance(folded, other)
        replaced = len(other) == len(folded) and sorted(other) != sorted(folded)
        if distance <= most and not (replaced and len(folded) <= SHORT):
            near.append((distance, candidate not in first, candidate))
    return min(near)[-1] if near else None


def _fold(word: str) -> str:
    """A word without marks on its letters, as it sounds: "cafe", "elefant"."""
    plain = unicodedata.normalize("NFD", word.lower())
    letters = "".join(char for char in plain if not unicodedata.combining(char))
    return letters.replace("ph", "f")


# A text of hundreds of unknown words compares each with the same thousands of known ones, which
# unlike the unknown ones are no longer than a model's folder says.
_fold_known = lru_cache(maxsize=16384)(_fold)


def _distance(one: str, other: str) -> int:
    """Letters missing, added, replaced or exchanged with the next (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 < j and a == other[j - 2] and b == one[i - 2]:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]
