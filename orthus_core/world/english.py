"""Just enough English grammar for captions: articles, plurals and lists."""

from __future__ import annotations

# Words for a substance or an activity: they take no article.
UNCOUNTED = frozenset(
    """
    bacon bread broccoli butter candy chocolate clothes coffee confetti construction coral corn
    curry cutlery dango dna falafel fog fondue food garlic honey ice lightning luggage mail maize
    mate meat milk money oden pasta polish popcorn rain ramen rice sake salad salt seafood snow
    soap soda spaghetti sushi tea thread water wine wood yarn
    """.split()
)

# Proper names, which take no article.
PROPER = frozenset(
    """
    aquarius aries cancer capricorn gemini leo libra mount mrs. mx om ophiuchus pisces sagittarius
    santa saturn scorpio taurus virgo zzz
    """.split()
)

# Names of unique things, which take "the": "the sun".
DEFINITE = frozenset(
    {"sun", "statue of liberty", "milky way", "tokyo tower", "eiffel tower", "kaaba"}
)

# Singular words that end in s.
_SINGULAR_ENDS = ("ss", "us", "is")
_SINGULAR = frozenset({"circus", "rhinoceros", "tennis"})
_PLURAL = frozenset({"children", "dice", "feet", "geese", "men", "mice", "people", "skis", "women"})

# Words that follow the head noun, which decides between singular and plural.
_AFTER_HEAD = frozenset(
    "and at behind between facing for from holding in of on over pointing showing to under with "
    "without".split()
)
# Nouns that may be followed by what they do: "a person lifting weights".
_DOERS = frozenset({"face", "man", "men", "people", "person", "woman", "women"})

# Words that begin with a vowel letter but a consonant sound, and the other way round.
_A_DESPITE_VOWEL = ("uni", "use", "eu", "ewe", "ufo", "one", "once", "ukulele", "u-")
_AN_DESPITE_CONSONANT = ("hour", "honest", "heir", "x-ray", "8", "11", "18")
_LETTERS_WITH_AN = frozenset("AEFHILMNORSX")


def with_article(name: str) -> str:
    """A name with its article: "a cat", "an apple", "french fries", "the milky way".

    Args:
        name: Name of a thing, without an article.
    """
    words = name.split()
    if name.lower() in DEFINITE:
        return f"the {name}"
    if words[0].lower() in PROPER or is_plural(name) or head_of(name).lower() in UNCOUNTED:
        return name
    return f"{'an' if _sounds_like_a_vowel(words[0]) else 'a'} {name}"


def the(name: str) -> str:
    """A name with the definite article: "the cat", "the cherries", "santa"."""
    return name if name.split()[0].lower() in PROPER else f"the {name}"


def is_plural(name: str) -> bool:
    """Whether a name is plural: "grapes", "flower playing cards"."""
    head = head_of(name).lower()
    if head in _PLURAL:
        return True
    return head.endswith("s") and not head.endswith(_SINGULAR_ENDS) and head not in _SINGULAR


def head_of(name: str) -> str:
    """The head noun of a name: "ear" of "ear of corn", "fries" of "french fries"."""
    words = name.split()
    for before, word in zip(words, words[1:], strict=False):
        doing = word.endswith("ing") and before.lower() in _DOERS
        if doing or word.lower() in _AFTER_HEAD:
            return before
    return words[-1]


def join_list(items: list[str]) -> str:
    """Items as a list in a sentence: "a man, a woman and a boy"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _sounds_like_a_vowel(word: str) -> bool:
    lower = word.lower()
    if lower.startswith(_AN_DESPITE_CONSONANT):
        return True
    letters = word.strip("!")
    # Abbreviations are read letter by letter ("an SOS button"), unless they are words.
    if letters.isupper() and len(letters) <= 3 and letters not in ("NEW", "UP"):
        return letters[0] in _LETTERS_WITH_AN
    return lower[0] in "aeiou" and not lower.startswith(_A_DESPITE_VOWEL)
