"""The words that a model was trained on, and the most similar of them to an unknown word.

A model's folder may contain `vocabulary.txt`: one word or phrase in each line, sorted. A small
model draws something for any word, so a user who types "snwoman" should learn that it knows
"snowman".

A word consists of letters only. Numbers and single letters are ignored, and "dark-skinned" is two
words.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from orthus_core.errors import DataError

VOCABULARY = "vocabulary.txt"
_LARGEST_POINTER = 1024  # bytes of a Git LFS pointer, by its specification

# Letters of any alphabet.
_WORD = re.compile(r"[^\W\d_]+")
# Minimum similarity of a suggested word, from 0 to 1. It is 0.8 for "tigre" and "tiger", and 0.57
# for "foks" and "fox", which is too little for a suggestion.
ALIKE = 0.7

# Words for relations, quantities and requests, rather than for things.
STOP_WORDS = frozenset(
    """
    a about above after again against all along also am among an and another any are around as at be
    because been before behind being below beneath beside besides between both but by can could did
    do does doing down draw drawing during each eight either else every few five for four from
    further generate get give had has have having he her here hers herself him himself his how i if
    image in inside instead into is it its itself just let like make many may me more most much must
    my near nine no nor not of off on once one only onto or other our out outside over own paint
    painting photo picture please same seven shall she should show six so some such ten than that
    the their them then there these they this those three through to together too toward towards two
    under until up upon us very was we were what when where which while who whom whose why will with
    within without would you your yours
    """.split()
)


class UnknownWord(NamedTuple):
    """A word that the model does not know.

    Attributes:
        word: Unknown word.
        nearest: Most similar known word or phrase, if any is similar enough.
    """

    word: str
    nearest: str | None

    def __str__(self) -> str:
        said = f'"{self.word}" is not among the words this model knows'
        return said + (f'; did you mean "{self.nearest}"?' if self.nearest else "")


class KnownWords:
    """The words and phrases of a model.

    Args:
        phrases: Known phrases of one or more words; every word in them is known as well.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        kept = {_normalise(phrase) for phrase in phrases}
        self.words = {word for phrase in kept for word in words_of(phrase)}
        self._named = sorted((kept | self.words) - {""})

    @classmethod
    def of(cls, folder: Path) -> KnownWords | None:
        """The words of a model's folder; None if it has no vocabulary.

        Raises:
            DataError: When the file is a pointer to one that was not fetched.
        """
        file = folder / VOCABULARY
        if not file.is_file():
            return None
        return cls(_text(file).split("\n"))

    def unknown(self, text: str) -> list[UnknownWord]:
        """The unknown words of a text, each once, in the order of the text."""
        asked = dict.fromkeys(words_of(text))
        return [
            UnknownWord(word, self._nearest(word))
            for word in asked
            if word not in self.words and word not in STOP_WORDS
        ]

    def _nearest(self, word: str) -> str | None:
        close = difflib.get_close_matches(word, self._named, n=1, cutoff=ALIKE)
        return close[0] if close else None


def _text(file: Path) -> str:
    content = file.read_bytes()
    # The imports are for rare files, as each drawing passes here.
    if len(content) < _LARGEST_POINTER:
        from orthus_core.wrong_content import wrong_content

        if content and (wrong := wrong_content(content)):
            raise DataError(f"this is {wrong.what}", where=str(file), hint=wrong.hint)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        from orthus_core.user_files import text_of

        with suppress(ValueError):
            return text_of(content)
        return content.decode("utf-8-sig", errors="replace")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case: `words_of("3 Snow-men!") == ["snow", "men"]`."""
    return [word for word in _WORD.findall(_normalise(text)) if len(word) > 1]


def _normalise(text: str) -> str:
    """The text in lower case, as in a small model's tokenizer, and with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def vocabulary_of(texts: Iterable[str], phrases: Iterable[str] = ()) -> str:
    """The content of `vocabulary.txt` for a model that was trained on these texts.

    Args:
        texts: All texts of the training; their words are listed.
        phrases: Phrases to list as a whole as well, so that "icecream" finds "ice cream".
    """
    listed = {word for text in texts for word in words_of(text)}
    listed |= {_normalise(phrase) for phrase in phrases}
    return "".join(f"{phrase}\n" for phrase in sorted(listed - {""}))
