"""The small world: which sprites there are, what they are called, on which grounds they stand.

Every sprite may stand on white, and on each colour but a few that are held out. Which are held out
depends on the sprite and the colour alone, so it never changes with a seed or with other sprites.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate

from orthus_core.world import cast
from orthus_core.world.backdrops import COLOURS, PLAIN
from orthus_core.world.scene import Scene, SceneImage
from orthus_core.world.splits import scene_held_out, stable_share, unseen
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprite_names import Names, name_sprites
from orthus_core.world.sprites import Colour, Sprite, SpritePack, starter_packs

GROUNDS: dict[str, Colour] = {**PLAIN, "night": (30, 35, 85)}

# A tone or a twin is the same thing again, and few ask for an arrow: they are shown less often.
TONED_WEIGHT = 0.25
GENDERED_WEIGHT = 0.5
SYMBOL_WEIGHT = 0.5


class World:
    """A pack's sprites as things to talk about.

    Args:
        pack: The pictures, with the names of all.
        styles: The same things in further styles, by style; "3d" is the pack itself.
        held_out: Fraction of the pairs of sprite and coloured ground that training never sees.
        testing: Show only what is held out instead of only the rest.

    Attributes:
        sprites: Those that have a name of their own and may be drawn.
        unseen: Those that are kept for questions of group and colour.
        cast: Who plays in scenes, by the noun that scenes use; those that this pack has.
        styles: Packs by style.
    """

    def __init__(
        self,
        pack: SpritePack,
        *,
        styles: Mapping[str, SpritePack] | None = None,
        held_out: float = 0.05,
        testing: bool = False,
    ) -> None:
        self.pack = pack
        self.styles = {**(styles or {}), "3d": pack}
        self.held_out = held_out
        self.testing = testing
        self._names = name_sprites(pack)
        named = [sprite for sprite in pack if sprite.key in self._names]
        self._by_name = {
            name.lower(): sprite for sprite in named for name in self.names(sprite).all
        }
        self.cast = {noun: self._by_name[noun] for noun in cast.CAST if noun in self._by_name}
        self._noun_of = {sprite.key: noun for noun, sprite in self.cast.items()}
        self.sprites = [sprite for sprite in named if not self._is_unseen(sprite)]
        self.unseen = [sprite for sprite in named if self._is_unseen(sprite)]
        self._weights = list(accumulate(_weight(sprite) for sprite in self.sprites))
        self._of_subgroup = _grouped((s.subgroup, s) for s in self.sprites if not s.skin)
        self._tones = _grouped((s.base, s) for s in self.sprites)
        self._twins = _grouped((s.neutral, s) for s in self.sprites if not s.skin)

    @classmethod
    def open(cls, *, held_out: float = 0.05, testing: bool = False) -> World:
        """The world of the bundled sprites, in all their styles."""
        packs = starter_packs()
        return cls(packs["3d"], styles=packs, held_out=held_out, testing=testing)

    def _is_unseen(self, sprite: Sprite) -> bool:
        # A tone and a twin share their sprite's fate; who plays in scenes is always seen.
        thing = sprite.base if sprite.skin else sprite.neutral
        return self.held_out > 0 and unseen(thing) and thing not in self._noun_of

    def noun(self, key: str) -> str:
        """What scenes call a sprite: "dog", or its plain name when it plays in none."""
        return self._noun_of.get(key) or self._names[key].name

    def nouns(self, scene: Scene) -> list[str]:
        """What each thing of a scene is called, without its colour."""
        return [self.noun(thing.sprite) for thing in scene.things]

    def shown(self, scene: Scene) -> SceneImage:
        """A scene as a picture."""
        return SceneImage(self.styles, scene)

    def allows(self, scene: Scene) -> bool:
        """Whether a scene may be shown here: when training nothing of it is held out, when testing
        something is.
        """
        return scene_held_out(scene, self.nouns(scene)) == self.testing

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
