"""Names of sprites: one plain name, and other common names.

A name means one thing only, so a caption identifies what its picture shows. Several sprites may
show the same thing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orthus_core.world.english import with_article
from orthus_core.world.sprites import Sprite
from orthus_core.world.vocabulary import vocabulary


@dataclass(frozen=True)
class Names:
    """The names of one thing, all without an article.

    Attributes:
        name: Plain name: "fir tree".
        others: Other names that mean this thing only: "pine tree".
    """

    name: str
    others: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All names, the plain one first."""
        return (self.name, *self.others)

    @property
    def phrase(self) -> str:
        """The plain name with its article: "a fir tree"."""
        return with_article(self.name)


@dataclass(frozen=True)
class NamedThing:
    """A thing of the vocabulary with its sprites in a pack.

    Attributes:
        names: Its names.
        sprites: Its sprites, at least one; the first one is drawn.
        mirrors: Whether the sprites look right in a mirror.
    """

    names: Names
    sprites: tuple[Sprite, ...]
    mirrors: bool


def name_sprites(sprites: Iterable[Sprite]) -> dict[str, NamedThing]:
    """The things of the vocabulary that a pack has sprites of, by plain name, in its order."""
    by_label: dict[str, Sprite] = {}
    for sprite in sprites:
        if not sprite.skin:
            by_label.setdefault(sprite.label, sprite)
    return {
        entry.name: NamedThing(Names(entry.name, entry.others), found, entry.mirrors)
        for entry in vocabulary()
        if (found := tuple(by_label[label] for label in entry.labels if label in by_label))
    }
