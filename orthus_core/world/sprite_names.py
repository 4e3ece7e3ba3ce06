"""Names of sprites: one plain name, other common names, and hints, which are vaguer.

A name means one sprite only, so a caption identifies its picture. "cat" is the sprite with this
label; "black cat" and "cat face" keep their own, longer names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from orthus_core.world.english import join_list, with_article
from orthus_core.world.everyday_names import EVERYDAY_NAMES, PLAIN_NAMES
from orthus_core.world.sprites import Sprite

# A hint of one or two letters ("c", "j") is too vague.
SHORTEST_HINT = 3

_COUPLE = {
    "family": "family of {}",
    "kiss": "kiss between {}",
    "couple with heart": "couple of {} in love",
}


@dataclass(frozen=True)
class Names:
    """The names of one sprite, all without an article.

    Attributes:
        name: Plain name: "red apple", "farmer with dark skin".
        others: Other names that mean this sprite only: "apple".
        hints: Single words that belong to no other sprite: "buoy".
    """

    name: str
    others: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All names, the plain one first."""
        return (self.name, *self.others)

    @property
    def phrase(self) -> str:
        """The plain name with its article: "a red apple"."""
        return with_article(self.name)


def name_sprites(sprites: Iterable[Sprite]) -> dict[str, Names]:
    """Names by sprite key. A sprite whose plain name belongs to another sprite is left out."""
    sprites = list(sprites)
    owner: dict[str, str] = {}

    # 1. Every sprite's own label comes before any other name.
    for sprite in sprites:
        owner.setdefault(plain_name(sprite).lower(), sprite.key)
    plain = {s.key: plain_name(s) for s in sprites if owner[plain_name(s).lower()] == s.key}

    # 2. Everyday names are added where no other sprite has them.
    others: dict[str, list[str]] = {key: [] for key in plain}
    for sprite in sprites:
        if sprite.key in plain and not sprite.skin:
            for name in EVERYDAY_NAMES.get(sprite.label, ()):
                if owner.setdefault(name.lower(), sprite.key) == sprite.key:
                    others[sprite.key].append(name)

    # 3. A sprite with a skin tone shares the everyday names of its base.
    for sprite in sprites:
        if sprite.key in plain and sprite.skin:
            others[sprite.key] += [f"{sprite.skin}-skinned {plain[sprite.base]}"]
            others[sprite.key] += [
                f"{name} with {sprite.skin} skin" for name in others[sprite.base]
            ]

    # 4. Hints are the tags that only one sprite has.
    holders = Counter(tag for s in sprites if _is_plain(s) for tag in set(s.tags))
    hints = {
        s.key: tuple(t for t in s.tags if holders[t] == 1 and _is_hint(t) and t not in owner)
        for s in sprites
        if _is_plain(s)
    }
    return {key: Names(name, tuple(others[key]), hints.get(key, ())) for key, name in plain.items()}


def plain_name(sprite: Sprite) -> str:
    """The label as a noun phrase: "person: blond hair" becomes "person with blond hair"."""
    label = PLAIN_NAMES.get(sprite.label, sprite.label)
    label = re.sub(r"[“”]| \(.*\)$", "", label).replace("’", "'")
    subject, colon, rest = label.partition(": ")
    if label.endswith(("o'clock", "-thirty")):
        name = f"clock at {label}"
    elif not colon:
        name = label
    elif subject in _COUPLE:
        people = [with_article(person) for person in rest.split(", ")]
        name = _COUPLE[subject].format(join_list(people))
    elif subject == "keycap":
        name = f"keycap {rest}"
    elif rest == "bald":
        name = f"bald {subject}"
    elif rest == "beard":
        name = f"{subject} with a beard"
    else:
        name = f"{subject} with {rest}"
    return f"{name} with {sprite.skin} skin" if sprite.skin else name


def _is_plain(sprite: Sprite) -> bool:
    return not sprite.skin and not sprite.gender


def _is_hint(tag: str) -> bool:
    return len(tag) >= SHORTEST_HINT and tag.isascii() and tag.isalpha()
