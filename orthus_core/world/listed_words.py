"""What a model of the small world can be asked for, as its `words.json` lists it.

python -m orthus_core.world.listed_words > words.json
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable

from orthus_core.data.known_words import WordList
from orthus_core.world import scene_edits, scene_questions, sprite_edits, sprite_questions
from orthus_core.world.arrange import MOST_THINGS
from orthus_core.world.backdrops import COLOURS, GRADIENTS, GROUND_WORDS, SKY_WORDS
from orthus_core.world.categories import GROUP_WORDS
from orthus_core.world.recolour import HUES
from orthus_core.world.sprite_names import NamedThing
from orthus_core.world.wording import NUMBERS, plural
from orthus_core.world.wordings import (
    RELATION_PHRASES,
    REQUESTS,
    Phrases,
    ground_phrases,
    sky_phrases,
)
from orthus_core.world.world import World

# Grounds and skies by emoji: after "in" or "at" they are no things.
PLACE_EMOJI = {
    "🏖": "beach",
    "🏝": "beach",
    "🌾": "meadow",
    "🌿": "meadow",
    "❄": "snow",
    "🌨": "snow",
    "🍂": "autumn",
    "🍁": "autumn",
    "🏙": "city",
    "🌆": "city",
    "🌊": "sea",
    "🌌": "space",
    "🌇": "sunset",
    "🌅": "sunset",
    "🌃": "night",
    "🌙": "night",
    "🌧": "rain",
    "☔": "rain",
}
# What stands in the placeholders of a table, so that an example can be typed.
_FILLS = {"a": "a cat", "the": "the dog", "is": "is", "Is": "Is", "place": "left of the dog"}
_FILLS_OF: dict[str, tuple[str, ...]] = {
    "ADD": ("a cat",),
    "REPLACE": ("the dog", "a cat"),
    "SWAP": ("the dog", "the cat"),
    "MOVE": ("the dog", "to the left"),
    "RECOLOUR": ("the car", "red"),
    "SET_BACKGROUND": ("blue",),
    "SET_SKY": ("night",),
    "HOW_MANY": ("dogs",),
    "IS_IT": ("a dog",),
    "WHICH_COLOUR": ("the car",),
}
# The same of single sprites, where a table has another meaning.
_FILLS_OF_SINGLE = {"REPLACE": ("a cat",), "RECOLOUR": ("red",), "SET_GROUND": ()}
# Tags of more things than this lead to none of them.
MOST_TAGGED = 3


def word_list(world: World, *, every_wording: bool = True) -> WordList:
    """The words of a world.

    Args:
        world: World that a model was trained on.
        every_wording: Whether it was trained on all wordings, rather than on the first of each.
    """
    things: dict[str, list[dict[str, object]]] = {}
    named = world.things.values()
    tagged = Counter(tag for thing in named for tag in set(thing.sprites[0].tags))
    order = [*GROUP_WORDS]
    for thing in sorted(named, key=lambda each: order.index(each.sprites[0].group)):
        tags = [tag for tag in thing.sprites[0].tags if tagged[tag] <= MOST_TAGGED]
        entry = _entry(thing, tags, counted=thing.names.name in world.countable)
        things.setdefault(GROUP_WORDS[thing.sprites[0].group], []).append(entry)

    def said(table: Phrases) -> list[str]:
        return list(table.trained if every_wording else table.trained[:1])

    related = {
        name: [phrase.format(a="A", b="B") for phrase in said(table)]
        for name, table in RELATION_PHRASES.items()
        if every_wording or name in ("left of", "right of", "above", "below")
    }
    return WordList(
        {
            "things": things,
            "cast": list(world.cast),
            "colours": list(HUES),
            "backgrounds": ["white", *COLOURS, *GRADIENTS],
            "counts": list(NUMBERS[1 : MOST_THINGS + 1]),
            "relations": related,
            "places": {ground: said(ground_phrases(ground)) for ground in GROUND_WORDS},
            "times": {sky: said(sky_phrases(sky)) for sky in SKY_WORDS},
            "edits": [*dict.fromkeys(_examples((scene_edits, sprite_edits), every_wording))],
            "questions": [
                *dict.fromkeys(_examples((scene_questions, sprite_questions), every_wording))
            ],
            "phrases": [phrase.format(prompt="...") for phrase in said(REQUESTS)],
            "place_emoji": _place_emoji(),
        }
    )


def _entry(thing: NamedThing, tags: list[str], *, counted: bool) -> dict[str, object]:
    names, (drawn, *others) = thing.names, thing.sprites
    return {
        "name": names.name,
        "emoji": emoji_of(drawn.key),
        "also": list(names.others),
        "plural": plural(names.name) if counted else "",
        "tags": [tag for tag in tags if tag not in names.all],
        "other_emoji": [emoji for other in others if (emoji := emoji_of(other.key))],
    }


def emoji_of(key: str) -> str:
    """The emoji of a sprite's key, without variation selectors; "" for a key of another kind."""
    try:
        return "".join(chr(int(part, 16)) for part in key.split("-"))
    except (ValueError, OverflowError):
        return ""


def _place_emoji() -> dict[str, str]:
    phrases = {**GROUND_WORDS, **SKY_WORDS}
    return {emoji: phrases[name] for emoji, name in PLACE_EMOJI.items() if name in phrases}


def _examples(modules: Iterable[object], every_wording: bool) -> Iterable[str]:
    """The phrases of the modules' tables, with examples for things."""
    for module in modules:
        for name, table in vars(module).items():
            if isinstance(table, Phrases) and name.isupper():
                fills = _FILLS_OF.get(name, ("the dog",))
                named = _FILLS
                if module is sprite_edits:
                    fills = _FILLS_OF_SINGLE.get(name, fills)
                    named = named | {"a": "a blue", "name": "blue"}
                for phrase in table.trained if every_wording else table.trained[:1]:
                    yield phrase.format(*fills, **named)


if __name__ == "__main__":
    every = "--first-wordings" not in sys.argv[1:]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(word_list(World.open(), every_wording=every).text())
