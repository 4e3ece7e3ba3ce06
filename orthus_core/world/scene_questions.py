"""Questions about a scene: description, count, colour, position, place and presence of things.

Questions about presence follow POPE (2305.10355): half of the things are present. Absent things are
sampled at random, from the most popular things, or from the companions of a thing that is present.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from orthus_core.data.document import Segment, turn
from orthus_core.world.arrange import relation_between, words_for_place
from orthus_core.world.backdrops import is_outdoors
from orthus_core.world.co_occurrence import POPULAR, companions
from orthus_core.world.english import is_plural, the, with_article
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.scenes import CATEGORIES, SceneSample, sample_scene
from orthus_core.world.sprite_questions import PictureQuestion
from orthus_core.world.wording import NUMBERS, describe, place_phrase, plural, with_colour
from orthus_core.world.wordings import Phrases, place_beside
from orthus_core.world.world import World

DESCRIBE = Phrases(
    (
        "Describe the picture.",
        "What is in the picture?",
        "What does the picture show?",
        "What is there?",
        "What can be seen?",
        "Which things are there?",
        "Say what the picture shows.",
    ),
    ("What can you see in the picture?", "Tell me what the picture shows."),
)
HOW_MANY = Phrases(
    (
        "How many {} are there?",
        "How many {} are in the picture?",
        "How many {} do you see?",
        "How many {} can be seen?",
        "How many {}?",
        "What is the number of {}?",
    ),
    ("Count the {}.", "How many {} does the picture show?"),
)
WHICH_COLOUR = Phrases(
    (
        "What colour is {}?",
        "What color is {}?",
        "Which colour is {}?",
        "Of what colour is {}?",
        "The colour of {}?",
        "Say the colour of {}.",
    ),
    ("Which color does {} have?", "Tell me the colour of {}."),
)
WHERE_IS_THIS = Phrases(
    (
        "Where is this?",
        "Which place is this?",
        "What place is this?",
        "Say which place this is.",
        "What place can be seen?",
    ),
    ("Which place do you see?", "Where are we?"),
)
# {is} fits the noun.
WHERE = Phrases(
    (
        "Where {is} {the}?",
        "Where do you see {the}?",
        "Where can {the} be seen?",
        "At which place {is} {the}?",
        "Say where {the} {is}.",
    ),
    ("Where in the picture {is} {the}?", "Tell me where {the} {is}."),
)
# {is} fits the noun.
CORNER = Phrases(
    (
        "Which corner {is} {the} in?",
        "In which corner {is} {the}?",
        "What corner {is} {the} in?",
        "Say which corner {the} {is} in.",
    ),
    ("Tell me the corner of {the}.", "In what corner do you see {the}?"),
)
# {is} fits the noun.
SIDE = Phrases(
    (
        "Which side {is} {the} on?",
        "On which side {is} {the}?",
        "On which side do you see {the}?",
        "{Is} {the} left or right?",
        "Say which side {the} {is} on.",
    ),
    ("Tell me the side of {the}.", "{Is} {the} more to the left or to the right?"),
)
WHAT_IS = Phrases(
    (
        "What is {place}?",
        "What do you see {place}?",
        "Which thing is {place}?",
        "What can be seen {place}?",
        "Say what is {place}.",
    ),
    ("What can you see {place}?", "Tell me what is {place}."),
)
IS_THERE = Phrases(
    (
        "{Is} there {a}?",
        "{Is} there {a} in the picture?",
        "Do you see {a}?",
        "{Is} {a} there?",
        "{Is} {a} in the picture?",
        "Does it show {a}?",
        "Can {a} be seen?",
        "Do you find {a}?",
    ),
    ("Can you see {a}?", "Does the picture show {a}?"),
)


class SceneQuestion(NamedTuple):
    """A question about a scene.

    Attributes:
        words: Text of the question.
        answer: The one right answer.
        about: What is asked, whatever the wording.
    """

    words: str
    answer: str
    about: str


SPLITS = ("random", "popular", "adversarial")
# Draws of a further question of a row; those that ask what was asked already are left out.
FURTHER_DRAWS = (3, 15)


def scene_question(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A scene and about five questions about it, each followed by its one right answer.

    A yes or no says little for the price of reading a picture. With one question a row, the small
    model finds no thing by its name: 16,000 steps left presence at chance, 300 steps of these rows
    did not (area under the curve 0.50, then 0.85).
    """
    first, sample, about = _ask(rng, world)
    segments, asked = first.segments(), {about}
    kinds = [kind for kind in KINDS if kind != "description" and _has_answer(kind, world, sample)]
    weights = [KINDS[kind] for kind in kinds]
    for kind in rng.choices(kinds, weights, k=rng.randint(*FURTHER_DRAWS)):
        words, answer, about = _ASKERS[kind](rng, world, sample.scene)
        # The same in other words could be answered without the picture.
        if about not in asked:
            asked.add(about)
            segments += turn("user", words) + turn("model", answer)
    return segments


def ask_scene(rng: random.Random, world: World, kind: str | None = None) -> PictureQuestion:
    """Samples a question about a scene; in a testing world, something in the scene is held out.

    Args:
        rng: Random numbers.
        world: World of the scenes.
        kind: Kind of question, a name of `KINDS`; sampled by weight when None.
    """
    return _ask(rng, world, kind)[0]


def _ask(
    rng: random.Random, world: World, kind: str | None = None
) -> tuple[PictureQuestion, SceneSample, str]:
    """A question about a new scene, that scene, and what is asked about it."""
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    while True:
        sample = sample_scene(rng, world, _CATEGORIES[kind], outdoors=kind == "place")
        if _has_answer(kind, world, sample):
            break
    words, answer, about = _ASKERS[kind](rng, world, sample.scene)
    return PictureQuestion(world.scene_image(sample.scene), words, answer, kind), sample, about


def _has_answer(kind: str, world: World, sample: SceneSample) -> bool:
    """Whether a question of this kind has one right answer for a scene."""
    if sample.category not in _CATEGORIES[kind]:
        return False
    if kind == "place":
        return is_outdoors(sample.scene.backdrop)
    if kind in ("corner", "side"):
        return bool(_alone_of_its_kind(world, sample.scene, kind))
    return kind != "count" or bool(_countable(world, sample.scene))


def pope_questions(
    rng: random.Random, world: World, scene: Scene, split: str, pairs: int = 1
) -> list[PictureQuestion]:
    """Questions about presence, alternately with the answers "yes" and "no".

    Args:
        rng: Random numbers.
        world: World of the scene.
        scene: Scene to ask about.
        split: How absent things are sampled, one of `SPLITS`.
        pairs: Number of questions for each answer; fewer if the scene has fewer different things.
    """
    present = list(dict.fromkeys(world.nouns(scene)))
    there = rng.sample(present, min(pairs, len(present)))
    absent = _absent(rng, world, present, split, len(there))
    picture, kind = world.scene_image(scene), f"pope_{split}"
    return [
        PictureQuestion(picture, _is_there(rng, world, noun), answer, kind)
        for pair in zip(there, absent, strict=True)
        for noun, answer in zip(pair, ("yes", "no"), strict=True)
    ]


def _absent(
    rng: random.Random, world: World, present: Sequence[str], split: str, count: int
) -> list[str]:
    """`count` different nouns of things that the picture does not show."""
    absent = [noun for noun in world.cast if noun not in present]
    if split == "popular":
        likely = [noun for noun in absent if noun in POPULAR]
    elif split == "adversarial":
        beside = {other for noun in present for other in companions(noun)}
        likely = [noun for noun in absent if noun in beside]
    else:
        likely = absent
    chosen = rng.sample(likely, min(count, len(likely)))
    # A small pack may lack a thing's companions.
    rest = [noun for noun in absent if noun not in chosen]
    return chosen + rng.sample(rest, count - len(chosen))


def _pope(split: str) -> Asker:
    def ask(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
        present = list(dict.fromkeys(world.nouns(scene)))
        noun = rng.choice(present)
        if rng.random() < 0.5:
            return SceneQuestion(_is_there(rng, world, noun), "yes", f"presence of {noun}")
        noun = _absent(rng, world, present, split, 1)[0]
        # As many absences as presences, at most.
        return SceneQuestion(
            _is_there(rng, world, noun), "no", f"absence {rng.randrange(len(present))}"
        )

    return ask


def _describe(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
    return SceneQuestion(
        DESCRIBE.choose(rng, world.wordings), describe(scene, world.nouns(scene)), "all"
    )


def _count(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
    noun = rng.choice(_countable(world, scene))
    words = HOW_MANY.choose(rng, world.wordings)
    number = NUMBERS[world.nouns(scene).count(noun)]
    return SceneQuestion(words.format(plural(noun)), number, f"number of {noun}")


def _countable(world: World, scene: Scene) -> list[str]:
    """The nouns whose things can be counted; a sprite of grapes has no definite number of them."""
    return [noun for noun in dict.fromkeys(world.nouns(scene)) if noun in world.countable]


def _colour(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
    thing = rng.choice(scene.things)
    noun = world.noun(thing.sprite)
    words = WHICH_COLOUR.choose(rng, world.wordings)
    return SceneQuestion(words.format(the(noun)), thing.colour, f"colour of {noun}")


def _where(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
    thing, other = rng.sample(scene.things, 2)
    noun = world.noun(thing.sprite)
    relation = relation_between(thing, other)
    answer = f"{relation} {the(world.noun(other.sprite))}"
    words = WHERE.choose(rng, world.wordings)
    words = words.format(the=the(noun), **{"is": _be(noun)})
    return SceneQuestion(words, answer, f"position of {noun}")


def _corner(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
    thing = rng.choice(_alone_of_its_kind(world, scene, "corner"))
    noun = world.noun(thing.sprite)
    words = CORNER.choose(rng, world.wordings).format(the=the(noun), **{"is": _be(noun)})
    return SceneQuestion(words, " ".join(words_for_place(thing)), f"corner of {noun}")


def _side(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
    thing = rng.choice(_alone_of_its_kind(world, scene, "side"))
    noun = world.noun(thing.sprite)
    be = _be(noun)
    words = SIDE.choose(rng, world.wordings).format(
        the=the(noun), **{"is": be, "Is": be.capitalize()}
    )
    _, column = words_for_place(thing)
    return SceneQuestion(words, column or "middle", f"side of {noun}")


def _alone_of_its_kind(world: World, scene: Scene, kind: str) -> list[Thing]:
    """The things, for "corner" those in one, that no other thing of the scene is called like."""
    nouns = world.nouns(scene)
    return [
        thing
        for thing, noun in zip(scene.things, nouns, strict=True)
        if nouns.count(noun) == 1 and (kind == "side" or all(words_for_place(thing)))
    ]


def _which(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
    thing, other = rng.sample(scene.things, 2)
    answer = with_article(with_colour(world.noun(thing.sprite), thing.colour))
    relation = relation_between(thing, other)
    said = place_beside(rng, relation, the(world.noun(other.sprite)), world.wordings)
    words = WHAT_IS.choose(rng, world.wordings).format(place=said)
    return SceneQuestion(words, answer, f"name of {answer}")


def _place(rng: random.Random, world: World, scene: Scene) -> SceneQuestion:
    words = WHERE_IS_THIS.choose(rng, world.wordings)
    return SceneQuestion(words, place_phrase(scene.backdrop), "place")


def _is_there(rng: random.Random, world: World, noun: str) -> str:
    words = IS_THERE.choose(rng, world.wordings)
    return words.format(a=with_article(noun), Is=_be(noun).capitalize())


def _be(noun: str) -> str:
    return "are" if is_plural(noun) else "is"


Asker = Callable[[random.Random, World, Scene], SceneQuestion]

# Kinds of questions, with their weights.
KINDS: Mapping[str, float] = {
    "description": 0.2,
    "count": 0.1,
    "colour": 0.12,
    "where": 0.12,
    "corner": 0.1,
    "side": 0.17,
    "which": 0.02,
    "place": 0.02,
    "pope_random": 0.05,
    "pope_popular": 0.05,
    "pope_adversarial": 0.05,
}
_ASKERS: Mapping[str, Asker] = {
    "description": _describe,
    "count": _count,
    "colour": _colour,
    "where": _where,
    "corner": _corner,
    "side": _side,
    "which": _which,
    "place": _place,
    **{f"pope_{split}": _pope(split) for split in SPLITS},
}
_EVERY = tuple(CATEGORIES)
_PAIRS = ("two_object", "position")
# Categories of scenes in which each kind of question has an answer.
_CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "description": _EVERY,
    "count": ("counting", "mixed", "two_object"),
    "colour": ("colors", "color_attr"),
    "where": _PAIRS,
    "corner": ("two_object", "position", "color_attr", "mixed"),
    # Of one thing, which nothing has to be found for, and of one of two.
    "side": ("single_object", "colors", *_PAIRS),
    "which": _PAIRS,
    "place": ("single_object", *_PAIRS),
    **{f"pope_{split}": _EVERY for split in SPLITS},
}
