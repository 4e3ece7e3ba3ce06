"""From a document to the ids of one row, and what each position is to predict.

    text to image   <s> text SEP | [BOI] patches [EOI] </s>
    understanding   <s> [BOI] patches [EOI] question SEP | answer </s>
    edit            <s> [BOI] patches [EOI] instruction SEP | [BOI] patches [EOI] </s>
                    ... SEP | what it will show [BOI] patches [EOI] </s>, said first
    story           <s> the user's texts and pictures SEP | text [BOI] patches [EOI] text ... </s>

Everything after SEP is the model's. `<image>` stands in each patch's slot; the patches themselves
are features, or for a discrete Chameleon code tokens. Source: Chameleon's chat layout (2405.09818)
as the released Orthus scripts use it.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from orthus_core.data.document import Document, Segment, says
from orthus_core.data.pictures import Picture
from orthus_core.data.tokenizer import text_ids
from orthus_core.errors import DataError
from orthus_core.model.config import IGNORE
from orthus_core.recipe.drawing import UNCONDITIONAL_PROMPT


class HasTokenIds(Protocol):
    """The part of `OrthusConfig` that rows are made of."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    sep_token_id: int | None
    boi_token_id: int | None
    eoi_token_id: int | None

    @property
    def image_token_id(self) -> int | None: ...


class TokenIds(NamedTuple):
    """The ids that rows are built of, besides text."""

    bos: int
    eos: int
    pad: int
    sep: int
    boi: int
    eoi: int
    image: int

    @classmethod
    def of(cls, config: HasTokenIds) -> TokenIds:
        """The ids a model's config names. Raises: DataError when one is missing."""
        ids = {name: getattr(config, f"{name}_token_id") for name in cls._fields}
        missing = [name for name, token_id in ids.items() if token_id is None]
        if missing:
            raise DataError(
                f"the model names no token id for {', '.join(missing)}",
                where="config.json",
                hint="its vocabulary_map must hold Chameleon's special tokens",
            )
        return cls(**ids)


class Encoded(NamedTuple):
    """One row.

    Attributes:
        ids: Token ids [S], `<image>` in each patch's slot.
        text_targets: [S]; the id that follows where a token is to be predicted, else `IGNORE`.
        pictures: Those whose patches fill the slots, in order.
        drawn: For each of them whether it is the model's to draw.
    """

    ids: list[int]
    text_targets: list[int]
    pictures: tuple[Picture, ...]
    drawn: tuple[bool, ...] = ()


def encode(
    document: Document,
    tokenizer: PreTrainedTokenizerBase,
    ids: TokenIds,
    patches: int,
    *,
    train_on: Literal["model", "all"] = "model",
    longest: int | None = None,
) -> Encoded:
    """A document as one row.

    Args:
        document: Texts and pictures in order.
        tokenizer: Of the model.
        ids: Of the model.
        patches: P, the slots of one picture.
        train_on: Whether the user's text is predicted too. Pictures are targets either way.
        longest: The model's context.

    Raises:
        DataError: if the row does not fit the context.
    """
    row, predicted = [ids.bos], [False]
    pictures: list[Picture] = []

    def add(new: list[int], of_model: bool) -> None:
        row.extend(new)
        predicted.extend([of_model or train_on == "all"] * len(new))

    for segment in document.user:
        add(_segment_ids(segment, tokenizer, ids, patches, pictures), of_model=False)
    if document.user:
        add([ids.sep], of_model=False)
    for segment in document.model:
        add(_segment_ids(segment, tokenizer, ids, patches, pictures), of_model=True)
    if document.model:
        add([ids.eos], of_model=True)

    if longest is not None and len(row) > longest:
        raise DataError(
            f"the row has {len(row)} positions, the context {longest}",
            where=document.id,
            hint="use shorter texts or fewer pictures a row",
        )
    follows = [*zip(row[1:], predicted[1:], strict=True), (ids.image, False)]
    targets = [token if wanted and token != ids.image else IGNORE for token, wanted in follows]
    drawn = tuple(s.role == "model" for s in document.segments if s.type == "image")
    return Encoded(row, targets, tuple(pictures), drawn)


def drop_condition(
    document: Document,
    rng: random.Random,
    chance: float,
    *,
    unconditional: str = UNCONDITIONAL_PROMPT,
) -> Document:
    """The document, sometimes without what guidance will need to be dropped (2207.12598).

    Text to image: the caption becomes the unconditional prompt with `chance`. Edit: the
    instruction, the picture, or both are dropped with `chance` each (2211.09800); without both the
    unconditional prompt is left. What the model says before its picture goes with the words that
    are dropped. Other documents stay as they are: those of several pictures or none, and those
    that do not end with theirs.
    """
    user, model = document.user, document.model
    shown = [segment.type == "image" for segment in model]
    if not user or sum(shown) != 1 or not shown[-1]:
        return document
    drawn = rng.random()
    pictures = tuple(segment for segment in user if segment.type == "image")
    texts = tuple(segment for segment in user if segment.type == "text")
    if not pictures:
        kept = says("user", unconditional) + model[-1:] if drawn < chance else user + model
    elif drawn < chance:
        kept = pictures + model[-1:]
    elif drawn < 2 * chance:
        kept = texts + model
    elif drawn < 3 * chance:
        kept = says("user", unconditional) + model[-1:]
    else:
        kept = user + model
    return Document(kept, document.id, document.source)


def _segment_ids(
    segment: Segment,
    tokenizer: PreTrainedTokenizerBase,
    ids: TokenIds,
    patches: int,
    pictures: list[Picture],
) -> list[int]:
    if isinstance(segment.value, str):
        return text_ids(tokenizer, segment.value)
    pictures.append(segment.value)
    return [ids.boi, *[ids.image] * patches, ids.eoi]
