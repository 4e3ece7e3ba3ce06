"""Emoji in a prompt, read as the names of the things that a model's word list has for them.

    "a 🐶 on a 🏖️"  ->  "a dog on a beach"

Skin tones and variation selectors are ignored. After a preposition, an emoji of a place means the
place. An emoji that the list does not have stays.
"""

from __future__ import annotations

import re

from orthus_core.data.known_words import WordList

_BASE = (
    "[\u2300-\u23ff\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\U0001f000-\U0001f3fa\U0001f400-\U0001faff]"
)
_UNIT = f"(?:{_BASE}|[0-9#*]\ufe0f?\u20e3)[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff]*"
EMOJI = re.compile(f"{_UNIT}(?:\u200d[{chr(0x2640)}{chr(0x2642)}]\ufe0f?|\u200d{_UNIT})*")
_RUN = re.compile(rf"{EMOJI.pattern}(?:\s*{EMOJI.pattern})*")
_IGNORED = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")
# Words before a place: a preposition, which belongs to the phrase for it, or those of an edit.
_BEFORE_PLACE = re.compile(
    r"\b(?:(in|on|at|by|under|during)|(?:the )?background(?: to)?)(?: an?| the)?\s*$", re.I
)
_ARTICLE = re.compile(r"\b(an?)\s*$", re.I)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def names_for_emoji(text: str, words: WordList) -> str:
    """The text with the name of each emoji that the list has in its place."""
    read, rest = "", text
    while found := _RUN.search(rest):
        read += rest[: found.start()]
        run, rest = found.group(), rest[found.end() :]
        place = words.place_emoji.get(_IGNORED.sub("", run))
        before = _BEFORE_PLACE.search(read) if place else None
        if place and before:
            if before[1]:
                read = f"{read[: before.start()]}{place}"
            else:
                read = f"{_ARTICLE.sub('', read).rstrip()} {place.split(maxsplit=1)[-1]}"
            read += " " if rest[:1].isalnum() else ""
            continue
        named = _named(run, words)
        if named is None:
            read += run
            continue
        article = _ARTICLE.search(read)
        if article and named[0].isalpha():
            read = f"{read[: article.start()]}{_article(named, article.group(1))} "
        read += f"{'' if not read or read[-1] in ' (' else ' '}{named}"
        read += " " if rest[:1].isalnum() else ""
    return read + rest


def unknown_emoji(text: str, words: WordList) -> list[str]:
    """The emoji of a text that the list does not have, each once."""
    found = dict.fromkeys(EMOJI.findall(text))
    return [each for each in found if _name(each, words) is None]


def _named(run: str, words: WordList) -> str | None:
    """The words for emoji that follow each other; None if the list lacks one of them."""
    emoji = EMOJI.findall(run)
    names = [_name(each, words) for each in emoji]
    known = [name for name in names if name]
    if len(known) < len(names):
        return None
    if len(known) == 1:
        return known[0]
    # "🐶🐶🐱" is two dogs and a cat.
    counts = {name: known.count(name) for name in known}
    plurals = {thing.name: thing.plural for thing in words.every_thing}
    phrases = [
        f"{_article(name)} {name}"
        if count == 1
        else f"{_NUMBERS[min(count, len(_NUMBERS) - 1)]} {plurals[name] or name}"
        for name, count in counts.items()
    ]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _name(emoji: str, words: WordList) -> str | None:
    plain = _IGNORED.sub("", emoji)
    # A list may lack the variants: without the sign of a gender, as a person of no gender, and
    # without what is joined to it.
    forms = (
        plain,
        re.sub("\u200d[\u2640\u2642]", "", plain),
        re.sub("^[\U0001f468\U0001f469]\u200d", "\U0001f9d1\u200d", plain),
        plain.partition("\u200d")[0],
    )
    for form in forms:
        if thing := words.by_emoji.get(form):
            # Who types the face of an animal means the animal.
            animal = thing.name.removesuffix(" face")
            return animal if animal in words.lists["cast"] else thing.name
    return None


def _article(name: str, before: str = "a") -> str:
    article = "an" if name[0].lower() in "aeiou" and not name.startswith(("uni", "u-")) else "a"
    return article.capitalize() if before[0].isupper() else article
