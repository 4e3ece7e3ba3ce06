"""Rows that ask for one sprite: the user's caption, then a picture of the sprite."""

from __future__ import annotations

import random

from orthus_core.data.document import Segment, turn
from orthus_core.world.english import with_article
from orthus_core.world.single_sprites import caption_names, sample_single
from orthus_core.world.wordings import place_words, requested
from orthus_core.world.world import World

# Phrasings, with their weights; {a_name} has an article.
PHRASINGS: dict[str, float] = {
    "{name}": 0.2,
    "{a_name}": 0.6,
    "an emoji of {a_name}": 0.06,
    "{name}, {tags}": 0.08,
}

# Share of captions with the plain name; the others use an everyday name if there is one.
PLAIN_NAME_CHANCE = 0.6
COLOURED_CHANCE = 0.15
MOST_TAGS = 2


def text_to_image(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A caption; then its picture. About one caption in eight asks for a coloured ground; the
    others leave the ground open.
    """
    single = sample_single(rng, world, COLOURED_CHANCE)
    sprite = single.sprite
    name, *others = caption_names(world, sprite)
    if others and rng.random() >= PLAIN_NAME_CHANCE:
        name = rng.choice(others)
    caption = rng.choices(list(PHRASINGS), list(PHRASINGS.values()))[0].format(
        name=name,
        a_name=with_article(name),
        tags=", ".join(rng.sample(sprite.tags, min(MOST_TAGS, len(sprite.tags)))) or "emoji",
    )
    if single.named:
        words, _ = place_words(rng, single.ground, world.wordings)
        caption = f"{caption}{words}" if words.startswith(",") else f"{caption} {words}"
    said = requested(rng, caption, single.named, world.wordings)
    return turn("user", said) + turn("model", single.picture(world))
