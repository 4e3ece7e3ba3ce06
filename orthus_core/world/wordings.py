"""The wordings of prompts: several phrases for each relation, place, number, colour and request.

Every phrase has one meaning in a scene. A part of each table is held out: rows of a training never
contain it, and an evaluation can ask for it alone. Canonical captions, which a model answers with,
are in `wording`.

Placeholders: {a} and {b} are things with their articles ("a dog"), {the} and {other} have "the",
{things} is a plural, {thing} a noun without an article.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from orthus_core.world.arrange import relation_between
from orthus_core.world.backdrops import GROUND_WORDS, SKY_WORDS
from orthus_core.world.english import is_plural, join_list, with_article
from orthus_core.world.fillers import filler
from orthus_core.world.scene import Scene
from orthus_core.world.wording import plural

Wordings = Literal["trained", "held out"]


@dataclass(frozen=True)
class Phrases:
    """Phrases with one meaning.

    Attributes:
        trained: Phrases of training rows; the first one is the most frequent.
        held_out: Phrases that no training row contains.
        first: Share of the first trained phrase; the others share the rest.
    """

    trained: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    first: float = 0.4

    def choose(self, rng: random.Random, wordings: Wordings = "trained") -> str:
        """A random phrase; a trained one where none is held out."""
        if wordings == "held out" and self.held_out:
            return rng.choice(self.held_out)
        first, *others = self.trained
        return first if not others or rng.random() < self.first else rng.choice(others)


# --- Things -----------------------------------------------------------------------------------

COUNTS: Mapping[int, Phrases] = {
    1: Phrases(
        ("{a}", "one {thing}", "a single {thing}", "1 {thing}", "a lone {thing}"),
        ("just one {thing}", "only one {thing}"),
    ),
    2: Phrases(
        (
            "two {things}",
            "2 {things}",
            "a pair of {things}",
            "a couple of {things}",
            "a duo of {things}",
            "a set of two {things}",
            "precisely two {things}",
        ),
        ("{a} and another {thing}", "exactly two {things}", "a group of two {things}"),
    ),
    3: Phrases(
        (
            "three {things}",
            "3 {things}",
            "a group of three {things}",
            "a trio of {things}",
            "a set of three {things}",
            "precisely three {things}",
        ),
        ("exactly three {things}", "a group of 3 {things}"),
    ),
    4: Phrases(
        (
            "four {things}",
            "4 {things}",
            "a group of four {things}",
            "a quartet of {things}",
            "a set of four {things}",
            "precisely four {things}",
        ),
        ("exactly four {things}", "a group of 4 {things}"),
    ),
}
# {thing} is a noun with its number or article: "an apple that is red", "two apples that are red".
COLOURED_THING = Phrases(
    (
        "{colour} {thing}",
        "{thing} that {is} {colour}",
        "{colour} coloured {thing}",
        "all {colour} {thing}",
        "{thing} painted {colour}",
        "{thing} coloured {colour}",
        "{thing} of {colour} colour",
        "{thing} whose colour is {colour}",
    ),
    ("{thing} in {colour}", "{thing} which {is} {colour}"),
    first=0.65,
)
# Only for a single thing without a place: elsewhere the comma would belong to a list.
COLOUR_LAST = "{thing}, {colour}"

# --- Two things -------------------------------------------------------------------------------

# The meaning of "beside" is either side.
BESIDE = "beside"
SIDES = ("left of", "right of")
RELATION_PHRASES: Mapping[str, Phrases] = {
    "left of": Phrases(
        (
            "{a} left of {b}",
            "{a} to the left of {b}",
            "{a} on the left of {b}",
            "{a} on the left, {b} on the right",
            "{a} just left of {b}",
            "{a} at the left of {b}",
            "{a} placed to the left of {b}",
            "{a} further left than {b}",
        ),
        ("{a} on the left side of {b}", "{a} on the left and {b} on the right"),
    ),
    "right of": Phrases(
        (
            "{a} right of {b}",
            "{a} to the right of {b}",
            "{a} on the right of {b}",
            "{a} on the right, {b} on the left",
            "{a} just right of {b}",
            "{a} at the right of {b}",
            "{a} placed to the right of {b}",
            "{a} further right than {b}",
        ),
        ("{a} on the right side of {b}", "{a} on the right and {b} on the left"),
    ),
    "above": Phrases(
        (
            "{a} above {b}",
            "{a} over {b}",
            "{a} on top of {b}",
            "{a} on {b}",
            "{a} at the top, {b} at the bottom",
            "{a} just above {b}",
            "{a} directly over {b}",
            "{a} placed above {b}",
            "{a} higher than {b}",
        ),
        ("{a} up above {b}", "{a} at the top and {b} at the bottom"),
    ),
    "below": Phrases(
        (
            "{a} below {b}",
            "{a} under {b}",
            "{a} beneath {b}",
            "{a} at the bottom, {b} at the top",
            "{a} just below {b}",
            "{a} directly under {b}",
            "{a} placed below {b}",
            "{a} lower than {b}",
        ),
        ("{a} underneath {b}", "{a} at the bottom and {b} at the top"),
    ),
    BESIDE: Phrases(
        (
            "{a} next to {b}",
            "{a} beside {b}",
            "{a} near {b}",
            "{a} by the side of {b}",
            "{a} and {b} side by side",
            "{a} adjacent to {b}",
            "{a} alongside {b}",
            "{a} just beside {b}",
        ),
        ("{a} right next to {b}", "{a} at the side of {b}", "{a} and {b} next to each other"),
    ),
}
# Share of prompts for things side by side that leave the side open.
BESIDE_CHANCE = 0.25

JOINS = Phrases(
    (
        "{a} and {b}",
        "{a} with {b}",
        "{a}, {b}",
        "{a} & {b}",
        "{a} + {b}",
        "{a} plus {b}",
        "{a}, and {b}",
        "{a} and also {b}",
        "{a} along with {b}",
        "{a} accompanied by {b}",
        "both {a} and {b}",
    ),
    ("{a} together with {b}", "{a} as well as {b}"),
    first=0.5,
)
# Share of two things that only fillers are between: "a dog snuttzosk a cat".
FILLED_JOIN_CHANCE = 0.4
MOST_BETWEEN = 3

# --- Places -----------------------------------------------------------------------------------

# Beside the canonical phrase of `backdrops.GROUND_WORDS`. A ground that has none here is always
# named by its canonical phrase.
GROUND_PHRASES: Mapping[str, Phrases] = {
    "meadow": Phrases(
        ("on grass", "on the grass", "in the grass", "in a field", "in a park", "in a garden"),
        ("on green grass", "in a green field", "on a meadow"),
    ),
    "beach": Phrases(
        ("on the beach", "at the beach", "on the sand", "by the sea", "at the sea"),
        ("on a sandy beach", "on sand", "by the beach"),
    ),
    "snow": Phrases(
        ("in snow", "on the snow", "on snow", "in winter"),
        ("in a snowy field", "in the winter", "in deep snow"),
    ),
    "autumn": Phrases(
        ("in autumn", "in the autumn", "in fall"),
        ("on an autumn field", "in an autumn meadow"),
    ),
    "city": Phrases(
        ("in the city", "in a street", "on the street", "in town"),
        ("on a street", "in a town", "in a big city"),
    ),
    "room": Phrases(
        ("in the room", "inside", "indoors", "at home", "in a house"),
        ("inside a house", "in a living room", "inside the house"),
    ),
    "sea": Phrases(
        ("in the sea", "in the water", "underwater", "in the ocean"),
        ("in water", "at the bottom of the sea", "deep in the sea"),
    ),
    "space": Phrases(
        ("in outer space", "in the universe", "among the stars"),
        ("out in space", "somewhere in space", "up in space"),
    ),
}
# Beside the canonical phrase of `backdrops.SKY_WORDS`.
SKY_PHRASES: Mapping[str, Phrases] = {
    "day": Phrases(
        ("during the day", "on a sunny day", "in daylight"),
        ("in the daytime", "in the sunshine", "on a bright day"),
    ),
    "sunset": Phrases(
        ("at dusk", "in the evening", "under a sunset sky"),
        ("during sunset", "in the evening sun", "with a sunset"),
    ),
    "night": Phrases(
        ("by night", "in the night", "in the dark", "under a night sky"),
        ("during the night", "on a dark night", "late at night"),
    ),
    "rain": Phrases(
        ("in rain", "on a rainy day", "while it rains"),
        ("during rain", "in rainy weather", "in the pouring rain"),
    ),
}
# Share of prompts for a place by day that do not say so, and of those under another sky that leave
# the ground open.
DAY_UNSAID_CHANCE, SKY_ALONE_CHANCE = 0.6, 0.12
PLACED = Phrases(("{things} {place}", "{things}, {place}"), ("{place}, {things}",))
# Share of held-out prompts for a place in which the order is what training never uses.
ORDER_CHANCE = 0.3

PLAIN_GROUND = Phrases(
    (
        "on {a_colour} background",
        "with {a_colour} background",
        "against {a_colour} background",
        "on {colour}",
        ", {colour} background",
        "on {a_colour} backdrop",
        "against {colour}",
        "with {colour} behind",
    ),
    (
        "in front of {a_colour} background",
        "over {a_colour} background",
        "with a background in {colour}",
    ),
)
# Share of prompts for a white picture that say so.
WHITE_CHANCE = 0.05

# --- Requests ---------------------------------------------------------------------------------

REQUESTS = Phrases(
    (
        "{prompt}",
        "a picture of {prompt}",
        "a photo of {prompt}",
        "an image of {prompt}",
        "a drawing of {prompt}",
        "draw {prompt}",
        "draw me {prompt}",
        "paint {prompt}",
        "i want {prompt}",
        "{prompt} please",
        "please draw {prompt}",
        "give me {prompt}",
        "let me see {prompt}",
        "create {prompt}",
        "generate {prompt}",
        "please create {prompt}",
        "could you paint {prompt}",
        "i need {prompt}",
        "sketch {prompt}",
        "a sketch of {prompt}",
        "an illustration of {prompt}",
    ),
    (
        "show me {prompt}",
        "can you draw {prompt}",
        "make a picture of {prompt}",
        "a painting of {prompt}",
        "i would like {prompt}",
    ),
)
REQUEST_CHANCE = 0.25
WITHOUT_ARTICLES_CHANCE = 0.12
CAPITALS = {"as it is": 0.82, "first": 0.1, "title": 0.06, "all": 0.02}
FULL_STOP_CHANCE = 0.08

ARTICLES = ("a", "an", "the")


class ScenePrompt(NamedTuple):
    """A prompt for a scene, and what its words ask for.

    Attributes:
        text: Text of the prompt.
        relation: Relation of the first thing to the second that it names, a name of
            `RELATION_PHRASES`; "" if it names none.
        place: Words of the backdrop that it names: ("meadow", "night"), ("night",) or ("blue",);
            () if it leaves the backdrop open.
    """

    text: str
    relation: str = ""
    place: tuple[str, ...] = ()


def prompt_of(
    rng: random.Random,
    scene: Scene,
    nouns: Sequence[str],
    *,
    relation: bool = True,
    place: bool = True,
    wordings: Wordings = "trained",
) -> ScenePrompt:
    """A prompt that a scene fulfils, in random words.

    With held-out wordings, each relation, place, number and colour that the prompt names has a
    phrase that training never uses; a prompt that names none of them has such a request.

    Args:
        rng: Random numbers.
        scene: Scene to ask for.
        nouns: Noun of each thing, in the scene's order, without its colour.
        relation: Whether to name the relation between two different things.
        place: Whether to name the backdrop, rather than to leave it open.
        wordings: Which part of the tables to use.
    """
    place_first = wordings == "held out" and rng.random() < ORDER_CHANCE
    where, asked = "", ()
    if place:
        where, asked = place_words(rng, scene.backdrop, "trained" if place_first else wordings)
        if place_first and where.startswith(","):  # it has no other order
            where, asked = place_words(rng, scene.backdrop, wordings)
    things, stands = things_words(
        rng, scene, nouns, relation=relation, wordings=wordings, alone=not where
    )
    if not where or where.startswith(","):
        prompt = f"{things}{where}"
    else:
        placed = PLACED.choose(rng, wordings if place_first else "trained")
        prompt = placed.format(things=things, place=where)
    named = bool(stands or where) or len(nouns) > 1 or any(t.colour for t in scene.things)
    text = requested(rng, prompt, named, wordings)
    return ScenePrompt(text, stands, asked)


def things_words(
    rng: random.Random,
    scene: Scene,
    nouns: Sequence[str],
    *,
    relation: bool = True,
    wordings: Wordings = "trained",
    alone: bool = False,
) -> tuple[str, str]:
    """The things of a scene in random words, and the relation that they name.

    Args:
        rng, scene, nouns, relation, wordings: As for `prompt_of`.
        alone: Whether no other words follow.
    """
    looks = list(zip(nouns, (thing.colour for thing in scene.things), strict=True))
    counts = {look: looks.count(look) for look in looks}
    phrases = [
        thing_words(rng, *look, n, wordings, alone=alone and len(counts) == 1)
        for look, n in counts.items()
    ]
    if len(phrases) != 2:
        return (join_list(phrases) if phrases else "nothing"), ""
    stands = relation_between(*scene.things) if relation and len(scene.things) == 2 else ""
    if stands in SIDES and rng.random() < BESIDE_CHANCE:
        stands = BESIDE
    if not stands and wordings == "trained" and rng.random() < FILLED_JOIN_CHANCE:
        between = (filler(rng) for _ in range(rng.randint(1, MOST_BETWEEN)))
        return " ".join((phrases[0], *between, phrases[1])), ""
    joined = RELATION_PHRASES[stands] if stands else JOINS
    return joined.choose(rng, wordings).format(a=phrases[0], b=phrases[1]), stands


def thing_words(
    rng: random.Random,
    noun: str,
    colour: str = "",
    count: int = 1,
    wordings: Wordings = "trained",
    *,
    alone: bool = False,
) -> str:
    """One kind of thing with its number and colour, in random words: "2 apples that are red"."""
    # A single thing is rarely counted in words, and a mass or a plural never.
    counted = count > 1 or (with_article(noun).startswith(("a ", "an ")) and rng.random() < 0.05)
    phrase = COUNTS[count].choose(rng, wordings) if counted else "{a}"
    if not colour:
        return _counted(phrase, noun)
    # "a red dog and another dog" would leave one colour open.
    phrase = phrase if "another" not in phrase else COUNTS[count].trained[0]
    if alone and wordings == "trained" and rng.random() < 0.08:
        return COLOUR_LAST.format(thing=_counted(phrase, noun), colour=colour)
    coloured = COLOURED_THING.choose(rng, wordings)
    if coloured.endswith("{thing}"):
        return _counted(phrase, coloured.format(colour=colour, thing=noun))
    verb = "are" if count > 1 or is_plural(noun) else "is"
    return coloured.format(thing=_counted(phrase, noun), colour=colour, **{"is": verb})


def _counted(phrase: str, noun: str) -> str:
    return phrase.format(a=with_article(noun), thing=noun, things=plural(noun))


def place_beside(
    rng: random.Random, relation: str, thing: str, wordings: Wordings = "trained"
) -> str:
    """Where something is that stands in a relation to a thing: "to the left of the dog"."""
    table = RELATION_PHRASES[relation]
    ends = Phrases(_places_in(table.trained), _places_in(table.held_out))
    return ends.choose(rng, wordings).format(b=thing)


def _places_in(phrases: Sequence[str]) -> tuple[str, ...]:
    """The ends of the phrases that name the first thing first and alone."""
    whole = [p for p in phrases if p.startswith("{a} ") and p.endswith(" {b}") and " and " not in p]
    return tuple(phrase.removeprefix("{a} ") for phrase in whole)


def place_words(
    rng: random.Random, backdrop: str, wordings: Wordings = "trained"
) -> tuple[str, tuple[str, ...]]:
    """A backdrop in random words, and which of its words they name; ("", ()) to leave it open."""
    ground, _, sky = backdrop.partition(" ")
    if ground not in GROUND_WORDS:  # a colour or a gradient
        if backdrop == "white" and rng.random() >= WHITE_CHANCE:
            return "", ()
        phrase = PLAIN_GROUND.choose(rng, wordings)
        return phrase.format(a_colour=with_article(backdrop), colour=backdrop), (backdrop,)
    if not sky:
        return ground_phrases(ground).choose(rng, wordings), (ground,)
    if sky != "day" and rng.random() < SKY_ALONE_CHANCE:
        return sky_phrases(sky).choose(rng, wordings), (sky,)
    if sky == "day" and rng.random() < DAY_UNSAID_CHANCE:
        return ground_phrases(ground).choose(rng, wordings), (ground,)
    words = ground_phrases(ground).choose(rng, wordings), sky_phrases(sky).choose(rng, wordings)
    return " ".join(words), (ground, sky)


def ground_phrases(ground: str) -> Phrases:
    """All phrases for a ground, the canonical one first."""
    return _with_canonical(GROUND_WORDS[ground], GROUND_PHRASES.get(ground))


def sky_phrases(sky: str) -> Phrases:
    """All phrases for a sky, the canonical one first."""
    return _with_canonical(SKY_WORDS[sky], SKY_PHRASES.get(sky))


def requested(
    rng: random.Random,
    prompt: str,
    named: bool = False,
    wordings: Wordings = "trained",
) -> str:
    """A prompt as a request, in the capitals and with the stop that people use.

    Args:
        rng: Random numbers.
        prompt: Prompt.
        named: Whether the prompt has a held-out phrase already, if `wordings` asks for one.
        wordings: Which part of the tables to use.
    """
    if wordings == "held out":
        return prompt if named else REQUESTS.choose(rng, wordings).format(prompt=prompt)
    if rng.random() < REQUEST_CHANCE:
        prompt = rng.choice(REQUESTS.trained[1:]).format(prompt=prompt)
    if rng.random() < WITHOUT_ARTICLES_CHANCE:
        prompt = without_articles(prompt)
    capitals = rng.choices(list(CAPITALS), list(CAPITALS.values()))[0]
    if capitals == "title":
        prompt = " ".join(word[:1].upper() + word[1:] for word in prompt.split())
    elif capitals != "as it is":
        prompt = prompt.upper() if capitals == "all" else prompt[:1].upper() + prompt[1:]
    return f"{prompt}." if rng.random() < FULL_STOP_CHANCE else prompt


def without_articles(prompt: str) -> str:
    """A prompt as in telegrams: "dog left of cat"."""
    words = prompt.split()
    # Where an article belongs to a phrase, it stays: "to the left of", "a pair of".
    kept = (
        word for index, word in enumerate(words) if word not in ARTICLES or _belongs(words, index)
    )
    return " ".join(kept) or prompt


_FIXED = frozenset(
    "left right top bottom side pair couple group single picture photo image drawing duo trio "
    "quartet set lone sketch illustration backdrop".split()
)


def _belongs(words: Sequence[str], index: int) -> bool:
    after = words[index + 1 : index + 2]
    return not after or after[0].strip(",.") in _FIXED or words[index] == "the"


def _with_canonical(canonical: str, others: Phrases | None) -> Phrases:
    others = others or Phrases(())
    rest = tuple(phrase for phrase in others.trained if phrase != canonical)
    return Phrases((canonical, *rest), others.held_out)
