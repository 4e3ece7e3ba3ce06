"""Words that change nothing: where they stand, how often, and what they must not be."""

from __future__ import annotations

import random
import re

from orthus_core.data.document import Document
from orthus_core.world import fillers, records, wordings
from orthus_core.world.backdrops import COLOURS
from orthus_core.world.fillers import FILLED_CHANCE, FILLERS, MOST_FILLERS, with_fillers
from orthus_core.world.recolour import HUES
from orthus_core.world.records import MAKERS, record
from orthus_core.world.single_sprites import caption_names
from orthus_core.world.wordings import Phrases
from orthus_core.world.world import World
from tests.core.test_wordings import WHOLE


def texts(document: Document, role: str) -> list[str]:
    return [s.value for s in document.segments if s.role == role and isinstance(s.value, str)]


def test_no_filler_is_a_word_of_the_world_or_of_what_is_held_out(world: World):
    tables = [*WHOLE]
    for value in vars(wordings).values():
        if isinstance(value, Phrases):
            tables.append(value)
        elif isinstance(value, dict):
            tables += [table for table in value.values() if isinstance(table, Phrases)]
    held_out = {word for table in tables for phrase in table.held_out for word in phrase.split(" ")}
    trained = {word for table in tables for phrase in table.trained for word in phrase.split(" ")}
    named = [
        name for sprite in world.sprites for name in (*caption_names(world, sprite), *sprite.tags)
    ]
    names = {word for name in named for word in name.split(" ")}
    assert len(tables) > 30 and len({*FILLERS}) == len(FILLERS)
    assert not {*FILLERS} & ((held_out - trained) | names | {*HUES} | {*COLOURS})


def test_a_text_without_its_fillers_is_the_text():
    rng, places = random.Random(0), set()
    for _ in range(300):
        words = with_fillers(rng, "a red car left of an owl").split(" ")
        added = [index for index, word in enumerate(words) if word in FILLERS]
        assert 1 <= len(added) <= MOST_FILLERS
        assert [w for w in words if w not in FILLERS] == "a red car left of an owl".split(" ")
        places |= {*added}
    assert places == {*range(8)}


def test_some_rows_have_fillers_in_all_that_the_user_says(world: World, monkeypatch):
    tasks = {task: 1.0 for task in MAKERS}
    filled = [record(world, tasks, 5, number) for number in range(300)]
    monkeypatch.setattr(records, "FILLED_CHANCE", 0.0)
    plain = [record(world, tasks, 5, number) for number in range(300)]
    changed = 0
    for with_them, without in zip(filled, plain, strict=True):
        assert texts(with_them, "model") == texts(without, "model")
        if (said := texts(with_them, "user")) != (before := texts(without, "user")):
            changed += 1
            for long, short in zip(said, before, strict=True):
                assert len(long.split(" ")) > len(short.split(" "))
                assert re.search(".*".join(map(re.escape, short.split(" "))), long)
    assert 0.7 < changed / 300 / fillers.FILLED_CHANCE < 1.3
    assert FILLED_CHANCE > 0.1
