"""Questions about one sprite: its name, group, kind and colour, and yes-or-no questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from orthus_core.data.document import Segment, turn
from orthus_core.data.pictures import Picture
from orthus_core.world.arrange import arrange
from orthus_core.world.backdrops import is_place
from orthus_core.world.categories import GROUP_WORDS, KIND_OF_SUBGROUP
from orthus_core.world.english import with_article
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import Thing
from orthus_core.world.scenes import as_things, coloured_nouns
from orthus_core.world.single_sprites import Single, open_ground, sample_single
from orthus_core.world.sprites import Sprite
from orthus_core.world.wording import place_phrase
from orthus_core.world.wordings import Phrases
from orthus_core.world.world import World

WHAT_IS_IT = Phrases(
    (
        "What is this?",
        "Describe the picture.",
        "What do you see?",
        "What is it?",
        "What's this?",
        "Name it.",
        "What can be seen?",
        "Say what it is.",
    ),
    ("Tell me what this is.", "What is shown here?"),
)
WHICH_GROUP = Phrases(
    (
        "Which group is it from?",
        "Which group is this from?",
        "What group is it from?",
        "Name its group.",
        "Which group does it belong to?",
    ),
    ("From which group is this?",),
)
WHICH_KIND = Phrases(
    (
        "What kind of thing is it?",
        "What kind of thing is this?",
        "What sort of thing is it?",
        "Name its kind.",
    ),
    ("Which kind of thing is this?",),
)
WHICH_COLOUR = Phrases(
    (
        "What colour is it?",
        "What color is it?",
        "Which colour is it?",
        "What colour is this?",
        "Of what colour is it?",
        "Name its colour.",
        "Say the colour of it.",
    ),
    ("Which color does it have?", "Tell me its colour."),
)
WHICH_GROUND = Phrases(
    (
        "What colour is the background?",
        "What color is the background?",
        "Which colour is the background?",
        "Of what colour is the background?",
        "Name the colour of the background.",
        "The colour of the background?",
    ),
    ("Which color does the background have?", "Tell me the colour of the background."),
)
IS_IT = Phrases(
    (
        "Is this {}?",
        "Is it {}?",
        "Does this show {}?",
        "Do you see {}?",
        "Could this be {}?",
        "Would you call it {}?",
    ),
    ("Is {} what you see?", "Is that {}?"),
)

COLOURED_CHANCE = 0.25
# Answer for a sprite outside of the vocabulary.
UNKNOWN_THING = "something I do not know"
# Share of wrong guesses that are of the same subgroup as the sprite.
NEAR_MISS_CHANCE = 0.5


class PictureQuestion(NamedTuple):
    """A question about a picture.

    Attributes:
        picture: Picture that the question is about.
        question: Text of the question.
        answer: The one right answer.
        kind: Kind of question, a name of `KINDS` here or in `scene_questions`.
    """

    picture: Picture
    question: str
    answer: str
    kind: str

    def segments(self) -> tuple[Segment, ...]:
        """The question and its answer as a row."""
        return turn("user", self.picture, self.question) + turn("model", self.answer)


def question(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A picture of one sprite and questions about it, each followed by its one right answer.

    A name, a group, a kind or a guess is followed by up to eight draws of more of them.
    """
    first = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if first not in _OF_SINGLE:
        return ask_single(rng, world, first).segments()
    single = sample_single(rng, world, COLOURED_CHANCE)
    asked = _OF_SINGLE[first](rng, world, single)
    segments, known = asked.segments(), {first, asked.question}
    for kind in rng.choices(list(FURTHER), list(FURTHER.values()), k=rng.randint(*FURTHER_DRAWS)):
        asked = _OF_SINGLE[kind](rng, world, single)
        # A group or a kind once: it could be answered again without the picture. A guess may come
        # again in other words, or a right one could come only once.
        if asked.question not in known and (kind == "yes_or_no" or kind not in known):
            known |= {kind, asked.question}
            segments += turn("user", asked.question) + turn("model", asked.answer)
    return segments


def ask_single(rng: random.Random, world: World, kind: str | None = None) -> PictureQuestion:
    """Samples a question about one sprite.

    In a testing world, the ground or the colour in the picture is held out, or the sprite is one
    that no training asks about.

    Args:
        rng: Random numbers.
        world: World of the sprite.
        kind: Kind of question, a name of `KINDS`; sampled by weight when None.
    """
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind in _OF_SINGLE:
        return _OF_SINGLE[kind](rng, world, sample_single(rng, world, COLOURED_CHANCE))
    return _ASKERS[kind](rng, world)


def caption(world: World, sprite: Sprite, ground: str = "white") -> str:
    """The one right description: "an apple", "an apple on a blue background"."""
    return f"{with_article(world.noun(sprite.key))} {place_phrase(ground)}".strip()


def _name(rng: random.Random, world: World, single: Single) -> PictureQuestion:
    answer = caption(world, single.sprite, single.ground)
    return PictureQuestion(
        single.picture(world), WHAT_IS_IT.choose(rng, world.wordings), answer, "name"
    )


def _unseen(rng: random.Random, world: World) -> PictureQuestion:
    """Asks what a sprite outside of the vocabulary is, on any ground."""
    scene = arrange(rng, [Thing(rng.choice(world.unseen).key)], open_ground(rng))
    return PictureQuestion(
        world.scene_image(scene), WHAT_IS_IT.choose(rng, world.wordings), UNKNOWN_THING, "unseen"
    )


def _group(rng: random.Random, world: World, single: Single) -> PictureQuestion:
    words, answer = WHICH_GROUP.choose(rng, world.wordings), GROUP_WORDS[single.sprite.group]
    return PictureQuestion(single.picture(world), words, answer, "group")


def _kind(rng: random.Random, world: World, single: Single) -> PictureQuestion:
    words = WHICH_KIND.choose(rng, world.wordings)
    answer = KIND_OF_SUBGROUP[single.sprite.subgroup]
    return PictureQuestion(single.picture(world), words, answer, "kind")


def _colour(rng: random.Random, world: World) -> PictureQuestion:
    nouns = coloured_nouns(world)
    while True:
        noun, colour, ground = rng.choice(nouns), rng.choice(list(HUES)), open_ground(rng)
        scene = arrange(rng, as_things(world, [(noun, colour)]), ground)
        if ground != colour and world.allows(scene):
            return PictureQuestion(
                world.scene_image(scene), WHICH_COLOUR.choose(rng, world.wordings), colour, "colour"
            )


def _guess(rng: random.Random, world: World, single: Single) -> PictureQuestion:
    is_true = rng.random() < 0.5
    guess = single.sprite if is_true else _wrong_guess(rng, world, single.sprite)
    words = IS_IT.choose(rng, world.wordings).format(caption(world, guess))
    return PictureQuestion(single.picture(world), words, "yes" if is_true else "no", "yes_or_no")


def _background(rng: random.Random, world: World) -> PictureQuestion:
    single = sample_single(rng, world, COLOURED_CHANCE)
    while is_place(single.ground):
        single = sample_single(rng, world, COLOURED_CHANCE)
    return PictureQuestion(
        single.picture(world), WHICH_GROUND.choose(rng, world.wordings), single.ground, "background"
    )


# Kinds of questions, with their weights.
KINDS: Mapping[str, float] = {
    "name": 0.42,
    "group": 0.08,
    "kind": 0.1,
    "colour": 0.05,
    "yes_or_no": 0.22,
    "background": 0.06,
    "unseen": 0.07,
}
# Questions about any picture of one sprite.
_OF_SINGLE: Mapping[str, Callable[[random.Random, World, Single], PictureQuestion]] = {
    "name": _name,
    "group": _group,
    "kind": _kind,
    "yes_or_no": _guess,
}
# Questions that need a picture of their own.
_ASKERS: Mapping[str, Callable[[random.Random, World], PictureQuestion]] = {
    "colour": _colour,
    "background": _background,
    "unseen": _unseen,
}
# Further questions of a row, with their weights, and how many are drawn.
FURTHER: Mapping[str, float] = {"yes_or_no": 0.6, "kind": 0.24, "group": 0.16}
FURTHER_DRAWS = (0, 8)


def _wrong_guess(rng: random.Random, world: World, sprite: Sprite) -> Sprite:
    near = world.others_of_kind(sprite)
    if near and rng.random() < NEAR_MISS_CHANCE:
        return rng.choice(near)
    while world.noun((guess := world.sample_sprite(rng)).key) == world.noun(sprite.key):
        pass
    return guess
