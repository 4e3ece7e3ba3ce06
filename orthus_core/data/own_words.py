"""The words of a model after a training on further captions: those it knew, and the captions'."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orthus_core.data.known_words import VOCABULARY, WORDS, KnownWords, WordList, vocabulary_of

# The most captions that are listed, in the order of the data; the words of all are known.
MOST_CAPTIONS = 1000


def extended_words(folder: Path, texts: Iterable[str], captions: Iterable[str]) -> dict[str, str]:
    """`vocabulary.txt` and `words.json` of a model that was trained further; {} for a model without
    a vocabulary, which lists no words.

    Args:
        folder: Folder of the model that the training began with.
        texts: Texts of the training's data.
        captions: Those of them that a picture was drawn for.

    Raises:
        DataError: When a file of the folder is damaged.
    """
    known = KnownWords.of(folder)
    if known is None:
        return {}
    files = {VOCABULARY: vocabulary_of(texts, known.phrases)}
    if listed := WordList.of(folder):
        every = dict.fromkeys([*listed.lists["captions"], *captions])
        listed.lists["captions"] = [*every][:MOST_CAPTIONS]
        files[WORDS] = listed.text()
    return files
