"""Rows that ask about a picture: what it is, of which kind, whether it is that, on which ground."""

from __future__ import annotations

import random

from orthus_core.data.document import Segment, says
from orthus_core.data.sprites import Sprite
from orthus_core.data.world.english import with_article
from orthus_core.data.world.kinds import KIND_OF_SUBGROUP
from orthus_core.data.world.world import World

WHAT_IS_IT = ("What is this?", "Describe the picture.", "What do you see?")
WHICH_KIND = ("What kind of thing is it?", "What kind of thing is this?")
WHICH_COLOUR = ("What colour is the background?", "What color is the background?")
IS_IT = ("Is this {}?", "Is it {}?")

# What is asked, and how often.
KINDS_OF_QUESTION = {"caption": 0.6, "kind": 0.12, "yes_or_no": 0.16, "background": 0.12}
COLOURED_CHANCE = 0.25
# A wrong guess is half the time of the right kind.
NEAR_MISS_CHANCE = 0.5


def question(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A picture, a question and its one right answer."""
    sprite, ground = world.any_shown(rng, COLOURED_CHANCE)
    asked = rng.choices(list(KINDS_OF_QUESTION), list(KINDS_OF_QUESTION.values()))[0]
    if asked == "kind" and sprite.subgroup in KIND_OF_SUBGROUP:
        words, answer = rng.choice(WHICH_KIND), KIND_OF_SUBGROUP[sprite.subgroup]
    elif asked == "yes_or_no":
        truly = rng.random() < 0.5
        guess = sprite if truly else _wrong_guess(rng, world, sprite)
        words, answer = (
            rng.choice(IS_IT).format(world.names(guess).phrase),
            "yes" if truly else "no",
        )
    elif asked == "background":
        words, answer = rng.choice(WHICH_COLOUR), ground
    else:
        words, answer = rng.choice(WHAT_IS_IT), caption(world, sprite, ground)
    return says("user", world.picture(sprite, ground), words) + says("model", answer)


def caption(world: World, sprite: Sprite, ground: str = "white") -> str:
    """The one right description: "a red apple", "a red apple on a blue background"."""
    phrase = world.names(sprite).phrase
    return phrase if ground == "white" else f"{phrase} on {with_article(ground)} background"


def _wrong_guess(rng: random.Random, world: World, sprite: Sprite) -> Sprite:
    near = world.others_of_kind(sprite)
    if near and rng.random() < NEAR_MISS_CHANCE:
        return rng.choice(near)
    while (guess := world.any_sprite(rng)).base == sprite.base:
        pass
    return guess
