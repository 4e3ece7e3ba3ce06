"""Encodes a document as token ids and the target of each position.

    text to image   <s> text SEP | [BOI] patches [EOI] </s>
    understanding   <s> [BOI] patches [EOI] question SEP | answer </s>
    edit            <s> [BOI] patches [EOI] instruction SEP | [BOI] patches [EOI] </s>
                    ... SEP | description [BOI] patches [EOI] </s>, if it is described first
    story           <s> the user's texts and pictures SEP | text [BOI] patches [EOI] text ... </s>
    chat            <s> question SEP | answer </s> question SEP | answer </s>

A turn of the user ends with SEP, one of the model with </s>. The slot of each patch contains
`<image>`. The patches are given as features, or as code tokens for a discrete Chameleon. Source:
Chameleon's chat layout (2405.09818), as the released Orthus scripts use it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from orthus_core.data.document import Document, Segment, turn
from orthus_core.data.pictures import Picture
from orthus_core.data.tokenizer import text_ids
from orthus_core.errors import DataError
from orthus_core.model.config import IGNORE
from orthus_core.recipe.drawing import UNCONDITIONAL_PROMPT


class HasTokenIds(Protocol):
    """The part of `OrthusConfig` that encoding needs."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    sep_token_id: int | None
    boi_token_id: int | None
    eoi_token_id: int | None

    @property
    def image_token_id(self) -> int | None: ...


class TokenIds(NamedTuple):
    """The ids of special tokens in rows."""

    bos: int
    eos: int
    pad: int
    sep: int
    boi: int
    eoi: int
    image: int

    @classmethod
    def of(cls, config: HasTokenIds) -> TokenIds:
        """The ids in a model's config.

        Raises:
            DataError: if an id is missing.
        """
        ids = {name: getattr(config, f"{name}_token_id") for name in cls._fields}
        missing = [name for name, token_id in ids.items() if token_id is None]
        if missing:
            raise DataError(
                f"the model names no token id for {', '.join(missing)}",
                where="config.json",
                hint="its vocabulary_map must hold Chameleon's special tokens",
            )
        return cls(**ids)


class EncodedRow(NamedTuple):
    """One row.

    Attributes:
        ids: Token ids [S], with `<image>` in the slot of each patch.
        text_targets: Id of the next token where it is to be predicted, otherwise `IGNORE` [S].
        pictures: Pictures whose patches belong in the slots, in order.
        from_model: For each of them whether it is the model's to draw.
        name: Place or id of the record, for messages.
        turns_left_out: Number of turns at the end of the document that do not fit the context.
        noise_seed: Seed of what a training draws for it; None for a row outside of one.
    """

    ids: list[int]
    text_targets: list[int]
    pictures: tuple[Picture, ...]
    from_model: tuple[bool, ...] = ()
    name: str = ""
    turns_left_out: int = 0
    noise_seed: int | None = None

    @property
    def cut(self) -> bool:
        """Whether the row ends before its document does."""
        return self.turns_left_out > 0


def encode(
    document: Document,
    tokenizer: PreTrainedTokenizerBase,
    ids: TokenIds,
    patches: int,
    *,
    train_on: Literal["model", "all"] = "model",
    longest: int | None = None,
) -> EncodedRow:
    """Encodes a document as one row.

    A row longer than the context ends after the last turn of the model that fits.

    Args:
        document: Document to encode.
        tokenizer: Tokenizer of the model.
        ids: Token ids of the model.
        patches: Number of slots P of a picture.
        train_on: "all" predicts the user's text as well. Pictures are targets in both cases.
        longest: Length of the model's context; None does not check it.

    Raises:
        DataError: if the first turn of the model does not fit the context, or the tokenizer cannot
            read a text.
    """
    row, predicted = [ids.bos], [False]
    pictures: list[Picture] = []
    from_model: list[bool] = []
    answers: list[_End] = []

    for number, (role, segments) in enumerate(document.turns, start=1):
        of_model = role == "model"
        for segment in segments:
            row += _segment_ids(segment, tokenizer, ids, patches, pictures)
        row.append(ids.eos if of_model else ids.sep)
        predicted += [of_model or train_on == "all"] * (len(row) - len(predicted))
        from_model += [of_model] * (len(pictures) - len(from_model))
        if of_model:
            answers.append(_End(number, len(row), len(pictures)))

    turns_left_out = 0
    if longest is not None and len(row) > longest:
        fits = [end for end in answers if end.positions <= longest]
        if not fits:
            several = len(document.turns) > answers[0].turns if answers else False
            first = f"its first exchange {answers[0].positions}, " if several else ""
            raise DataError(
                f"the row has {len(row)} positions, {first}the context {longest}",
                where=document.id,
                hint="use shorter texts or fewer pictures a row",
            )
        turns_left_out = len(document.turns) - fits[-1].turns
        del row[fits[-1].positions :], predicted[fits[-1].positions :]
        del pictures[fits[-1].pictures :], from_model[fits[-1].pictures :]

    follows = [*zip(row[1:], predicted[1:], strict=True), (ids.image, False)]
    targets = [token if wanted and token != ids.image else IGNORE for token, wanted in follows]
    name = str(document.place or document.id)
    return EncodedRow(row, targets, tuple(pictures), tuple(from_model), name, turns_left_out)


def drop_condition(
    document: Document,
    rng: random.Random,
    chance: float,
    *,
    unconditional: str = UNCONDITIONAL_PROMPT,
) -> Document:
    """Drops the condition at random, to train for classifier-free guidance (2207.12598).

    Text to image: with probability `chance`, the caption is replaced by the unconditional prompt.
    Edit: with probability `chance` each, the instruction, the picture or both are dropped
    (2211.09800); if both are, the unconditional prompt replaces them. With the instruction, the
    text that the model writes before its picture is dropped. Documents in which the model's turn
    has no picture, several pictures, or text after its picture are not changed, nor are chats of
    several turns.

    Args:
        document: Document to change.
        rng: Random numbers.
        chance: Probability of each kind of dropout.
        unconditional: Unconditional prompt.
    """
    if [role for role, _ in document.turns] != ["user", "model"]:
        return document
    user, model = document.user, document.model
    shown = [segment.type == "image" for segment in model]
    if sum(shown) != 1 or not shown[-1]:
        return document
    uniform = rng.random()
    pictures = tuple(segment for segment in user if segment.type == "image")
    texts = tuple(segment for segment in user if segment.type == "text")
    if not pictures:
        kept = turn("user", unconditional) + model[-1:] if uniform < chance else user + model
    elif uniform < chance:
        kept = pictures + model[-1:]
    elif uniform < 2 * chance:
        kept = texts + model
    elif uniform < 3 * chance:
        kept = turn("user", unconditional) + model[-1:]
    else:
        kept = user + model
    return replace(document, segments=kept)


class _End(NamedTuple):
    """The end of a model's turn: the numbers of turns, positions and pictures up to it."""

    turns: int
    positions: int
    pictures: int


def _segment_ids(
    segment: Segment,
    tokenizer: PreTrainedTokenizerBase,
    ids: TokenIds,
    patches: int,
    pictures: list[Picture],
) -> list[int]:
    if isinstance(segment.value, str):
        return _ids_of_text(segment.value, tokenizer, ids)
    pictures.append(segment.value)
    return [ids.boi, *[ids.image] * patches, ids.eoi]


def _ids_of_text(text: str, tokenizer: PreTrainedTokenizerBase, ids: TokenIds) -> list[int]:
    try:
        found = text_ids(tokenizer, text)
    except Exception as error:  # tokenizers raises plain exceptions
        raise DataError(f"the tokenizer cannot read the text {text[:40]!r}: {error}") from error
    # Our tokenizers read such a text letter by letter; one that does not would break the row.
    if special := set(ids).intersection(found):
        name = tokenizer.convert_ids_to_tokens(min(special))
        raise DataError(
            f"the tokenizer reads {name!r} in the text as a special token",
            hint="write it in another way",
        )
    return found
