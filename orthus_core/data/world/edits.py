"""Rows that change a picture: what is there, an instruction, what it becomes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from orthus_core.data.document import Segment, says
from orthus_core.data.pictures import SpriteImage
from orthus_core.data.sprites import Sprite
from orthus_core.data.world.english import with_article
from orthus_core.data.world.world import World

COLOURED_CHANCE = 0.3
# Of edits of a person, how many change the skin or the gender; the rest are as for other things.
PERSON_EDIT_CHANCE = 0.5
# Of edits of a coloured ground, how many make it white.
CLEAR_CHANCE = 0.3

TONE_SCALE = ("", "light", "medium", "dark")

SET_GROUND = (
    "put it on {a} background",
    "make the background {name}",
    "change the background to {name}",
    "{name} background",
)
CLEAR_GROUND = ("remove the background", "make the background white", "put it on white")
MIRROR = ("mirror it", "flip it", "flip it horizontally", "mirror the picture")
TO_GREY = ("make it black and white", "make it grey", "remove the colours", "turn it to greyscale")
REPLACE = ("turn it into {}", "replace it with {}", "make it {}", "change it to {}")
SET_TONE = ("make the skin {}", "change the skin to {}", "give it {} skin")
DARKER = ("make the skin darker", "darker skin")
LIGHTER = ("make the skin lighter", "lighter skin")
SET_GENDER = ("make it a {}", "turn it into a {}", "change it to a {}")


class Edit(NamedTuple):
    """A picture, an instruction, and the picture that comes of it."""

    before: SpriteImage
    instruction: str
    after: SpriteImage


def edit(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A picture, an instruction and the changed picture; what is not named stays as it was."""
    sprite, ground = world.any_shown(rng, COLOURED_CHANCE)
    makers: list[Maker] = [_set_ground, _mirror, _to_grey, _replace]
    of_people: list[Maker] = []
    if len(world.tones(sprite)) > 1:
        of_people.append(_set_tone)
    if len(world.twins(sprite)) > 1 and not sprite.skin:
        of_people.append(_set_gender)
    if of_people and rng.random() < PERSON_EDIT_CHANCE:
        makers = of_people
    made = rng.choice(makers)(rng, world, sprite, ground)
    return says("user", made.before, made.instruction) + says("model", made.after)


def _set_ground(rng: random.Random, world: World, sprite: Sprite, ground: str) -> Edit:
    if ground != "white" and rng.random() < CLEAR_CHANCE:
        before, after = world.picture(sprite, ground), world.picture(sprite)
        return Edit(before, rng.choice(CLEAR_GROUND), after)
    # What is held out is where it ends, so a test starts on white.
    ground = "white" if world.testing else ground
    colour = rng.choice([c for c in world.colours(sprite) if c != ground])
    words = rng.choice(SET_GROUND).format(a=with_article(colour), name=colour)
    return Edit(world.picture(sprite, ground), words, world.picture(sprite, colour))


def _mirror(rng: random.Random, world: World, sprite: Sprite, ground: str) -> Edit:
    before = world.picture(sprite, ground)
    return Edit(before, rng.choice(MIRROR), replace(before, mirror=True))


def _to_grey(rng: random.Random, world: World, sprite: Sprite, ground: str) -> Edit:
    before = world.picture(sprite, ground)
    return Edit(before, rng.choice(TO_GREY), replace(before, grey=True))


def _replace(rng: random.Random, world: World, sprite: Sprite, ground: str) -> Edit:
    other = sprite
    while other.key == sprite.key or not world.may_show(other, ground):
        other = world.any_sprite(rng)
    words = rng.choice(REPLACE).format(world.names(other).phrase)
    return Edit(world.picture(sprite, ground), words, world.picture(other, ground))


def _set_tone(rng: random.Random, world: World, sprite: Sprite, ground: str) -> Edit:
    ways = [(rng.choice(SET_TONE).format(tone or "yellow"), tone) for tone in TONE_SCALE]
    # From yellow, "darker" and "lighter" go to the end of the scale; else one step along it.
    ways.append((rng.choice(DARKER), {"": "dark", "light": "medium"}.get(sprite.skin, "dark")))
    ways.append((rng.choice(LIGHTER), {"": "light", "dark": "medium"}.get(sprite.skin, "light")))
    tones = world.tones(sprite)
    words, tone = rng.choice([way for way in ways if way[1] in tones and way[1] != sprite.skin])
    return Edit(world.picture(sprite, ground), words, world.picture(tones[tone], ground))


def _set_gender(rng: random.Random, world: World, sprite: Sprite, ground: str) -> Edit:
    twins = world.twins(sprite)
    gender = rng.choice([gender for gender in twins if gender != sprite.gender])
    words = rng.choice(SET_GENDER).format(gender or "person")
    return Edit(world.picture(sprite, ground), words, world.picture(twins[gender], ground))


Maker = Callable[[random.Random, World, Sprite, str], Edit]
