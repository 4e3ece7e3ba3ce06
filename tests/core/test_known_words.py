"""Words a model was trained on: which of a prompt's are none of them, and what was meant."""

from __future__ import annotations

import pytest

from orthus_core.data.known_words import KnownWords, vocabulary_of, words_of

KNOWN = KnownWords(["snowman", "ice cream", "tiger", "red", "fox", "café", "dark-skinned farmer"])


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("snwoman", "snowman"),
        ("Snowmen", "snowman"),
        ("icecream", "ice cream"),
        ("tigre", "tiger"),
        ("cafe", "café"),
        ("zeppelin", None),
        ("雪だるま", None),
    ],
)
def test_an_unknown_word_is_told_with_the_nearest_known_one(word, nearest):
    (unknown,) = KNOWN.unknown(f"a {word} in the red fox")
    assert (unknown.word, unknown.nearest) == (word.lower(), nearest)


def test_what_is_said_names_both_words():
    assert [str(unknown) for unknown in KNOWN.unknown("a snwoman")] == [
        '"snwoman" is not among the words this model knows; did you mean "snowman"?'
    ]
    assert str(KNOWN.unknown("a zeppelin")[0]) == (
        '"zeppelin" is not among the words this model knows'
    )


@pytest.mark.parametrize(
    "text",
    [
        "a red FOX",
        "ice and cream",
        "3 fox x 1/2",
        "two tiger",
        "a farmer, dark skinned",
        "cafe\N{COMBINING ACUTE ACCENT}",
        "...",
        "",
    ],
)
def test_known_words_numbers_and_little_words_are_passed_over(text):
    assert KNOWN.unknown(text) == []


def test_a_word_is_told_once_and_in_order():
    told = [unknown.word for unknown in KNOWN.unknown("zebra owl, Zebra and owl")]
    assert told == ["zebra", "owl"]


def test_a_vocabulary_is_the_words_of_the_texts_and_the_phrases_sorted(tmp_path):
    text = vocabulary_of(["A red fox, 3 foxes!", "the red\nfox's den"], ["Ice  Cream", "fox"])
    assert text == "den\nfox\nfoxes\nice cream\nred\nthe\n"
    (tmp_path / "vocabulary.txt").write_text(text, encoding="utf-8")
    known = KnownWords.of(tmp_path)
    assert known is not None and known.unknown("the red fox ate ice cream")[0].word == "ate"


def test_a_folder_that_says_nothing_has_no_known_words(tmp_path):
    assert KnownWords.of(tmp_path) is None


def test_words_are_letters_only():
    assert words_of("3 Snow-men! naïve x") == ["snow", "men", "naïve"]
