"""Held-out combinations, which training never shows, so that tests measure generalisation.

Whether something is held out depends on its words alone. It does not change with a seed, with other
sprites, or with a new version. Single sprites are a vocabulary that a model may memorise; the tests
ask for new combinations of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import combinations

from orthus_core.world.backdrops import is_place
from orthus_core.world.scene import Scene, Thing

HELD_OUT = 0.05
# Share of the sprites outside of the vocabulary that no training asks about.
UNSEEN = 0.3

# Pairs of noun and colour that people try first, which are always held out.
COLOUR_CELLS = frozenset(
    {
        ("apple", "green"),
        ("apple", "blue"),
        ("book", "blue"),
        ("car", "purple"),
        ("circle", "green"),
        ("heart", "orange"),
        ("heart", "yellow"),
        ("star", "purple"),
    }
)


def stable_share(*words: str) -> float:
    """A number in [0, 1) that depends on the words alone, the same in every run and version."""
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def pair_held_out(noun: str, other: str) -> bool:
    """Whether two different things never appear together in a training picture."""
    return noun != other and stable_share("pair", *sorted((noun, other))) < HELD_OUT


def count_held_out(noun: str, count: int) -> bool:
    """Whether training never shows a thing this many times; a count of one never is held out."""
    return count > 1 and stable_share("count", noun, str(count)) < HELD_OUT


def colour_held_out(noun: str, colour: str) -> bool:
    """Whether a thing never has this colour in training; "" (its own colour) never is held out."""
    if not colour:
        return False
    return (noun, colour) in COLOUR_CELLS or stable_share("colour", noun, colour) < HELD_OUT


def place_held_out(noun: str, place: str) -> bool:
    """Whether training never shows a thing alone at this place."""
    return is_place(place) and stable_share("place", noun, place) < HELD_OUT


def edit_held_out(kind: str, noun: str, to: str) -> bool:
    """Whether training never shows an edit of this kind, of this noun, with this result."""
    return stable_share("edit", kind, noun, to) < HELD_OUT


def story_held_out(actor: str, event: str) -> bool:
    """Whether no training story contains this event with this actor."""
    return stable_share("story", actor, event) < HELD_OUT


def sprite_held_out(sprite: str) -> bool:
    """Whether no training shows a sprite outside of the vocabulary (by its key) in a question."""
    return stable_share("unseen", sprite) < UNSEEN


def scene_held_out(scene: Scene, nouns: Iterable[str]) -> bool:
    """Whether anything in a scene is held out: a pair, a count, a colour, or one thing's place.

    Args:
        scene: Scene to check.
        nouns: Noun of each thing, in the scene's order.
    """
    named: list[tuple[str, Thing]] = list(zip(nouns, scene.things, strict=True))
    counts: dict[str, int] = {}
    for noun, _ in named:
        counts[noun] = counts.get(noun, 0) + 1
    return (
        any(pair_held_out(a, b) for a, b in combinations(counts, 2))
        or any(count_held_out(noun, count) for noun, count in counts.items())
        or any(colour_held_out(noun, thing.colour) for noun, thing in named)
        or len(named) == 1
        and place_held_out(named[0][0], scene.backdrop)
    )
