"""The small world: which sprites there are, what they are called, on which grounds they stand.

Every sprite may stand on white, and on each colour but a few that are held out. Which are held out
depends on the sprite and the colour alone, so it never changes with a seed or with other sprites.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate

from orthus_core.data.pictures import SpriteImage
from orthus_core.data.sprites import WHITE, Colour, Sprite, SpritePack
from orthus_core.data.world.names import Names, name_sprites

COLOURS: dict[str, Colour] = {
    "red": (220, 60, 55),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 80),
    "green": (85, 180, 95),
    "blue": (70, 130, 230),
    "purple": (145, 90, 205),
    "pink": (250, 170, 200),
    "brown": (140, 95, 60),
    "grey": (150, 150, 150),
    "black": (25, 25, 25),
}
GROUNDS: dict[str, Colour] = {"white": WHITE, "night": (30, 35, 85)} | COLOURS

# A tone or a twin is the same thing again, and few ask for an arrow: they are shown less often.
TONED_WEIGHT = 0.25
GENDERED_WEIGHT = 0.5
SYMBOL_WEIGHT = 0.5


class World:
    """A pack's sprites as things to talk about.

    Args:
        pack: The pictures.
        held_out: Fraction of the pairs of sprite and coloured ground that training never sees.
        testing: Show only held-out grounds instead of only the others.

    Attributes:
        sprites: Those that have a name of their own.
    """

    def __init__(self, pack: SpritePack, *, held_out: float = 0.05, testing: bool = False) -> None:
        self.pack = pack
        self.held_out = held_out
        self.testing = testing
        self._names = name_sprites(pack)
        self.sprites = [sprite for sprite in pack if sprite.key in self._names]
        self._weights = list(accumulate(_weight(sprite) for sprite in self.sprites))
        self._by_name = {
            name.lower(): sprite for sprite in self.sprites for name in self.names(sprite).all
        }
        self._of_subgroup = _grouped((s.subgroup, s) for s in self.sprites if not s.skin)
        self._tones = _grouped((s.base, s) for s in self.sprites)
        self._twins = _grouped((s.neutral, s) for s in self.sprites if not s.skin)

    def names(self, sprite: Sprite) -> Names:
        """The words for a sprite of this world."""
        return self._names[sprite.key]

    def find(self, name: str) -> Sprite | None:
        """The sprite that a name means, with or without an article, or None."""
        words = name.strip().lower()
        for article in ("", "a ", "an ", "the "):
            if words.startswith(article) and (sprite := self._by_name.get(words[len(article) :])):
                return sprite
        return None

    def any_sprite(self, rng: random.Random) -> Sprite:
        """A sprite at random, plain ones more often than their tones and twins."""
        return self.sprites[bisect(self._weights, rng.random() * self._weights[-1])]

    def others_of_kind(self, sprite: Sprite) -> list[Sprite]:
        """The untoned sprites of the same subgroup, itself left out."""
        return [other for other in self._of_subgroup[sprite.subgroup] if other.key != sprite.base]

    def tones(self, sprite: Sprite) -> dict[str, Sprite]:
        """The same sprite by skin tone, "" for the yellow one."""
        return {other.skin: other for other in self._tones[sprite.base]}

    def twins(self, sprite: Sprite) -> dict[str, Sprite]:
        """The same untoned person by gender, "" for the one without."""
        return {other.gender: other for other in self._twins[sprite.neutral]}

    def is_held_out(self, sprite: Sprite, colour: str) -> bool:
        """Whether training never sees this sprite on this coloured ground."""
        # A tone and a twin share their sprite's fate, or an edit of them would cross the line.
        thing = sprite.base if sprite.skin else sprite.neutral
        return colour != "white" and stable_share(thing, colour) < self.held_out

    def colours(self, sprite: Sprite) -> list[str]:
        """The coloured grounds this sprite may stand on here. When testing they may be none."""
        return [colour for colour in COLOURS if self.may_show(sprite, colour)]

    def may_show(self, sprite: Sprite, ground: str) -> bool:
        """Whether a sprite may stand on a ground here; on white all may."""
        return ground == "white" or self.is_held_out(sprite, ground) == self.testing

    def any_shown(self, rng: random.Random, coloured: float) -> tuple[Sprite, str]:
        """A sprite and its ground: coloured with this chance, when testing always and held out."""
        while True:
            sprite = self.any_sprite(rng)
            colours = self.colours(sprite)
            if self.testing and not colours:
                continue
            if colours and (self.testing or rng.random() < coloured):
                return sprite, rng.choice(colours)
            return sprite, "white"

    def picture(self, sprite: Sprite, ground: str = "white") -> SpriteImage:
        """The sprite on a ground of `GROUNDS`."""
        return SpriteImage(self.pack, sprite.key, GROUNDS[ground])


def stable_share(*words: str) -> float:
    """A number in [0, 1) that depends on the words alone, the same in every run and version."""
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _weight(sprite: Sprite) -> float:
    if sprite.skin:
        return TONED_WEIGHT
    if sprite.gender:
        return GENDERED_WEIGHT
    return SYMBOL_WEIGHT if sprite.group == "symbols" else 1.0


def _grouped(pairs: Iterable[tuple[str, Sprite]]) -> dict[str, list[Sprite]]:
    groups: dict[str, list[Sprite]] = defaultdict(list)
    for key, sprite in pairs:
        groups[key].append(sprite)
    return groups
