"""Rows that ask for one sprite: the user's caption, then a picture of the sprite."""

from __future__ import annotations

import random

from orthus_core.data.document import Segment, turn
from orthus_core.world.english import with_article
from orthus_core.world.single_sprites import caption_names, sample_single
from orthus_core.world.wordings import place_words, requested
from orthus_core.world.world import World

# Phrasings, with their weights; {a_name} has an article. Without a style, the picture is 3d.
PHRASINGS: dict[str, float] = {
    "{name}": 0.2,
    "{a_name}": 0.58,
    "an emoji of {a_name}": 0.06,
    "{a_styled_name}": 0.05,
    "{name}, {tags}": 0.08,
}
# Share of the prompts for another style that name it before the thing: "a flat dog".
STYLE_FIRST_CHANCE = 0.5

# Share of captions with the plain name; the others use an everyday name if there is one.
PLAIN_NAME_CHANCE = 0.6
COLOURED_CHANCE = 0.15
MOST_TAGS = 2


def text_to_image(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A caption; then its picture. About one caption in eight asks for a coloured ground; the
    others leave the ground open.
    """
    single = sample_single(rng, world, COLOURED_CHANCE)
    sprite, style, ground = single.sprite, single.style, single.ground
    name, *others = caption_names(world, sprite)
    if others and rng.random() >= PLAIN_NAME_CHANCE:
        name = rng.choice(others)
    style_first = style != "3d" and rng.random() < STYLE_FIRST_CHANCE
    phrasings = {"{a_styled_name}": 1.0} if style_first else PHRASINGS
    if style != "3d" and not style_first:
        phrasings = {"{a_name}": 1.0}
    caption = rng.choices(list(phrasings), list(phrasings.values()))[0].format(
        name=name,
        a_name=with_article(name),
        style=style,
        a_styled_name=with_article(f"{style} {name}"),
        tags=", ".join(rng.sample(sprite.tags, min(MOST_TAGS, len(sprite.tags)))) or "emoji",
    )
    if single.named:
        words, _ = place_words(rng, ground, world.wordings)
        caption = f"{caption}{words}" if words.startswith(",") else f"{caption} {words}"
    named = "3d" if style_first else style
    said = requested(rng, caption, named, single.named, world.wordings)
    return turn("user", said) + turn("model", single.picture(world))
