"""Rows of pictures with words, each both ways: the words and then the picture, and the picture, a
question, and then the words. So a model that learns to draw new things learns to name them as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from orthus_core.data.document import Document, Place, turn
from orthus_core.data.listing import PassedOver
from orthus_core.data.rows import Rows
from orthus_core.recipe.drawing import CaptionRecipe


@dataclass
class RowsBothWays:
    """The rows of a data set, each followed by its question; `Rows`.

    A row that is no picture with words, such as an edit or a chat, comes as often, unchanged, so
    that kinds of rows keep their shares.

    Attributes:
        rows: The rows.
        drawings: Times that a row is drawn before it is asked about once.
        question: What is asked about a picture: as `orthus caption` does by default.
    """

    rows: Rows
    drawings: int = 1
    question: str = CaptionRecipe().question

    @property
    def where(self) -> str:
        return self.rows.where

    @property
    def identity(self) -> str:
        often = f", drawn {self.drawings} times" if self.drawings > 1 else ""
        return f"{self.rows.identity}, both ways{often}"

    @property
    def passed_over(self) -> list[PassedOver]:
        return self.rows.passed_over

    @property
    def times(self) -> int:
        """Times that each row comes."""
        return self.drawings + 1

    def __len__(self) -> int:
        return self.times * len(self.rows)

    def keys(self) -> np.ndarray:
        # The same key, so that a held-out picture is neither drawn nor asked about.
        return self.rows.keys().repeat(self.times)

    def place(self, number: int) -> Place:
        return self.rows.place(number // self.times)

    def document(self, number: int, visit: int = 0) -> Document:
        row, time = divmod(number, self.times)
        document = self.rows.document(row, visit)
        return asked(document, self.question) if time == self.drawings else document


def asked(document: Document, question: str) -> Document:
    """The question about the picture of a document of one text and one picture, answered by the
    text; other documents as they are.
    """
    kinds = [(segment.role, segment.type) for segment in document.segments]
    if kinds != [("user", "text"), ("model", "image")]:
        return document
    words, picture = (segment.value for segment in document.segments)
    return replace(document, segments=turn("user", picture, question) + turn("model", words))
