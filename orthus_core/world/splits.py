"""What training never sees, so that a test of it is one of understanding rather than of memory.

Whether something is held out depends on its own words alone: it never changes with a seed, with
other sprites, or from one version to the next. Single sprites are a vocabulary to be learnt by
heart; what is tested is how they are combined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import combinations

from orthus_core.world.scene import Scene, Thing

HELD_OUT = 0.05
# Of whole sprites: they are shown to be told apart by group and colour, and never named or drawn.
UNSEEN = 0.03

# Cells that people try first, held out whatever their share says.
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
    """Whether two different things never stand in one training picture."""
    return noun != other and stable_share("pair", *sorted((noun, other))) < HELD_OUT


def count_held_out(noun: str, count: int) -> bool:
    """Whether a thing is never shown so many times in training; one is always shown."""
    return count > 1 and stable_share("count", noun, str(count)) < HELD_OUT


def colour_held_out(noun: str, colour: str) -> bool:
    """Whether a thing never has this colour in training; "", its own, it always has."""
    if not colour:
        return False
    return (noun, colour) in COLOUR_CELLS or stable_share("colour", noun, colour) < HELD_OUT


def style_held_out(sprite: str, style: str) -> bool:
    """Whether a sprite (its key) is never drawn in this style in training; in 3d it always is."""
    return style != "3d" and stable_share("style", sprite, style) < HELD_OUT


def edit_held_out(kind: str, noun: str, to: str) -> bool:
    """Whether this edit of this thing is never made in training."""
    return stable_share("edit", kind, noun, to) < HELD_OUT


def story_held_out(actor: str, event: str) -> bool:
    """Whether no training story tells of this actor in this event."""
    return stable_share("story", actor, event) < HELD_OUT


def sprite_held_out(sprite: str) -> bool:
    """Whether a sprite (its key) is for understanding only: never named, never asked for."""
    return stable_share("unseen", sprite) < UNSEEN


def scene_held_out(scene: Scene, nouns: Iterable[str]) -> bool:
    """Whether anything about a scene is held out: a pair, a count, a colour or a style.

    Args:
        nouns: What each thing is called, in the scene's order.
    """
    named: list[tuple[str, Thing]] = list(zip(nouns, scene.things, strict=True))
    counts: dict[str, int] = {}
    for noun, _ in named:
        counts[noun] = counts.get(noun, 0) + 1
    return (
        any(pair_held_out(a, b) for a, b in combinations(counts, 2))
        or any(count_held_out(noun, count) for noun, count in counts.items())
        or any(colour_held_out(noun, thing.colour) for noun, thing in named)
        or any(style_held_out(thing.sprite, thing.style) for _, thing in named)
    )
