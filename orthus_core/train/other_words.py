"""Held-out pictures with the words of other rows, to measure what words say about a picture.

The image loss of a row has two parts that fall in a training: what pictures look like, and what the
words say about this one. With the words of another row only the first part is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orthus_core.data.document import Document

OWN_WORDS, OTHER_WORDS = "image_own_words", "image_other_words"
"""Names of the image loss of the same pictures, with their own words and with those of others."""


def is_drawn_from_words(document: Document) -> bool:
    """Whether it is a text of the user and one picture of the model, and nothing else."""
    roles = [role for role, _ in document.turns]
    asked = {segment.type for segment in document.user}
    drawn = [segment.type for segment in document.model]
    return roles == ["user", "model"] and asked == {"text"} and drawn == ["image"]


def with_other_words(documents: Sequence[Document]) -> list[Document]:
    """Each document with the user's turn of the next one, of the first for the last. A document
    whose words are equal is passed over, as its words are no others.

    Returns:
        As many documents, in the same order; [] when all have the same words.
    """
    found = []
    for number, own in enumerate(documents):
        following = [*documents[number + 1 :], *documents[:number]]
        other = next((each for each in following if each.user != own.user), None)
        if other is None:
            return []
        found.append(replace(own, segments=other.user + own.model))
    return found
