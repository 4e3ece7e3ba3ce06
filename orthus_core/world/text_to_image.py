"""Rows that ask for one sprite: the user's caption, then a picture of the sprite."""

from __future__ import annotations

import random

from orthus_core.data.document import Segment, turn
from orthus_core.world.english import with_article
from orthus_core.world.single_sprites import caption_names, sample_single
from orthus_core.world.world import World

# Phrasings, with their weights; {a_name} has an article. Without a style, the picture is 3d.
PHRASINGS: dict[str, float] = {
    "{name}": 0.26,
    "{a_name}": 0.36,
    "a picture of {a_name}": 0.08,
    "draw {a_name}": 0.08,
    "an emoji of {a_name}": 0.06,
    "{a_styled_name}": 0.05,
    "{name}, {tags}": 0.08,
}
# Other styles must be named.
STYLED_PHRASINGS: dict[str, float] = {"{a_styled_name}": 0.6, "{a_name} in {style} style": 0.4}
GROUND_PHRASINGS = ("on {a_colour} background", "with {a_colour} background")

# Share of captions with the plain name; the others use an everyday name if there is one.
PLAIN_NAME_CHANCE = 0.6
COLOURED_CHANCE = 0.15
FULL_STOP_CHANCE = 0.05
MOST_TAGS = 2


def text_to_image(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A caption; then its picture. About one caption in eight asks for a coloured ground; the
    others leave it open.
    """
    single = sample_single(rng, world, COLOURED_CHANCE)
    sprite, style, ground = single.sprite, single.style, single.ground
    name, *others = caption_names(world, sprite)
    if others and rng.random() >= PLAIN_NAME_CHANCE:
        name = rng.choice(others)
    phrasings = PHRASINGS if style == "3d" else STYLED_PHRASINGS
    caption = rng.choices(list(phrasings), list(phrasings.values()))[0].format(
        name=name,
        a_name=with_article(name),
        style=style,
        a_styled_name=with_article(f"{style} {name}"),
        tags=", ".join(rng.sample(sprite.tags, min(MOST_TAGS, len(sprite.tags)))) or "emoji",
    )
    if single.named:
        caption = f"{caption} {rng.choice(GROUND_PHRASINGS).format(a_colour=with_article(ground))}"
    if rng.random() < FULL_STOP_CHANCE:
        caption += "."
    return turn("user", caption) + turn("model", single.picture(world))
