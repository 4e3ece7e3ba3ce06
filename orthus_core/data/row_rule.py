"""Whether a training can use a row: one rule, for `orthus data check` and for every training.

A row is used when it can be encoded as the model reads it, and holds something that the training
learns: words of the model's or a picture, whichever its loss counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orthus_core.data.document import Document, Segment
from orthus_core.data.encode import EncodedRow
from orthus_core.errors import DataError

if TYPE_CHECKING:
    from orthus_core.recipe.distill_guidance import DistillGuidanceRecipe
    from orthus_core.recipe.distill_head import DistillHeadRecipe
    from orthus_core.recipe.training import (
        BuildBaseRecipe,
        FinetuneVaeRecipe,
        PosttrainRecipe,
        PretrainRecipe,
    )

    TrainingRecipe = (
        PretrainRecipe
        | FinetuneVaeRecipe
        | BuildBaseRecipe
        | PosttrainRecipe
        | DistillGuidanceRecipe
        | DistillHeadRecipe
    )

Encode = Callable[[Document], EncodedRow]

# Unicode's categories of spaces, and of characters that show nothing: controls and formats.
INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf")


@dataclass(frozen=True)
class RowRule:
    """What a training needs of a row; called with a document, it raises an error or returns.

    Attributes:
        encode: Encodes a document as a row; None for trainings that read pictures alone.
        words: Whether the model's words are learned.
        pictures: Which pictures are learned.
    """

    encode: Encode | None = None
    words: bool = True
    pictures: Literal["all", "model's", "none"] = "all"

    @classmethod
    def of(cls, recipe: TrainingRecipe, encode: Encode | None) -> RowRule:
        """The rule of a training.

        Args:
            recipe: Recipe of the training.
            encode: Encodes a document as a row of the model that is trained; None for a model
                without a tokenizer.
        """
        if recipe.command in ("finetune-vae", "build-base"):
            return cls(words=False)
        pictures = "model's" if recipe.data.own_pictures else "all"
        if recipe.command == "pretrain":  # it predicts the codes of pictures as it does words
            return cls(encode, pictures=pictures)
        if recipe.command == "distill head":
            return cls(encode, words=False, pictures="model's")
        image, text = recipe.loss_weights  # type: ignore[union-attr]
        # Further loss terms are computed from a batch's patches.
        draws = image or any((recipe.loss_terms or {}).values())  # type: ignore[union-attr]
        return cls(encode, words=bool(text), pictures=pictures if draws else "none")

    def __call__(self, document: Document) -> None:
        """Check a document.

        Raises:
            DataError: When it cannot be encoded, or holds nothing that the training learns.
        """
        turns = document.turns
        if self.encode is not None:
            turns = turns[: len(turns) - self.encode(document).turns_left_out]
        if not any(self._learns(segment) for _, segments in turns for segment in segments):
            raise DataError(
                self._missing(),
                where=document.id,
                hint="give it words or a picture of the role 'model', or take it out",
            )

    def _learns(self, segment: Segment) -> bool:
        of_model = segment.role == "model"
        if isinstance(segment.value, str):
            return self.words and of_model and has_words(segment.value)
        return self.pictures == "all" or (self.pictures == "model's" and of_model)

    def _missing(self) -> str:
        if not self.words and self.pictures == "all":
            return "there is no picture in it"
        named = ["no words of the model's"] if self.words else []
        if self.pictures != "none":
            named.append("no picture" if self.pictures == "all" else "no picture of the model's")
        reason = " and ".join(named) or "the recipe's losses have no weight"
        return f"there is nothing to learn in it: {reason}"


def has_words(text: str) -> bool:
    """Whether a text shows anything: more than spaces, controls and zero-width characters."""
    return any(unicodedata.category(character) not in INVISIBLE for character in text)
