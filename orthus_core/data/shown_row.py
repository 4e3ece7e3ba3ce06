"""A row as a training sees it, for people: its texts with the special tokens, its pictures, and
which of them are learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from orthus_core.data.document import Document, Role
from orthus_core.data.encode import EncodedRow, TokenIds
from orthus_core.data.pictures import FilePicture, Picture
from orthus_core.data.row_rule import RowRule
from orthus_core.errors import DataError
from orthus_core.model.config import IGNORE

# How the tokens of `TokenIds` are shown; <image> is shown as the picture.
MARKS = {"bos": "<s>", "eos": "</s>", "sep": "SEP", "boi": "[BOI]", "eoi": "[EOI]"}


class RowPart(NamedTuple):
    """A piece of a row.

    Attributes:
        kind: A text, a special token, or a picture.
        role: Whose turn it is in.
        text: Text as the model reads it, the token's name, or what names the picture.
        learnt: Whether the training's losses count it.
        cut: Whether it is left out, for the row is longer than the context.
        picture: The picture.
    """

    kind: Literal["text", "special", "picture"]
    role: Role
    text: str
    learnt: bool = False
    cut: bool = False
    picture: Picture | None = None

    def record(self) -> dict[str, Any]:
        """The part as JSON can hold it."""
        names = ("kind", "role", "text", "learnt", "cut")
        return {name: getattr(self, name) for name in names}


class ShownRow(NamedTuple):
    """A row of a data set, as a training sees it.

    Attributes:
        name: Place or id of the record.
        source: Name of its data set.
        parts: What it consists of, in order.
        positions: Its length in tokens and patches; 0 if it cannot be encoded.
        problem: Why the training leaves it out; "" if it does not.
    """

    name: str
    source: str
    parts: tuple[RowPart, ...]
    positions: int = 0
    problem: str = ""

    @property
    def cut(self) -> bool:
        """Whether the row ends before its document does."""
        return any(part.cut for part in self.parts)

    def record(self) -> dict[str, Any]:
        """The row as JSON can hold it."""
        return {
            "name": self.name,
            "source": self.source,
            "positions": self.positions,
            "cut": self.cut,
            "problem": self.problem or None,
            "segments": [part.record() for part in self.parts],
        }


def shown_row(
    document: Document, rule: RowRule, tokenizer: PreTrainedTokenizerBase, ids: TokenIds
) -> ShownRow:
    """The row of a document.

    Args:
        document: The document.
        rule: What the training learns, and how it encodes a document.
        tokenizer: Tokenizer of the model.
        ids: Token ids of the model.
    """
    name = str(document.place or document.id)
    unread = tuple(_unread(document, len(document.turns)))
    if rule.encode is None:  # it reads pictures alone
        learnt = [part._replace(learnt=part.kind == "picture") for part in unread]
        shown = ShownRow(name, document.source, tuple(learnt))
    else:
        try:
            row = rule.encode(document)
        except DataError as error:
            return ShownRow(name, document.source, unread, problem=error.message)
        rest = _unread(document, row.turns_left_out)
        parts = (
            *_parts(document, row, rule, tokenizer, ids),
            *(p._replace(cut=True) for p in rest),
        )
        shown = ShownRow(name, document.source, parts, len(row.ids))
    try:
        rule(document)
    except DataError as error:
        return shown._replace(problem=error.message)
    return shown


def _parts(
    document: Document,
    row: EncodedRow,
    rule: RowRule,
    tokenizer: PreTrainedTokenizerBase,
    ids: TokenIds,
) -> Iterator[RowPart]:
    """The parts of an encoded row, read from its tokens and targets."""
    marks = {getattr(ids, name): mark for name, mark in MARKS.items()}
    roles: list[Role] = [turn.role for turn in document.turns]
    role = roles[0]
    pictures = iter(zip(row.pictures, row.from_model, strict=True))
    learnt_at = [False, *(rule.words and target != IGNORE for target in row.text_targets)]
    run: list[int] = []
    for at, token in enumerate(row.ids):
        if token not in marks and token != ids.image:
            run.append(token)
            following = row.ids[at + 1] if at + 1 < len(row.ids) else ids.eos
            if following in marks or following == ids.image or learnt_at[at + 1] != learnt_at[at]:
                yield RowPart("text", role, str(tokenizer.decode(run)).strip(), learnt_at[at])
                run = []
        elif token in marks:
            yield RowPart("special", role, marks[token], learnt_at[at])
            if token in (ids.sep, ids.eos):
                roles = roles[1:] or roles
                role = roles[0]
        elif row.ids[at - 1] == ids.boi:
            picture, from_model = next(pictures)
            learnt = rule.pictures == "all" or (rule.pictures == "model's" and from_model)
            yield RowPart("picture", role, _name_of(picture), learnt, picture=picture)


def _unread(document: Document, turns: int) -> Iterator[RowPart]:
    """The last turns of a document as they are written, without special tokens."""
    for role, segments in document.turns[len(document.turns) - turns :]:
        for segment in segments:
            if isinstance(segment.value, str):
                yield RowPart("text", role, segment.value)
            else:
                name = _name_of(segment.value)
                yield RowPart("picture", role, name, picture=segment.value)


def _name_of(picture: Picture) -> str:
    if isinstance(picture, FilePicture):
        return str(picture.path)
    return picture.key[:16]  # a kind of picture and the begin of a hash
