"""GenEval's six categories of prompts (2310.11513) for the small world, in that benchmark's schema.

All prompts except those for a single thing ask for a combination that is held out from training: a
pair, a count or a colour. Each prompt comes with a correct scene, on which a judge can be tested.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

from orthus_core.world.arrange import MOST_THINGS, RELATIONS, arrange, relation_between
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.scenes import SIDE_BY_SIDE, caption_of, coloured_nouns
from orthus_core.world.splits import colour_held_out, count_held_out, pair_held_out
from orthus_core.world.wordings import ScenePrompt, Wordings, prompt_of
from orthus_core.world.world import World

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True)
class GenevalPrompt:
    """A prompt, and what its picture has to show.

    Attributes:
        tag: Category, one of `TAGS`.
        prompt: Text of the prompt.
        scene: A correct scene, in style 3d on white.
        include: Required things: "class" and "count", and optionally "color" and "position" (a
            relation or "beside", which either side fulfils, and the index of the thing that it
            refers to).
        exclude: Counts that are too high.
    """

    tag: str
    prompt: str
    scene: Scene
    include: tuple[Mapping[str, Any], ...]
    exclude: tuple[Mapping[str, Any], ...] = ()

    def record(self) -> dict[str, Any]:
        """The prompt as a line of the benchmark's evaluation_metadata.jsonl."""
        record: dict[str, Any] = {"tag": self.tag, "include": [dict(i) for i in self.include]}
        if self.exclude:
            record["exclude"] = [dict(e) for e in self.exclude]
        return record | {"prompt": self.prompt}


class _Cell(NamedTuple):
    """A combination that a prompt can ask for.

    Attributes:
        looks: Noun and colour of each thing.
        relation: Relation of the first thing to the second.
    """

    looks: tuple[tuple[str, str], ...]
    relation: str = "left of"


def geneval_prompts(
    world: World, per_category: int, seed: int, wordings: Wordings | None = None
) -> list[GenevalPrompt]:
    """Different prompts of each category, in the order of `TAGS`.

    Args:
        world: World whose cast is used; its `testing` does not matter.
        per_category: Prompts of each category; fewer are returned where fewer are held out.
        seed: Seed of the random choice.
        wordings: Words of the prompts, drawn from these tables; None has canonical captions.
    """
    rng = random.Random(f"geneval/{seed}")
    chosen = []
    for tag in TAGS:
        cells = _cells(world, tag)
        chosen_cells = rng.sample(cells, min(per_category, len(cells)))
        for number, (looks, relation) in enumerate(chosen_cells):
            things = [Thing(world.cast[noun].key, colour=colour) for noun, colour in looks]
            scene = arrange(rng, things, "white", relation)
            # Of their own random numbers, so that other words ask for the same.
            words = random.Random(f"geneval/{seed}/{tag}/{number}")
            chosen.append(_prompt(world, tag, scene, _asked(words, world, tag, scene, wordings)))
    return chosen


def _cells(world: World, tag: str) -> list[_Cell]:
    """All combinations that a category can ask for."""
    if tag == "single_object":
        return [_Cell(((noun, ""),)) for noun in world.cast]
    if tag == "counting":
        return [
            _Cell(((noun, ""),) * count)
            for noun in world.countable
            for count in range(2, MOST_THINGS + 1)
            if count_held_out(noun, count)
        ]
    coloured = [(noun, hue) for noun in coloured_nouns(world) for hue in HUES]
    if tag == "colors":
        return [_Cell((cell,)) for cell in coloured if colour_held_out(*cell)]
    if tag == "color_attr":
        return [
            _Cell((one, other))
            for one, other in permutations(coloured, 2)
            if one[0] != other[0] and one[1] != other[1]
            if pair_held_out(one[0], other[0]) or colour_held_out(*one) or colour_held_out(*other)
        ]
    return [
        _Cell(((noun, ""), (other, "")), relation)
        for noun, other in permutations(world.cast, 2)
        if pair_held_out(noun, other)
        for relation in (RELATIONS if tag == "position" else ("left of",))
    ]


def _asked(
    rng: random.Random, world: World, tag: str, scene: Scene, wordings: Wordings | None
) -> ScenePrompt:
    if wordings is None:
        relation = relation_between(*scene.things) if tag == "position" else ""
        return ScenePrompt(caption_of(world, scene, tag), relation)
    nouns, related = world.nouns(scene), tag not in SIDE_BY_SIDE
    return prompt_of(rng, scene, nouns, relation=related, wordings=wordings)


def _prompt(world: World, tag: str, scene: Scene, asked: ScenePrompt) -> GenevalPrompt:
    looks = list(zip(world.nouns(scene), (thing.colour for thing in scene.things), strict=True))
    include: list[dict[str, Any]] = []
    for noun, colour in dict.fromkeys(looks):
        wanted: dict[str, Any] = {"class": noun, "count": looks.count((noun, colour))}
        include.append(wanted | ({"color": colour} if colour else {}))
    exclude: tuple[dict[str, Any], ...] = ()
    if tag == "counting":
        exclude = (include[0] | {"count": len(looks) + 1},)
    if tag == "position":
        # The official records list the reference thing first.
        placed, other = include
        include = [other, placed | {"position": [asked.relation, 0]}]
    return GenevalPrompt(tag, asked.text, scene, tuple(include), exclude)
