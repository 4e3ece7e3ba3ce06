"""Words that change nothing: where they stand, how often, and what they must not be."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from dataclasses import replace

from orthus_core.data.document import Document
from orthus_core.data.known_words import words_of
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.batches import existing_words, read_rows
from orthus_core.world import fillers, wordings
from orthus_core.world.arrange import arrange
from orthus_core.world.backdrops import COLOURS
from orthus_core.world.fillers import (
    FILLED_CHANCE,
    FILLERS,
    MOST_FILLERS,
    made_up_word,
    with_fillers,
    without_made_up_words,
)
from orthus_core.world.recolour import HUES
from orthus_core.world.records import MAKERS, record
from orthus_core.world.scenes import as_things
from orthus_core.world.single_sprites import caption_names
from orthus_core.world.wordings import (
    BESIDE,
    FILLED_JOIN_CHANCE,
    JOINS,
    MOST_BETWEEN,
    Phrases,
    things_words,
)
from orthus_core.world.world import World
from tests.core.test_wordings import WHOLE
from tests.core.toy_data import finished


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
    known = held_out | names | {*HUES} | {*COLOURS}
    assert not {*FILLERS} & (known - trained)
    syllables = {*map("".join, itertools.product(fillers._STARTS, fillers._VOWELS, fillers._ENDS))}
    for word in known | trained:
        halves = ((word[:end], word[end:]) for end in range(1, len(word)))
        assert not any(start in syllables and rest in syllables for start, rest in halves), word


def test_a_text_without_its_fillers_is_the_text():
    rng, places, kinds = random.Random(0), set(), Counter()
    plain = "a red car left of an owl".split(" ")
    for _ in range(300):
        words = with_fillers(rng, " ".join(plain)).split(" ")
        added = [index for index, word in enumerate(words) if word not in plain]
        assert 1 <= len(added) <= MOST_FILLERS
        assert [w for w in words if w in plain] == plain
        places |= {*added}
        kinds.update(words[index] in FILLERS for index in added)
    assert places == {*range(8)}
    assert 0.4 < kinds[True] / kinds.total() < 0.6


def test_only_fillers_are_between_some_pairs_but_in_no_relation(world: World):
    rng, filled, others = random.Random(0), 0, set()
    plain = {*"a as dog cat just one only".split()}
    scene = arrange(rng, as_things(world, [("dog", ""), ("cat", "")]), "white", "left of")
    for _ in range(400):
        assert things_words(rng, scene, ["dog", "cat"])[1] in (BESIDE, "left of")
        text, _ = things_words(rng, scene, ["dog", "cat"], relation=False)
        said = re.fullmatch(r"a dog(.*) a cat", text)
        if said and f"{{a}}{said[1]} {{b}}" not in JOINS.trained:
            assert 1 <= len(said[1].split()) <= MOST_BETWEEN
            filled += 1
        text, _ = things_words(rng, scene, ["dog", "cat"], relation=False, wordings="held out")
        others.add(" ".join(word for word in text.split() if word not in plain))
    assert 0.6 < filled / 400 / FILLED_JOIN_CHANCE < 1.3
    assert others == {"together with", "well"}


def test_a_list_of_words_has_no_word_that_does_not_exist(world: World):
    rng = random.Random(0)
    for _ in range(200):
        word = made_up_word(rng)
        for said in (word, word.upper(), word.title()):
            assert without_made_up_words(f"a dog {said} a cat, {said}.") == "a dog a cat,."
    names = [name for thing in world.things.values() for name in thing.names.all]
    assert [without_made_up_words(name) for name in names] == names


def test_the_words_of_a_pretraining_exist(world: World):
    data = DataRecipe()
    rows = [record(world, {"scene": 1.0}, 7, number) for number in range(400)]
    said = {word for row in rows for text in texts(row, "user") for word in words_of(text)}
    listed = {word for row in rows for text in existing_words(data, row) for word in words_of(text)}
    made_up = {word for word in said if without_made_up_words(word) == ""}
    assert len(made_up) > 30 and listed == said - made_up
    assert existing_words(replace(data, source="drawings"), rows[0]) == [
        segment.value for segment in rows[0].segments if isinstance(segment.value, str)
    ]


def test_some_rows_have_fillers_in_all_that_the_user_says(world: World):
    tasks = {task: 1.0 for task in MAKERS}
    filled = [record(world, tasks, 5, number) for number in range(300)]
    plain = [record(world, tasks, 5, number, fillers=0) for number in range(300)]
    changed = 0
    for with_them, without in zip(filled, plain, strict=True):
        assert texts(with_them, "model") == texts(without, "model")
        if (said := texts(with_them, "user")) != (before := texts(without, "user")):
            changed += 1
            for long, short in zip(said, before, strict=True):
                assert len(long.split(" ")) > len(short.split(" "))
                assert re.search(".*".join(map(re.escape, short.split(" "))), long)
    assert 0.7 < changed / 300 / fillers.FILLED_CHANCE < 1.3
    assert FILLED_CHANCE == DataRecipe().fillers > 0.1


def test_a_recipe_says_how_many_rows_have_fillers():
    plain = finished(read_rows(DataRecipe(fillers=0.0))).train
    filled = finished(read_rows(DataRecipe(fillers=1.0, first_rows=100))).train
    said = [(texts(filled(n), "user"), texts(plain(n), "user")) for n in range(200)]
    assert all(long != short for long, short in said if short)
