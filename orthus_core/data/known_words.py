"""The words that a model was trained on, and which of them an unknown word probably means.

A model's folder may contain `vocabulary.txt`: one word or phrase in each line, sorted. A small
model draws something for any word, so a user who types "snwoman" should learn that it knows
"snowman".

It may also contain `words.json`, what can be asked for: the things that the model draws by group,
colours, places, edits. Training on the small world writes it; `orthus info MODEL --words` shows it,
and emoji and what a word probably means are looked up in it.

A word consists of letters only. Numbers and single letters are ignored, and "dark-skinned" is two
words.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError

VOCABULARY = "vocabulary.txt"
WORDS = "words.json"

_NEXT = ",\n"
# Lists of words or phrases; the tables hold such lists by meaning.
LISTS = ("cast", "colours", "backgrounds", "counts", "styles", "edits", "questions", "phrases")
LISTS += ("captions",)  # of pictures beside the small world's; most models have none
TABLES = ("relations", "places", "times")

_LARGEST_POINTER = 1024  # bytes of a Git LFS pointer, by its specification

# Letters of any alphabet.
_TOKEN = re.compile(r"[\w'-]+")
_WORD = re.compile(r"[^\W\d_]+")
_PIECE = re.compile(r"[\w'-]+|[.,;:!?]")
# Words of the shortest text that relates two things: "dog near cat".
LEAST_RELATED = 3
# Things in a picture of a model that does not say how many it draws.
MOST_THINGS = 4
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve dozen".split()

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


class ListedThing(NamedTuple):
    """A thing that a model draws.

    Attributes:
        name: Name, without an article.
        emoji: Emoji of the thing, without variation selectors; "" if there is none.
        also: Other names.
        plural: Plural of the name; "" for things that are drawn alone.
        tags: Words that lead to it, though they are no name of it.
        other_emoji: Emoji that mean the same thing, such as the face of an animal.
    """

    name: str
    emoji: str = ""
    also: tuple[str, ...] = ()
    plural: str = ""
    tags: tuple[str, ...] = ()
    other_emoji: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, and the plural."""
        return (self.name, *self.also, *([self.plural] if self.plural else []))


class WordList:
    """The content of `words.json`.

    Args:
        content: JSON object of the file.

    Attributes:
        things: Things by group.
        lists: Words and phrases by the names of `LISTS`.
        tables: Phrases by the names of `TABLES`, then by meaning; the first one is the usual one.
        place_emoji: Phrases for places and times of day, by emoji.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.things = {
            group: [_thing(each) for each in things] for group, things in content["things"].items()
        }
        self.lists = {name: list(map(str, content.get(name, ()))) for name in LISTS}
        self.tables: dict[str, dict[str, list[str]]] = {
            name: {key: list(map(str, words)) for key, words in content.get(name, {}).items()}
            for name in TABLES
        }
        self.place_emoji = {str(e): str(word) for e, word in content.get("place_emoji", {}).items()}

    @classmethod
    def of(cls, folder: Path) -> WordList | None:
        """The words of a model's folder; None if it lists none.

        Raises:
            DataError: When the file is damaged.
        """
        file = folder / WORDS
        if not file.is_file():
            return None
        try:
            return cls(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"this list of a model's words cannot be read: {error!r}",
                where=str(file),
                hint="fetch the model's folder again, or remove this file: the model draws "
                "without it",
            ) from error

    @cached_property
    def every_thing(self) -> list[ListedThing]:
        """The things of all groups."""
        return [thing for things in self.things.values() for thing in things]

    @cached_property
    def by_emoji(self) -> dict[str, ListedThing]:
        """Things by emoji; where several have one, the thing that is named by it comes first."""
        others = {other: thing for thing in self.every_thing for other in thing.other_emoji}
        return others | {thing.emoji: thing for thing in self.every_thing if thing.emoji}

    @cached_property
    def by_tag(self) -> dict[str, list[str]]:
        """Names of things by tag; those of the cast first."""
        cast, found = set(self.lists["cast"]), dict[str, list[str]]()
        for thing in sorted(self.every_thing, key=lambda each: each.name not in cast):
            for tag in thing.tags:
                found.setdefault(tag, []).append(thing.name)
        return found

    @cached_property
    def phrases(self) -> list[str]:
        """Everything that can be asked for, as phrases, without tags."""
        named = [name for thing in self.every_thing for name in thing.names]
        listed = [phrase for phrases in self.lists.values() for phrase in phrases]
        tabled = [p for table in self.tables.values() for words in table.values() for p in words]
        return [*named, *listed, *tabled]

    def record(self) -> dict[str, Any]:
        """The content as JSON can hold it."""
        things = {
            group: [
                {k: v for k, v in each._asdict().items() if v or k == "name"} for each in listed
            ]
            for group, listed in self.things.items()
        }
        lists = {name: words for name, words in self.lists.items() if words or name != "captions"}
        return {"things": things, **lists, **self.tables, "place_emoji": self.place_emoji}

    def text(self) -> str:
        """The content of `words.json`: a line for each thing and each list."""
        groups = ",\n".join(
            f"{_json(group)}: [\n{_NEXT.join(map(_json, things))}\n]"
            for group, things in self.record()["things"].items()
        )
        rest = {name: value for name, value in self.record().items() if name != "things"}
        lines = [f"{_json(name)}: {_json(value)}" for name, value in rest.items()]
        return f'{{\n"things": {{\n{groups}\n}},\n{_NEXT.join(lines)}\n}}\n'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _thing(entry: Mapping[str, Any]) -> ListedThing:
    return ListedThing(
        str(entry["name"]),
        str(entry.get("emoji", "")),
        tuple(map(str, entry.get("also", ()))),
        str(entry.get("plural", "")),
        tuple(map(str, entry.get("tags", ()))),
        tuple(map(str, entry.get("other_emoji", ()))),
    )


class UnknownWord(NamedTuple):
    """A word that the model does not know.

    Attributes:
        word: Unknown word.
        nearest: Known word or phrase that it probably means, if there is one.
        seen: Whether it was seen in training, though it is no thing that the model draws.
    """

    word: str
    nearest: str | None
    seen: bool = False

    def __str__(self) -> str:
        said = f'"{self.word}" is not among the words this model knows'
        if self.seen:
            said = f'"{self.word}" is nothing that this model draws'
        return said + (f'; did you mean "{self.nearest}"?' if self.nearest else "")


class KnownWords:
    """The words and phrases of a model.

    Args:
        phrases: Known phrases of one or more words; every word in them is known as well.
        folder: Model's folder, which may list what can be asked for.
    """

    def __init__(self, phrases: Iterable[str], folder: Path | None = None) -> None:
        self._folder = folder
        self.phrases = {_normalise(phrase) for phrase in phrases} - {""}
        self.words = {word for phrase in self.phrases for word in words_of(phrase)}
        self._named = sorted(self.phrases | self.words)

    @classmethod
    def of(cls, folder: Path) -> KnownWords | None:
        """The words of a model's folder; None if it has no vocabulary.

        Raises:
            DataError: When the file is a pointer to one that was not fetched.
        """
        file = folder / VOCABULARY
        if not file.is_file():
            return None
        return cls(_text(file).split("\n"), folder)

    @cached_property
    def listed(self) -> WordList | None:
        """What can be asked for; None if the folder does not list it.

        Raises:
            DataError: When the list is damaged.
        """
        return WordList.of(self._folder) if self._folder else None

    def read(self, text: str) -> str:
        """The text as the model reads it: with the names of its emoji, if the folder lists them."""
        if text.isascii() or not self.listed:
            return text
        from orthus_core.data.emoji_words import names_for_emoji

        return names_for_emoji(text, self.listed)

    def unknown(self, text: str) -> list[UnknownWord]:
        """The unknown words of a text, each once, in the order of the text."""
        asked = dict.fromkeys(words_of(text))
        unknown = self._other_wordings(text, asked)
        hinted = {word for each in unknown for word in words_of(each.word)}
        unknown += [
            UnknownWord(word, self._nearest(word))
            for word in asked
            if word not in self.words and word not in STOP_WORDS and word not in hinted
        ]
        unknown += self._not_drawn(word for word in asked if word not in hinted)
        if not text.isascii() and self.listed:
            from orthus_core.data.emoji_words import unknown_emoji

            unknown += [UnknownWord(emoji, None) for emoji in unknown_emoji(text, self.listed)]
        return unknown

    def _other_wordings(self, text: str, words: Collection[str]) -> list[UnknownWord]:
        """Wordings of relations and places for which the list has others."""
        if not self.listed or len(words) < LEAST_RELATED:
            return []
        # The import is for longer prompts alone.
        from orthus_core.data.similar_words import places_meant, relations_meant

        tables, text = self.listed.tables, " ".join(_PIECE.findall(_normalise(text)))
        things = {name.lower() for thing in self.listed.every_thing for name in thing.names}
        looks = {*self.listed.lists["colours"], *self.listed.lists["counts"]}
        places = [each for phrases in tables["places"].values() for each in phrases]
        found = [
            *relations_meant(text, tables["relations"], things, looks),
            *places_meant(text, places),
        ]
        return [UnknownWord(wording, known) for wording, known in found]

    def _not_drawn(self, words: Iterable[str]) -> Iterator[UnknownWord]:
        """Words that were seen in training, such as a tag, but mean something else in the list."""
        named = self._listed_words | STOP_WORDS
        seen = [word for word in words if word in self.words and word not in named]
        if not self.listed or not seen:
            return
        # The import is for rare prompts alone.
        from orthus_core.data.similar_words import by_meaning

        for word in seen:
            if meant := by_meaning(word, self._listed_phrases):
                yield UnknownWord(word, meant, seen=True)

    @cached_property
    def _listed_phrases(self) -> set[str]:
        return {_normalise(phrase) for phrase in (self.listed.phrases if self.listed else ())} | (
            self._listed_words
        )

    @cached_property
    def _nameable(self) -> set[str]:
        """What may be named in place of an unknown word."""
        return {name for name in self._named if name not in STOP_WORDS} | self._listed_phrases

    @cached_property
    def _listed_words(self) -> set[str]:
        phrases = self.listed.phrases if self.listed else ()
        return {word for phrase in phrases for word in words_of(phrase)}

    def exceeds(self, text: str) -> bool:
        """Whether a prompt asks for more things than one picture shows, or for an action that is no
        part of a thing's name; False if the folder does not list what can be asked for.
        """
        if not self.listed:
            return False
        rest = f" {' '.join(_TOKEN.findall(_normalise(text)))} "
        things = 0
        names = {name for thing in self.listed.every_thing for name in thing.names}
        for name in sorted(names, key=len, reverse=True):
            while (at := rest.find(f" {name} ")) >= 0:
                things += _number(rest[:at].rsplit(" ", 1)[-1]) or 1
                rest = f"{rest[:at]} . {rest[at + len(name) + 2 :]}"
        # A number may belong to a word in the plural that no list has: "seven things".
        most = max(things, *(_number(word) or 0 for word in rest.split()), 0)
        named = self._listed_words | STOP_WORDS
        doing = [word for word in words_of(rest) if word.endswith("ing") and word not in named]
        return most > (len(self.listed.lists["counts"]) or MOST_THINGS) or bool(doing)

    def _nearest(self, word: str) -> str | None:
        # The import is for mistyped prompts alone.
        from orthus_core.data.similar_words import by_meaning, by_spelling

        first = self._listed_phrases
        if meant := by_meaning(word, self._nameable):
            return meant
        if word in self._listed_words:  # it is spelled well: part of a name, "next track button"
            return None
        if near := by_spelling(word, self._nameable, first):
            return near
        tagged = self.listed.by_tag.get(word) if self.listed else None
        return tagged[0] if tagged else None


def _number(word: str) -> int | None:
    if word.isdecimal() and len(word) < 4:
        return int(word)
    return _NUMBERS.index(word) + 1 if word in _NUMBERS else None


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
