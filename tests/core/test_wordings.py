"""Wordings: each has one meaning, and no training row contains a held-out one."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from orthus_core.world import scene_edits, scene_questions, sprite_edits, sprite_questions, wordings
from orthus_core.world.arrange import relation_between
from orthus_core.world.backdrops import COLOURS, GROUND_WORDS, SKY_WORDS
from orthus_core.world.benchmark.detector import Detection
from orthus_core.world.benchmark.geneval_rule import judge
from orthus_core.world.geneval_prompts import geneval_prompts
from orthus_core.world.records import record
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.scenes import SIDE_BY_SIDE, sample_scene
from orthus_core.world.wording import plural
from orthus_core.world.wordings import (
    BESIDE,
    COLOURED_THING,
    COUNTS,
    JOINS,
    PLACED,
    PLAIN_GROUND,
    RELATION_PHRASES,
    REQUESTS,
    SIDES,
    Phrases,
    ground_phrases,
    prompt_of,
    sky_phrases,
)
from orthus_core.world.world import World

NUMBER_OF = {"one": 1, "single": 1, "two": 2, "2": 2, "pair": 2, "couple": 2, "another": 2}
NUMBER_OF |= {"three": 3, "3": 3, "four": 4, "4": 4}
NUMBER_OF |= {"1": 1, "lone": 1, "duo": 2, "trio": 3, "quartet": 4}
# The meaning of a phrase by the words in it, written down apart from the tables.
RELATION_OF = {
    r"(left of|left than|left side of|on the left(,| and) .* on the right)": "left of",
    r"(right of|right than|right side of|on the right(,| and) .* on the left)": "right of",
    r"(above|over|higher than|on top of|on (?!the)|at the top(,| and) .* at the bottom)": "above",
    r"(below|under|lower than|beneath|underneath|at the bottom(,| and) .* at the top)": "below",
    r"(next to|beside|adjacent to|alongside|near|(by|at) the side of|side by side)": BESIDE,
}
GROUND_OF = {
    r"\b(grass|park|garden|(?<!snowy )(?<!autumn )(field|meadow))\b": "meadow",
    r"\b(beach|sand|sandy|by the sea|at the sea)\b": "beach",
    r"\b(snow|winter|snowy)\b": "snow",
    r"\b(autumn|fall)\b": "autumn",
    r"\b(city|street|town)\b": "city",
    r"\b(room|inside|indoors|home|house)\b": "room",
    r"\b(?<!by the )(?<!at the )(sea|ocean|water|underwater)\b": "sea",
    r"\b(space|universe|stars)\b": "space",
}
SKY_OF = {
    r"\b((?<!rainy )day|daylight|daytime|sunshine)\b": "day",
    r"\b(sunset|dusk|evening)\b": "sunset",
    r"\b(night|dark)\b": "night",
    r"\b(rain|rainy|rains)\b": "rain",
}


def meanings(table: Mapping[str, str], text: str) -> set[str]:
    return {meaning for pattern, meaning in table.items() if re.search(pattern, text)}


def pattern(phrase: str) -> str:
    """A phrase as a pattern, in which any words may stand for a thing."""
    fills = {
        "colour": f"({'|'.join([*COLOURS, 'white'])})",
        "a_colour": rf"an? ({'|'.join([*COLOURS, 'white'])})",
        "is": "(is|are)",
        "place": rf"(({ANY_PLACE})( ({ANY_PLACE}))?|{ANY_GROUND})",
    }
    parts = re.split(r"\{(\w*)\}", phrase)
    words = [fills.get(p, r".+") if i % 2 else re.escape(p) for i, p in enumerate(parts)]
    return "".join(words)


PLACES = [p for ground in GROUND_WORDS for p in ground_phrases(ground).trained]
PLACES += [p for sky in SKY_WORDS for p in sky_phrases(sky).trained]
ANY_PLACE = "|".join(sorted(map(re.escape, PLACES), key=len, reverse=True))
ANY_GROUND = r"(on|with|against) (an? )?\w+( (background|backdrop|behind))?"
WHOLE = [  # tables of whole texts
    value
    for module in (scene_edits, sprite_edits, scene_questions, sprite_questions)
    for value in vars(module).values()
    if isinstance(value, Phrases)
]


def held_out_patterns() -> Iterator[str]:
    """What no training text may match."""
    grounds, skies = map(ground_phrases, GROUND_WORDS), map(sky_phrases, SKY_WORDS)
    for table in (*RELATION_PHRASES.values(), *COUNTS.values(), *grounds, *skies):
        yield from (rf"\b{pattern(phrase)}\b" for phrase in table.held_out)
    for table in (COLOURED_THING, JOINS, PLAIN_GROUND):
        yield from (rf"\b{pattern(phrase)}\b" for phrase in table.held_out)
    for table in (REQUESTS, PLACED, *WHOLE):
        yield from (rf"^{pattern(phrase)}$" for phrase in table.held_out)


def test_a_table_has_a_held_out_part_and_no_phrase_in_both():
    tables = [*RELATION_PHRASES.values(), *COUNTS.values(), COLOURED_THING, JOINS, PLAIN_GROUND]
    tables += [REQUESTS, PLACED, *map(ground_phrases, GROUND_WORDS), *WHOLE]
    for table in (*tables, *map(sky_phrases, SKY_WORDS), *wordings.GROUND_PHRASES.values()):
        assert table.held_out and not {*table.held_out} & {*table.trained}, table
        assert len({*table.trained}) == len(table.trained), table


@pytest.mark.parametrize(
    ("tables", "right"),
    [
        ({name: table for name, table in RELATION_PHRASES.items()}, RELATION_OF),
        ({ground: ground_phrases(ground) for ground in GROUND_WORDS}, GROUND_OF),
        (wordings.GROUND_PHRASES, GROUND_OF),
        ({sky: sky_phrases(sky) for sky in SKY_WORDS}, SKY_OF),
    ],
    ids=["relations", "grounds", "every ground", "skies"],
)
def test_every_phrase_has_the_one_meaning_of_its_table(tables, right):
    for meaning, table in tables.items():
        for phrase in (*table.trained, *table.held_out):
            assert meanings(right, phrase) == {meaning}, phrase


def test_every_number_has_one_meaning():
    for count, table in COUNTS.items():
        for phrase in (*table.trained, *table.held_out):
            numbers = {NUMBER_OF[w] for w in re.findall(r"\w+", phrase) if w in NUMBER_OF}
            assert numbers in ({count}, set()) and (numbers or phrase == "{a}"), phrase


@pytest.mark.parametrize("words", ["trained", "held out"])
def test_a_prompt_reads_back_as_its_scene(world: World, words):
    """Numbers, colours, relation and place; where the prompt leaves something open, it says so."""
    rng, seen = random.Random(words), Counter()
    for _ in range(700):
        scene, category = sample_scene(rng, world)
        nouns, said = world.nouns(scene), category not in SIDE_BY_SIDE
        asked = prompt_of(rng, scene, nouns, relation=said, wordings=words)
        text = asked.text.lower()
        looks = Counter(zip(nouns, (thing.colour for thing in scene.things), strict=True))
        for (noun, colour), count in looks.items():
            name = noun if count == 1 else plural(noun)
            assert re.search(rf"\b({name}|{noun})\b", text), text
            assert not colour or re.search(rf"\b{colour}\b", text), text
        numbers = Counter(NUMBER_OF[w] for w in re.findall(r"\w+", text) if w in NUMBER_OF)
        numbers.pop(1, None)
        assert [*numbers.elements()] == [n for n in looks.values() if n > 1], text
        if asked.relation:
            true = relation_between(*scene.things)
            assert true in (SIDES if asked.relation == BESIDE else {asked.relation})
        assert {*asked.place} <= {scene.backdrop, *scene.backdrop.split()}, text
        text = text.replace("among the stars", "in the universe")  # though the thing be a star
        for noun in nouns:  # "a house" is no place
            text = re.sub(rf"\b({plural(noun)}|{noun})\b", "x", text)
        for table, names in ((GROUND_OF, GROUND_WORDS), (SKY_OF, SKY_WORDS)):
            told = meanings(table, text)
            assert told == {*asked.place} & {*names}, text
        seen[asked.relation] += 1
        seen[len(asked.place)] += 1
    assert all(seen[relation] > 3 for relation in ("", *RELATION_PHRASES))
    assert seen[0] > 100 and seen[1] > 50 and seen[2] > 50


def test_no_training_row_contains_a_held_out_wording(world: World):
    tasks: dict[str, float] = dict.fromkeys(
        ("text_to_image", "scene", "caption", "scene_question", "edit", "scene_edit", "story"), 1.0
    )
    never = [re.compile(each) for each in held_out_patterns()]
    for number in range(2000):
        for segment in record(world, tasks, 5, number).segments:
            if isinstance(text := segment.value, str):
                found = [each.pattern for each in never if each.search(text.lower().rstrip("."))]
                found += [each.pattern for each in never if each.search(text)]
                assert not found, text


def test_with_held_out_wordings_every_text_has_one(world: World):
    apart = World(world.pack, styles=world.styles, wordings="held out")
    tables = [re.compile(each) for each in held_out_patterns()]
    tasks: dict[str, float] = dict.fromkeys(
        ("scene", "caption", "scene_question", "scene_edit"), 1.0
    )
    for number in range(300):
        text = record(apart, tasks, 5, number).user[-1].value
        assert isinstance(text, str) and any(each.search(text) for each in tables), text


def test_beside_is_either_side_for_the_record_and_its_judge(world: World):
    prompts = geneval_prompts(world, 60, seed=1, wordings="trained")
    placed = [p.include[1] for p in prompts if p.tag == "position"]
    relations = {entry["position"][0] for entry in placed}
    assert relations == {*SIDES, "above", "below", BESIDE}
    request = {
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": [BESIDE, 0]},
        ]
    }

    def right(x: int, y: int) -> bool:
        found = [Detection("dog", "", x, y, 32, 1.0), Detection("cat", "", 32, 16, 32, 1.0)]
        return judge(request, found).right

    assert right(0, 16) and right(64, 16) and not right(32, 60)


def test_words_for_one_kind_of_thing():
    rng = random.Random(0)
    two = {wordings.thing_words(rng, "fish", "blue", 2) for _ in range(2000)}
    assert {"two blue fish", "two fish that are blue", "a pair of blue coloured fish"} <= two
    dog = Thing("")
    told = {prompt_of(rng, Scene("meadow day", (dog,)), ["dog"]).text for _ in range(400)}
    assert {"a dog on grass", "a dog, in a meadow"} <= told


def test_a_thing_on_a_coloured_background_is_asked_for_in_held_out_words():
    never = [re.compile(each) for each in held_out_patterns()]
    for seed in range(300):
        asked = prompt_of(
            random.Random(seed), Scene("blue", (Thing("x"),)), ["dog"], wordings="held out"
        )
        assert any(each.search(asked.text.lower()) for each in never), asked.text
