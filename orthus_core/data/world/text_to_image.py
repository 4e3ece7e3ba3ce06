"""Rows that ask for a picture: the user's caption, then the sprite it names."""

from __future__ import annotations

import random

from orthus_core.data.document import Segment, says
from orthus_core.data.world.english import is_plural, with_article
from orthus_core.data.world.world import World

# How people ask, and how often: {name} bare, {a_name} with its article.
PHRASINGS: dict[str, float] = {
    "{name}": 0.26,
    "{a_name}": 0.36,
    "a picture of {a_name}": 0.08,
    "draw {a_name}": 0.08,
    "an emoji of {a_name}": 0.06,
    "a 3D {name}": 0.05,
    "{name}, {tags}": 0.08,
    "{hint}": 0.03,
}
GROUND_PHRASINGS = ("on {a_colour} background", "with {a_colour} background")

# Everyday names together come up about as often as the plain one.
PLAIN_NAME_CHANCE = 0.6
COLOURED_CHANCE = 0.15
FULL_STOP_CHANCE = 0.05
MOST_TAGS = 2


def text_to_image(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A caption and its picture; about one in seven asks for a coloured ground."""
    sprite, ground = world.any_shown(rng, COLOURED_CHANCE)
    names = world.names(sprite)
    name = names.name
    if names.others and rng.random() >= PLAIN_NAME_CHANCE:
        name = rng.choice(names.others)
    phrasing = rng.choices(list(PHRASINGS), list(PHRASINGS.values()))[0]
    caption = phrasing.format(
        name=name,
        a_name=with_article(name),
        tags=", ".join(rng.sample(sprite.tags, min(MOST_TAGS, len(sprite.tags)))) or "emoji",
        hint=rng.choice(names.hints) if names.hints else name,
    )
    if phrasing.startswith("a 3D") and is_plural(name):
        caption = f"3D {name}"
    if ground != "white":
        caption = f"{caption} {rng.choice(GROUND_PHRASINGS).format(a_colour=with_article(ground))}"
    if rng.random() < FULL_STOP_CHANCE:
        caption += "."
    return says("user", caption) + says("model", world.picture(sprite, ground))
