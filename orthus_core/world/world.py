"""The small world: its things, their sprites and names, and the grounds they may be shown on.

Every thing may be shown on white, and on all colours except a few that are held out. These depend
on the thing and the colour alone, so they do not change with a seed or with other sprites.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping

from orthus_core.world import cast
from orthus_core.world.backdrops import COLOURS
from orthus_core.world.english import is_plural
from orthus_core.world.scene import Scene, SceneImage, contrast
from orthus_core.world.splits import scene_held_out, sprite_held_out, stable_share
from orthus_core.world.sprite_names import NamedThing, Names, name_sprites
from orthus_core.world.sprites import Sprite, SpritePack, starter_packs
from orthus_core.world.vocabulary import is_passed_over
from orthus_core.world.wordings import Wordings

# Weight, in random choices of one thing, of things that are not in the cast; the others have a
# weight of 1. Scenes show the cast alone, so that a model knows its looks from them as well.
ALONE_WEIGHT = 2
# Least share of a thing, by area, whose colour differs clearly from the backdrop.
LEAST_CONTRAST = 0.35


class World:
    """The sprites of a pack with their names, as training or testing may show them.

    Args:
        pack: Sprite pack of style 3d, with all names.
        styles: Packs of the same things in other styles, by style.
        held_out: Fraction of the pairs of thing and coloured ground that training never shows.
        testing: Whether to show only what is held out, rather than only the rest.
        wordings: Which wordings prompts, questions and instructions have.

    Attributes:
        things: Things of the vocabulary, by plain name.
        sprites: The sprite of each thing of the vocabulary; only they may be drawn.
        unseen: Sprites that nothing names; they appear only in questions, whose answer is that the
            model does not know them. In a testing world, they are those that no training asks
            about.
        cast: Sprite of each thing that may appear in scenes, by noun, as far as this pack contains
            them.
        countable: Nouns of the cast of which there may be several in a scene.
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
        self.things: dict[str, NamedThing] = name_sprites(pack)
        self._thing_of = {
            sprite.key: thing for thing in self.things.values() for sprite in thing.sprites
        }
        self._by_name = {
            name.lower(): thing.sprites[0]
            for thing in self.things.values()
            for name in thing.names.all
        }
        self.cast = {
            noun: self.things[noun].sprites[0] for noun in cast.CAST if noun in self.things
        }
        # "two cherries" could mean one sprite of cherries or two of them.
        self.countable = [
            noun for noun in self.cast if not is_plural(noun) and noun not in cast.UNCOUNTED
        ]
        self.sprites = [thing.sprites[0] for thing in self.things.values()]
        self.unseen = [sprite for sprite in pack if self._is_unseen(sprite)]
        self._chosen = [
            thing
            for name, thing in self.things.items()
            for _ in range(1 if name in self.cast else ALONE_WEIGHT)
        ]
        self._of_subgroup = _group_by((s.subgroup, s) for s in self.sprites)

    @classmethod
    def open(
        cls, *, held_out: float = 0.05, testing: bool = False, wordings: Wordings = "trained"
    ) -> World:
        """The world of the bundled sprites, in all their styles."""
        packs = starter_packs()
        return cls(packs["3d"], styles=packs, held_out=held_out, testing=testing, wordings=wordings)

    def _is_unseen(self, sprite: Sprite) -> bool:
        if sprite.key in self._thing_of or sprite.skin or sprite.gender:
            return False
        if is_passed_over(sprite.label, sprite.subgroup):
            return False
        return self.held_out == 0 or sprite_held_out(sprite.key) == self.testing

    def noun(self, key: str) -> str:
        """The name of a sprite's thing: "dog"; Unicode's label outside of the vocabulary."""
        thing = self._thing_of.get(key)
        return thing.names.name if thing else self.pack[key].label

    def nouns(self, scene: Scene) -> list[str]:
        """The noun of each thing of a scene, without its colour."""
        return [self.noun(thing.sprite) for thing in scene.things]

    def scene_image(self, scene: Scene) -> SceneImage:
        """The picture of a scene."""
        return SceneImage(self.styles, scene)

    def stands_out(self, scene: Scene) -> bool:
        """Whether all things of a scene are easy to see on its backdrop; on white, all are."""
        return scene.backdrop == "white" or all(
            contrast(self.styles, thing, scene.backdrop) >= LEAST_CONTRAST for thing in scene.things
        )

    def allows(self, scene: Scene) -> bool:
        """Whether this world may show a scene: in training if nothing in it is held out, in testing
        if something is.
        """
        return self.holds_out(scene) == self.testing

    def holds_out(self, scene: Scene) -> bool:
        """Whether anything in a scene is held out: what `scene_held_out` says, or the colour behind
        a single thing.
        """
        if scene_held_out(scene, self.nouns(scene)):
            return True
        if len(scene.things) != 1 or scene.things[0].colour or scene.backdrop not in COLOURS:
            return False
        return self.is_held_out(self.pack[scene.things[0].sprite], scene.backdrop)

    def names(self, sprite: Sprite) -> Names:
        """The names of a sprite's thing; Unicode's label outside of the vocabulary."""
        thing = self._thing_of.get(sprite.key)
        return thing.names if thing else Names(sprite.label)

    def variants(self, noun: str, style: str = "3d") -> tuple[Sprite, ...]:
        """All sprites that show a thing, in a style, the drawn one first; () if there are none."""
        pack = self.styles.get(style, ())
        return tuple(sprite for sprite in self.things[noun].sprites if sprite.key in pack)

    def mirrors(self, key: str) -> bool:
        """Whether a sprite looks right in a mirror."""
        thing = self._thing_of.get(key)
        return thing is not None and thing.mirrors

    def find(self, name: str) -> Sprite | None:
        """The sprite with a name, which may have an article; None if there is none."""
        words = name.strip().lower()
        for article in ("", "a ", "an ", "the "):
            if words.startswith(article) and (sprite := self._by_name.get(words[len(article) :])):
                return sprite
        return None

    def sample_sprite(self, rng: random.Random) -> Sprite:
        """The sprite of a random thing; those that no scene shows are more likely."""
        return rng.choice(self._chosen).sprites[0]

    def others_of_kind(self, sprite: Sprite) -> list[Sprite]:
        """The sprites of other things of the same subgroup."""
        noun = self.noun(sprite.key)
        return [s for s in self._of_subgroup[sprite.subgroup] if self.noun(s.key) != noun]

    def is_held_out(self, sprite: Sprite, colour: str) -> bool:
        """Whether training never shows this sprite on this coloured ground."""
        # All sprites of a thing are treated alike, or one would show what another must not.
        return colour in COLOURS and stable_share(self._key_of(sprite), colour) < self.held_out

    def _key_of(self, sprite: Sprite) -> str:
        thing = self._thing_of.get(sprite.key)
        return thing.sprites[0].key if thing else sprite.key

    def colours(self, sprite: Sprite) -> list[str]:
        """The coloured grounds on which this world may show a sprite; in testing, maybe none."""
        return [colour for colour in COLOURS if self.may_show(sprite, colour)]

    def may_show(self, sprite: Sprite, ground: str) -> bool:
        """Whether this world may show a sprite on a backdrop; all but `COLOURS` are allowed."""
        return ground not in COLOURS or self.is_held_out(sprite, ground) == self.testing

    def sample_sprite_and_ground(self, rng: random.Random) -> tuple[Sprite, str]:
        """A random sprite and a coloured ground on which this world may show it."""
        while not (colours := self.colours(sprite := self.sample_sprite(rng))):
            pass
        return sprite, rng.choice(colours)


def _group_by(pairs: Iterable[tuple[str, Sprite]]) -> dict[str, list[Sprite]]:
    groups: dict[str, list[Sprite]] = defaultdict(list)
    for key, sprite in pairs:
        groups[key].append(sprite)
    return groups
