"""Edits of scenes: one aspect of a scene changes, and all other pixels stay the same.

Each instruction has one right answer: a thing that is added takes the place from `place_for`, one
that is moved goes to the edge of the picture, and two that are swapped stand where the other stood.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from orthus_core.data.document import Segment, turn
from orthus_core.errors import DataError
from orthus_core.world.arrange import MOST_THINGS, Square, arrange, free_places
from orthus_core.world.backdrops import (
    COLOURS,
    GRADIENTS,
    GROUND_WORDS,
    PLACES,
    SKY_WORDS,
    has_floor,
    is_outdoors,
    is_place,
    place_of,
)
from orthus_core.world.cast import COLOURED
from orthus_core.world.english import is_plural, the, with_article
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import STEP, UNITS, Scene, Thing
from orthus_core.world.scenes import MOST_TRIES, as_things, coloured_nouns
from orthus_core.world.splits import edit_held_out
from orthus_core.world.wording import describe_in_places, place_phrase, with_colour
from orthus_core.world.wordings import Phrases, Wordings, place_words
from orthus_core.world.world import World

ADD = Phrases(
    (
        "add {}",
        "add {} to the picture",
        "add {} too",
        "draw {} as well",
        "please add {}",
        "put {} in",
        "insert {}",
        "place {} in the picture",
        "there should be {} too",
    ),
    ("include {} in the picture", "i want to add {}"),
)
REMOVE = Phrases(
    (
        "remove {}",
        "delete {}",
        "take {} away",
        "erase {}",
        "remove {} from the picture",
        "take {} out",
        "drop {}",
        "make {} disappear",
    ),
    ("take away {}", "delete {} from the picture", "get rid of {}"),
)
REPLACE = Phrases(
    (
        "replace {} with {}",
        "turn {} into {}",
        "change {} into {}",
        "replace {} by {}",
        "swap {} for {}",
        "let {} become {}",
        "substitute {} by {}",
    ),
    ("make {} into {}", "exchange {} for {}"),
)
MOVE = Phrases(
    ("move {} {}", "shift {} {}", "push {} {}", "slide {} {}", "bring {} {}", "send {} {}"),
    ("i want {} moved {}",),
)
SWAP = Phrases(
    (
        "swap {} and {}",
        "switch {} and {}",
        "swap {} with {}",
        "interchange {} and {}",
        "let {} and {} trade places",
    ),
    ("exchange {} and {}",),
)
RECOLOUR = Phrases(
    (
        "make {} {}",
        "change {} to {}",
        "paint {} {}",
        "colour {} {}",
        "color {} {}",
        "turn {} {}",
        "let {} be {}",
        "give {} the colour {}",
    ),
    ("change the colour of {} to {}", "i want {} to be {}"),
)
CLEAR_BACKGROUND = Phrases(
    (
        "remove the background",
        "make the background white",
        "delete the background",
        "white background",
    ),
    ("take the background away", "erase the background"),
)
SET_BACKGROUND = Phrases(
    (
        "make the background {}",
        "change the background to {}",
        "set the background to {}",
        "let the background be {}",
        "the background should be {}",
    ),
    ("turn the background into {}", "i want the background to be {}"),
)
SET_SKY = Phrases(
    ("make it {}", "change it to {}", "turn it into {}", "it should be {}", "let it become {}"),
    ("let it be {}", "i want it to be {}"),
)
SKY_NOUNS = {"day": "day", "sunset": "sunset", "night": "night", "rain": "rain"}
DIRECTIONS = {
    "left": Phrases(("to the left", "left", "leftwards", "further left"), ("over to the left",)),
    "right": Phrases(
        ("to the right", "right", "rightwards", "further right"), ("over to the right",)
    ),
    "up": Phrases(("up", "to the top", "upwards", "further up"), ("up to the top",)),
    "down": Phrases(
        ("down", "to the bottom", "downwards", "further down"), ("down to the bottom",)
    ),
}

# Things whose own colour is one of `HUES`: "make the star yellow" would change nothing.
OWN_COLOURS: Mapping[str, str] = {
    "apple": "red",
    "car": "red",
    "square": "red",
    "cap": "blue",
    "balloon": "red",
    "book": "red",
    "circle": "red",
    "crab": "red",
    "dress": "blue",
    "fish": "blue",
    "heart": "red",
    "key": "yellow",
    "mushroom": "red",
    "octopus": "pink",
    "star": "yellow",
    "tulip": "pink",
    "umbrella": "purple",
}

# Backdrops by kind.
BACKDROP_WEIGHTS: Mapping[str, float] = {
    "white": 0.3,
    "place": 0.45,
    "colour": 0.15,
    "gradient": 0.1,
}
# Least distance that a thing is moved.
LEAST_MOVE = 2 * STEP
# Share of outdoor background edits that change the sky alone.
SKY_CHANCE = 0.3
CLEAR_CHANCE = 0.15
COLOUR_CHANCE = 0.3
SWAP_CHANCE = 0.5
# Share of background edits that say where to put the things.
PUT_CHANCE = 0.4
# Wordings of a place that are tried, as some name only a part of it.
MOST_WORDINGS = 50


class SceneEdit(NamedTuple):
    """A scene, an instruction, and the one scene that results.

    Attributes:
        before: Scene to edit.
        instruction: Text of the instruction.
        after: Resulting scene; it differs only in what the instruction names.
        kind: Kind of edit, a name of `KINDS`.
        noun: Noun of the changed thing; that of the first thing if the background changes.
        to: Noun, colour, direction or backdrop that results; "" if the instruction names none.
    """

    before: Scene
    instruction: str
    after: Scene
    kind: str
    noun: str
    to: str = ""

    @property
    def cell(self) -> tuple[str, str, str]:
        """The combination that can be held out: kind, noun and result."""
        return self.kind, self.noun, self.to


def scene_edit(rng: random.Random, world: World) -> tuple[Segment, ...]:
    """A scene and an instruction; then a description of the edited scene, and the edited scene.

    The description comes first, because a small model can change positions more easily in words
    than in a picture, and can draw a picture more easily from words.
    """
    edit = make_edit(rng, world)
    description = describe_in_places(edit.after, world.nouns(edit.after))
    before, after = world.scene_image(edit.before), world.scene_image(edit.after)
    return turn("user", before, edit.instruction) + turn("model", description, after)


def make_edit(rng: random.Random, world: World, kind: str | None = None) -> SceneEdit:
    """Samples an edit that this world may show.

    The scene before the edit is never held out. In a training world, neither the edit nor the
    resulting scene is held out; in a testing world, at least one of them is.

    Args:
        rng: Random numbers.
        world: World of the scenes.
        kind: Kind of edit, a name of `KINDS`; sampled by weight when None.

    Raises:
        DataError: if the pack contains too few sprites of the cast.
    """
    kind = kind or rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    maker, _ = KINDS[kind]
    for _ in range(MOST_TRIES if len(world.cast) > MOST_THINGS else 0):
        edit = maker(rng, world)
        if edit and _fits(world, edit):
            return edit
    raise DataError(
        f"the sprite pack has too few sprites for scene edits (kind {kind!r})",
        where=str(world.pack.path),
        hint="leave the task 'scene_edit' out, or use the bundled pack",
    )


def place_for(scene: Scene) -> Square | None:
    """The place of an added thing: it stands as high as the first thing if there is room, and is
    close to it; None if there is no room.
    """
    first = scene.things[0]

    def fitness(place: Square) -> tuple[bool, int, float, int]:
        lower = abs(place.y + place.side - first.y - first.side)
        apart = abs(place.x + place.side / 2 - first.centre[0])
        return lower > 0, lower, apart, -place.x

    return min(free_places(scene), key=fitness, default=None)


def _fits(world: World, edit: SceneEdit) -> bool:
    """Whether the edit changes something, all things are visible, and this world may show it."""
    scenes = edit.before, edit.after
    if edit.before == edit.after or any(t.colour == s.backdrop for s in scenes for t in s.things):
        return False
    if not all(world.stands_out(scene) for scene in scenes):
        return False
    if world.holds_out(edit.before):
        return False
    held_out = edit_held_out(*edit.cell) or world.holds_out(edit.after)
    return held_out == world.testing


def _add(rng: random.Random, world: World) -> SceneEdit | None:
    # One thing is taken away again, so there is room for it.
    nouns, whole = _scene(rng, world, rng.choice((2, 2, 3, 4)))
    new, before = whole.things[-1], whole.without(len(whole.things) - 1)
    place = place_for(before)
    if place is None:
        return None
    new = replace(new, **place._asdict())
    words = ADD.choose(rng, world.wordings).format(with_article(with_colour(nouns[-1], new.colour)))
    return SceneEdit(before, words, before.plus(new), "add", nouns[-1], new.colour)


def _remove(rng: random.Random, world: World) -> SceneEdit:
    nouns, before = _scene(rng, world, rng.choice((2, 2, 3)))
    which = rng.randrange(len(nouns))
    words = REMOVE.choose(rng, world.wordings).format(the(nouns[which]))
    return SceneEdit(before, words, before.without(which), "remove", nouns[which])


def _replace(rng: random.Random, world: World) -> SceneEdit:
    count = rng.choice((1, 2, 2, 3))
    nouns, things = _things(rng, world, count + 1)
    before = arrange(rng, things[:count], _backdrop(rng))
    which, other = rng.randrange(count), nouns[count]
    new = things[count]
    after = before.with_thing(which, sprite=new.sprite, colour=new.colour)
    phrase = with_article(with_colour(other, new.colour))
    words = REPLACE.choose(rng, world.wordings).format(the(nouns[which]), phrase)
    return SceneEdit(before, words, after, "replace", nouns[which], other)


def _move(rng: random.Random, world: World) -> SceneEdit | None:
    if rng.random() < SWAP_CHANCE:
        return _swap(rng, world)
    nouns, before = _scene(rng, world, rng.choice((1, 1, 2, 2, 3)))
    which = rng.randrange(len(nouns))
    thing, rest = before.things[which], before.without(which)
    far = UNITS - thing.side
    # Nothing is moved off its floor.
    ways = {"left": {"x": 0}, "right": {"x": far}}
    if not has_floor(before.backdrop):
        ways |= {"up": {"y": 0}, "down": {"y": far}}
    way = rng.choice(list(ways))
    moved = replace(thing, **ways[way])
    # A thing that hardly moves, or lands on another, is no example.
    off = abs(moved.x - thing.x) + abs(moved.y - thing.y)
    if off < LEAST_MOVE or any(moved.overlaps(other) for other in rest.things):
        return None
    said = DIRECTIONS[way].choose(rng, world.wordings)
    words = MOVE.choose(rng, world.wordings).format(the(nouns[which]), said)
    return SceneEdit(
        before, words, before.with_thing(which, **ways[way]), "move", nouns[which], way
    )


def _swap(rng: random.Random, world: World) -> SceneEdit:
    nouns, before = _scene(rng, world, rng.choice((2, 2, 3)))
    i, j = rng.sample(range(len(nouns)), 2)
    # Several things have the same side, so each fits where the other stood.
    one, other = before.things[i], before.things[j]
    after = before.with_thing(i, x=other.x, y=other.y).with_thing(j, x=one.x, y=one.y)
    words = SWAP.choose(rng, world.wordings).format(the(nouns[i]), the(nouns[j]))
    first, second = sorted((nouns[i], nouns[j]))
    return SceneEdit(before, words, after, "move", first, second)


def _recolour(rng: random.Random, world: World) -> SceneEdit | None:
    paintable = coloured_nouns(world)
    if not paintable:
        return None
    others, things = _things(rng, world, rng.choice((0, 1, 1, 2)))
    noun = rng.choice([noun for noun in paintable if noun not in others] or paintable)
    colour = rng.choice([*HUES])
    own = rng.choice([*HUES]) if rng.random() < COLOUR_CHANCE else ""
    if colour == (own or OWN_COLOURS.get(noun)):
        return None
    painted = as_things(world, [(noun, own)])
    before = arrange(rng, [*painted, *things], _backdrop(rng))
    words = RECOLOUR.choose(rng, world.wordings).format(the(noun), colour)
    return SceneEdit(before, words, before.with_thing(0, colour=colour), "recolour", noun, colour)


def _background(rng: random.Random, world: World) -> SceneEdit:
    nouns, things = _things(rng, world, rng.choice((1, 1, 2, 3)))
    shown = _backdrop(rng)
    put = f"put {'them' if len(nouns) > 1 or is_plural(nouns[0]) else 'it'}"
    if is_outdoors(shown) and rng.random() < SKY_CHANCE:
        ground, _ = place_of(shown)
        sky = rng.choice(list(SKY_WORDS))
        backdrop = f"{ground} {sky}"
        words = SET_SKY.choose(rng, world.wordings).format(SKY_NOUNS[sky])
    elif shown != "white" and rng.random() < CLEAR_CHANCE:
        backdrop, words = "white", CLEAR_BACKGROUND.choose(rng, world.wordings)
    else:
        backdrop = rng.choice(PLACES if rng.random() < 0.5 else list(COLOURS))
        if rng.random() < PUT_CHANCE:
            words = f"{put} {_new_place(rng, backdrop, world.wordings)}"
        else:
            words = SET_BACKGROUND.choose(rng, world.wordings).format(_backdrop_noun(backdrop))
    # Things stay where they are, so they stand already if the new backdrop has a floor.
    before = replace(
        arrange(rng, things, backdrop if has_floor(backdrop) else shown), backdrop=shown
    )
    after = replace(before, backdrop=backdrop)
    return SceneEdit(before, words, after, "background", nouns[0], backdrop)


def _new_place(rng: random.Random, backdrop: str, wordings: Wordings) -> str:
    """A backdrop in random words that name all of it."""
    for _ in range(MOST_WORDINGS):
        words, asked = place_words(rng, backdrop, wordings)
        if not words.startswith(",") and set(asked) >= set(backdrop.split()) - {"day"}:
            return words
    return place_phrase(backdrop)


def _backdrop_noun(backdrop: str) -> str:
    """A backdrop as a noun: "blue", "a beach at night"."""
    if not is_place(backdrop):
        return backdrop
    ground, sky = place_of(backdrop)
    _, place = GROUND_WORDS[ground].split(maxsplit=1)
    return f"{place} {SKY_WORDS[sky]}" if sky else place


def _scene(rng: random.Random, world: World, count: int) -> tuple[list[str], Scene]:
    nouns, things = _things(rng, world, count)
    return nouns, arrange(rng, things, _backdrop(rng))


def _things(rng: random.Random, world: World, count: int) -> tuple[list[str], list[Thing]]:
    """`count` different things without positions, and their nouns."""
    nouns = rng.sample(list(world.cast), count)
    looks = []
    for noun in nouns:
        painted = noun in COLOURED and rng.random() < COLOUR_CHANCE
        looks.append((noun, rng.choice([*HUES]) if painted else ""))
    return nouns, as_things(world, looks)


def _backdrop(rng: random.Random) -> str:
    kind = rng.choices(list(BACKDROP_WEIGHTS), list(BACKDROP_WEIGHTS.values()))[0]
    of_kind = {
        "white": ("white",),
        "place": PLACES,
        "colour": tuple(COLOURS),
        "gradient": tuple(GRADIENTS),
    }
    return rng.choice(of_kind[kind])


Maker = Callable[[random.Random, World], "SceneEdit | None"]

# Kinds of edits, with their weights.
KINDS: Mapping[str, tuple[Maker, float]] = {
    "add": (_add, 0.2),
    "remove": (_remove, 0.2),
    "replace": (_replace, 0.2),
    "move": (_move, 0.12),
    "recolour": (_recolour, 0.13),
    "background": (_background, 0.15),
}
