"""Edits of a single thing: its ground or colour changes, or another thing replaces it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from orthus_core.data.document import Segment, turn
from orthus_core.world.arrange import arrange
from orthus_core.world.english import with_article
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import SceneImage
from orthus_core.world.scene_edits import OWN_COLOURS
from orthus_core.world.scenes import as_things, coloured_nouns
from orthus_core.world.single_sprites import Single, open_ground, sample_single
from orthus_core.world.splits import colour_held_out, edit_held_out
from orthus_core.world.wordings import Phrases
from orthus_core.world.world import World

COLOURED_CHANCE = 0.3
# Share of edits of a coloured ground that make it white.
CLEAR_CHANCE = 0.3
# Share of recolourings that start from a recoloured thing.
LAID_ON_CHANCE = 0.3

SET_GROUND = Phrases(
    (
        "put it on {a} background",
        "make the background {name}",
        "change the background to {name}",
        "{name} background",
        "set the background to {name}",
        "place it on {a} background",
        "let the background be {name}",
    ),
    ("i want the background to be {name}", "turn the background {name}"),
)
CLEAR_GROUND = Phrases(
    (
        "remove the background",
        "make the background white",
        "put it on white",
        "no background",
        "place it on white",
    ),
    ("take the background away", "erase the background"),
)
REPLACE = Phrases(
    (
        "turn it into {}",
        "replace it with {}",
        "make it {}",
        "change it to {}",
        "swap it for {}",
        "let it become {}",
    ),
    ("change it into {}", "i want {} instead"),
)
RECOLOUR = Phrases(
    (
        "make it {}",
        "change its colour to {}",
        "paint it {}",
        "colour it {}",
        "color it {}",
        "turn it {}",
        "it should be {}",
        "give it the colour {}",
    ),
    ("change the colour to {}", "i want it to be {}"),
)


class SpriteEdit(NamedTuple):
    """A picture, an instruction, and the picture that results.

    Attributes:
        before: Picture to edit.
        instruction: Text of the instruction.
        after: Resulting picture.
        cell: Kind, noun and result, the arguments of `edit_held_out`.
    """

    before: SceneImage
    instruction: str
    after: SceneImage
    cell: tuple[str, str, str]


def edit(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A picture and an instruction; then the edited picture, in which all else stays the same."""
    candidate = make_single_edit(rng, world)
    return turn("user", candidate.before, candidate.instruction) + turn("model", candidate.after)


def make_single_edit(rng: random.Random, world: World) -> SpriteEdit:
    """Samples an edit of one sprite that this world may show.

    In a testing world, the resulting ground or colour is held out.
    """
    while True:
        kind = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
        candidate = KINDS[kind][0](rng, world)
        if not all(world.stands_out(p.scene) for p in (candidate.before, candidate.after)):
            continue
        if world.testing or not edit_held_out(*candidate.cell):
            return candidate


def _of_any(rng: random.Random, world: World) -> SpriteEdit:
    single = sample_single(rng, world, COLOURED_CHANCE)
    return rng.choice((_replace, _set_ground))(rng, world, single)


def _set_ground(rng: random.Random, world: World, single: Single) -> SpriteEdit:
    noun = world.noun(single.sprite.key)
    if single.ground != "white" and not world.testing and rng.random() < CLEAR_CHANCE:
        after = single.on("white")
        words = CLEAR_GROUND.choose(rng, world.wordings)
    else:
        # The resulting ground is the one that is held out, so a test starts on white.
        single = single.on("white") if world.testing else single
        colours = [c for c in world.colours(single.sprite) if c != single.ground]
        after = single.on(rng.choice(colours))
        words = SET_GROUND.choose(rng, world.wordings).format(
            a=with_article(after.ground), name=after.ground
        )
    cell = ("background", noun, after.ground)
    return SpriteEdit(single.picture(world), words, after.picture(world), cell)


def _replace(rng: random.Random, world: World, single: Single) -> SpriteEdit:
    noun = world.noun(single.sprite.key)
    # Another thing that this world may show on this ground.
    while True:
        sprite = world.sample_sprite(rng)
        after = single.scene.with_thing(0, sprite=sprite.key)
        if world.noun(sprite.key) != noun and world.allows(after):
            break
    words = REPLACE.choose(rng, world.wordings).format(world.names(sprite).phrase)
    cell = ("replace", noun, world.noun(sprite.key))
    return SpriteEdit(single.picture(world), words, world.scene_image(after), cell)


def _recolour(rng: random.Random, world: World) -> SpriteEdit:
    """Gives a thing another colour; in a testing world, one that is held out."""
    nouns = coloured_nouns(world)
    cells = [(noun, c) for noun in nouns for c in HUES if colour_held_out(noun, c) == world.testing]
    if not cells:
        return _of_any(rng, world)
    noun, colour = rng.choice(cells)
    laid_on = [c for c in HUES if c != colour and not colour_held_out(noun, c)]
    own = rng.choice(laid_on) if rng.random() < LAID_ON_CHANCE else ""
    if not own and OWN_COLOURS.get(noun) == colour:
        own = rng.choice(laid_on)
    things = as_things(world, [(noun, own)])
    while True:
        before = arrange(rng, things, open_ground(rng))
        if before.backdrop not in (colour, own) and not world.holds_out(before):
            break
    words = RECOLOUR.choose(rng, world.wordings).format(colour)
    after = world.scene_image(before.with_thing(0, colour=colour))
    return SpriteEdit(world.scene_image(before), words, after, ("recolour", noun, colour))


Maker = Callable[[random.Random, World], SpriteEdit]

# Kinds of edits, with their weights.
KINDS: Mapping[str, tuple[Maker, float]] = {
    "any": (_of_any, 0.85),
    "recolour": (_recolour, 0.15),
}
