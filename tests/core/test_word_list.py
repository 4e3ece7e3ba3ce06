"""What a model lists that it draws: emoji mean its names, and other words lead to it."""

from __future__ import annotations

import json

import pytest

from orthus_core.data.known_words import VOCABULARY, WORDS, KnownWords, WordList
from orthus_core.errors import DataError
from orthus_core.world.backdrops import GRADIENTS
from orthus_core.world.listed_words import word_list
from orthus_core.world.world import World


@pytest.fixture(scope="module")
def mini(word_files, tmp_path_factory) -> KnownWords:
    """The words of a model that was trained on the small world."""
    folder = tmp_path_factory.mktemp("words")
    for name, text in word_files.items():
        (folder / name).write_text(text, encoding="utf-8")
    known = KnownWords.of(folder)
    assert known is not None
    return known


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a 🐶 on a 🏖️", "a dog on a beach"),
        ("A 🍎 left of a 🐱!", "An apple left of a cat!"),
        ("🐶🐶🐱", "two dogs and a cat"),
        ("🦊", "fox"),
        ("make it a🦄", "make it a unicorn"),
        ("a dog in 🌧️", "a dog in the rain"),
        ("make the background a 🏖", "make the background a beach"),
        ("🏖️", "🏖️"),
        ("👩🏽\u200d🚀", "astronaut"),
        ("👩🏽", "woman"),
        ("👩🏽\u200d🦰", "woman"),
        ("👍🏿", "thumbs up"),
        ("is there a 🐶?", "is there a dog?"),
        ("a 🫩 and a 🐶", "a 🫩 and a dog"),
        ("a café – “dog” → 5 €", "a café – “dog” → 5 €"),
    ],
)
def test_emoji_are_read_as_the_names_of_the_models_list(mini, text, read):
    assert mini.read(text) == read


def test_an_emoji_that_is_not_listed_is_told_and_others_are_not(mini):
    told = [str(each) for each in mini.unknown("a 🫩 and a 🐶")]
    assert told == ['"🫩" is not among the words this model knows']


def test_without_a_list_emoji_stay_and_nothing_is_said_of_them(tmp_path):
    (tmp_path / "vocabulary.txt").write_text("dog\n")
    known = KnownWords.of(tmp_path)
    assert known is not None and known.listed is None
    assert known.read("a 🐶") == "a 🐶" and known.unknown("a 🐶") == []
    assert not known.exceeds("nine dogs driving a car")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lawn", "meadow"),
        ("coast", "beach"),
        ("hound", "dog"),
        ("forest", "fir tree"),
        ("blizzard", "snow"),
        ("icecream", "ice cream"),
        ("elefant", "elephant"),
        ("dgo", "dog"),
        ("girafe", "giraffe"),
        *((word, None) for word in "katze hund chien perro gato maison haus baum neige".split()),
    ],
)
def test_a_word_leads_to_what_it_means_and_a_foreign_one_to_nothing(mini, word, meant):
    (unknown,) = mini.unknown(f"a {word} and a fox")
    assert (unknown.word, unknown.nearest) == (word, meant)


def test_the_hint_at_a_word_that_is_not_listed_says_that_nothing_is_drawn_for_it(
    word_files, tmp_path
):
    (tmp_path / WORDS).write_text(word_files[WORDS], encoding="utf-8")
    (tmp_path / VOCABULARY).write_text(word_files[VOCABULARY] + "shore\n", encoding="utf-8")
    known = KnownWords.of(tmp_path)
    assert known is not None
    assert [str(each) for each in known.unknown("by the shore")] == [
        '"shore" is nothing that this model draws; did you mean "beach"?'
    ]


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a dog underneath a cactus", {"underneath": "below"}),
        ("a cat atop a red car", {"atop": "above"}),
        ("a dog besides a cat", {"besides": "next to"}),
        ("a dog close to two cats", {"close to": "next to"}),
        ("two apples right next to the dog", {}),
        ("a cat on the left side of an ice cream", {"on the left side of": "left of"}),
        ("a cow in the middle of a meadow", {"in the middle of a meadow": "in a meadow"}),
        ("a bear amid the snow", {"amid the snow": "in the snow"}),
        ("a dog to the left of a cat", {}),
        ("a dog above a cat", {}),
        ("a dog under a night sky", {}),
        ("a dog on a blue background", {}),
        ("a dog in the middle of two cats", {"middle": None}),
        ("near the house", {}),
    ],
)
def test_a_wording_of_a_relation_or_place_leads_to_the_known_one(mini, prompt, told):
    assert {each.word: each.nearest for each in mini.unknown(prompt)} == told


def test_the_hint_names_the_usual_one_of_several_wordings(word_files, tmp_path):
    (tmp_path / WORDS).write_text(word_files[WORDS], encoding="utf-8")
    (tmp_path / "vocabulary.txt").write_text("dog\ncat\nnext\nnear\nbeside\n")
    known = KnownWords.of(tmp_path)
    assert known is not None and known.unknown("a dog near a cat") == []
    (told,) = known.unknown("a dog close to a cat")
    assert (told.word, told.nearest) == ("close to", "next to")


def test_no_hint_says_that_a_word_means_itself(word_files, tmp_path):
    (tmp_path / WORDS).write_text(word_files[WORDS], encoding="utf-8")
    (tmp_path / "vocabulary.txt").write_text("dog\n")
    known = KnownWords.of(tmp_path)
    assert known is not None
    assert [each.nearest for each in known.unknown("next dog") if each.word == "next"] == [None]


@pytest.mark.parametrize(
    ("prompt", "more"),
    [
        ("five dogs", True),
        ("a dog, a cat, a fox, a bear and a pig", True),
        ("two dogs, two cats and a hen", True),
        ("a dog driving a car", True),
        ("four red apples in the rain", False),
        ("a drawing of lightning", False),
        ("two dogs and two cats at night", False),
    ],
)
def test_what_is_more_than_a_picture_shows_is_noticed(mini, prompt, more):
    assert mini.exceeds(prompt) == more


def test_the_list_of_a_world_has_all_of_it_and_reads_back(world: World, tmp_path):
    listed = word_list(world)
    (tmp_path / WORDS).write_text(listed.text(), encoding="utf-8")
    read = WordList.of(tmp_path)
    assert read is not None and read.record() == listed.record()
    names = {thing.name for thing in read.every_thing}
    assert {*world.cast} <= names
    assert {read.by_emoji[emoji].name for emoji in "🐕🐶"} == {"dog"}
    assert names == world.things.keys()
    assert not {world.names(sprite).name for sprite in world.unseen} & names
    # No row names a style.
    assert read.lists["styles"] == []
    assert "A under B" in read.tables["relations"]["below"]
    assert "on grass" in read.tables["places"]["meadow"]


def test_a_damaged_list_is_told(tmp_path):
    (tmp_path / WORDS).write_text('{"things": [')
    with pytest.raises(DataError, match="cannot be read"):
        WordList.of(tmp_path)


def test_what_is_listed_is_what_rows_have(world: World):
    listed = json.loads(word_list(world).text())
    things = {thing["name"]: thing for group in listed["things"].values() for thing in group}
    assert things["dog"]["plural"] == "dogs" and "plural" not in things["sun"]
    assert {"white", "red", *GRADIENTS} <= {*listed["backgrounds"]}
    asked = [text for text in listed["questions"] if "colour" in text and "background" not in text]
    assert asked and not any("dog" in text for text in asked), "a dog has one colour"
