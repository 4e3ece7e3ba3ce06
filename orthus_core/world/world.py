"""The small world: its sprites, their names, and the grounds they may be shown on.

Every sprite may be shown on white, and on all colours except a few that are held out. These depend
on the sprite and the colour alone, so they do not change with a seed or with other sprites.
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
from orthus_core.world.splits import scene_held_out, sprite_held_out, stable_share
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprite_names import Names, name_sprites
from orthus_core.world.sprites import Colour, Sprite, SpritePack, starter_packs
from orthus_core.world.wordings import Wordings

GROUNDS: dict[str, Colour] = {**PLAIN, "night": (30, 35, 85)}

# Weights in random choices. Skin tones and twins repeat a thing, and symbols are seldom asked for.
TONED_WEIGHT = 0.25
GENDERED_WEIGHT = 0.5
SYMBOL_WEIGHT = 0.5


class World:
    """The sprites of a pack with their names, as training or testing may show them.

    Args:
        pack: Sprite pack of style 3d, with all names.
        styles: Packs of the same things in other styles, by style.
        held_out: Fraction of the pairs of sprite and coloured ground that training never shows.
        testing: Whether to show only what is held out, rather than only the rest.
        wordings: Which wordings prompts, questions and instructions have.

    Attributes:
        sprites: Sprites that have a name of their own and may be drawn.
        unseen: Sprites that appear only in questions about group and kind.
        cast: Sprites that may appear in scenes, by noun, as far as this pack contains them.
        styles: Packs by style.
    """

    def __init__(
        self,
        pack: SpritePack,
        *,
        styles: Mapping[str, SpritePack] | None = None,
        held_out: float = 0.05,
        testing: bool = False,
        wordings: Wordings = "trained",
    ) -> None:
        self.pack = pack
        self.styles = {**(styles or {}), "3d": pack}
        self.held_out = held_out
        self.testing = testing
        self.wordings: Wordings = wordings
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
        self._of_subgroup = _group_by((s.subgroup, s) for s in self.sprites if not s.skin)
        self._tones = _group_by((s.base, s) for s in self.sprites)
        self._twins = _group_by((s.neutral, s) for s in self.sprites if not s.skin)

    @classmethod
    def open(
        cls, *, held_out: float = 0.05, testing: bool = False, wordings: Wordings = "trained"
    ) -> World:
        """The world of the bundled sprites, in all their styles."""
        packs = starter_packs()
        return cls(packs["3d"], styles=packs, held_out=held_out, testing=testing, wordings=wordings)

    def _is_unseen(self, sprite: Sprite) -> bool:
        # Skin tones and twins are treated like their sprite. The cast is always seen.
        thing = sprite.base if sprite.skin else sprite.neutral
        return self.held_out > 0 and sprite_held_out(thing) and thing not in self._noun_of

    def noun(self, key: str) -> str:
        """The noun of a sprite in scenes, such as "dog"; the plain name outside of the cast."""
        return self._noun_of.get(key) or self._names[key].name

    def nouns(self, scene: Scene) -> list[str]:
        """The noun of each thing of a scene, without its colour."""
        return [self.noun(thing.sprite) for thing in scene.things]

    def scene_image(self, scene: Scene) -> SceneImage:
        """The picture of a scene."""
        return SceneImage(self.styles, scene)

    def allows(self, scene: Scene) -> bool:
        """Whether this world may show a scene: in training if nothing in it is held out, in testing
        if something is.
        """
        return scene_held_out(scene, self.nouns(scene)) == self.testing

    def names(self, sprite: Sprite) -> Names:
        """The names of a sprite of this world."""
        return self._names[sprite.key]

    def find(self, name: str) -> Sprite | None:
        """The sprite with a name, which may have an article; None if there is none."""
        words = name.strip().lower()
        for article in ("", "a ", "an ", "the "):
            if words.startswith(article) and (sprite := self._by_name.get(words[len(article) :])):
                return sprite
        return None

    def sample_sprite(self, rng: random.Random) -> Sprite:
        """A random sprite; skin tones, twins and symbols are less likely."""
        return self.sprites[bisect(self._weights, rng.random() * self._weights[-1])]

    def others_of_kind(self, sprite: Sprite) -> list[Sprite]:
        """The other sprites of the same subgroup, without skin tones."""
        return [other for other in self._of_subgroup[sprite.subgroup] if other.key != sprite.base]

    def tones(self, sprite: Sprite) -> dict[str, Sprite]:
        """The variants of a sprite by skin tone; "" is the yellow one."""
        return {other.skin: other for other in self._tones[sprite.base]}

    def twins(self, sprite: Sprite) -> dict[str, Sprite]:
        """The variants of a person without skin tones by gender; "" is the one without a gender."""
        return {other.gender: other for other in self._twins[sprite.neutral]}

    def is_held_out(self, sprite: Sprite, colour: str) -> bool:
        """Whether training never shows this sprite on this coloured ground."""
        # Skin tones and twins are treated like their sprite: an edit may turn one into the other.
        thing = sprite.base if sprite.skin else sprite.neutral
        return colour != "white" and stable_share(thing, colour) < self.held_out

    def colours(self, sprite: Sprite) -> list[str]:
        """The coloured grounds on which this world may show a sprite; in testing, maybe none."""
        return [colour for colour in COLOURS if self.may_show(sprite, colour)]

    def may_show(self, sprite: Sprite, ground: str) -> bool:
        """Whether this world may show a sprite on a ground; white is always allowed."""
        return ground == "white" or self.is_held_out(sprite, ground) == self.testing

    def sample_sprite_and_ground(self, rng: random.Random, coloured: float) -> tuple[Sprite, str]:
        """A random sprite and its ground.

        The ground is coloured with probability `coloured`; in a testing world it always is, and
        held out.
        """
        while True:
            sprite = self.sample_sprite(rng)
            colours = self.colours(sprite)
            if self.testing and not colours:
                continue
            if colours and (self.testing or rng.random() < coloured):
                return sprite, rng.choice(colours)
            return sprite, "white"

    def picture(self, sprite: Sprite, ground: str = "white") -> SpriteImage:
        """The picture of a sprite on a ground of `GROUNDS`."""
        return SpriteImage(self.pack, sprite.key, GROUNDS[ground])


def _weight(sprite: Sprite) -> float:
    if sprite.skin:
        return TONED_WEIGHT
    if sprite.gender:
        return GENDERED_WEIGHT
    return SYMBOL_WEIGHT if sprite.group == "symbols" else 1.0


def _group_by(pairs: Iterable[tuple[str, Sprite]]) -> dict[str, list[Sprite]]:
    groups: dict[str, list[Sprite]] = defaultdict(list)
    for key, sprite in pairs:
        groups[key].append(sprite)
    return groups
