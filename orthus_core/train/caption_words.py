"""What a training takes from the captions of its data sets: words that its model knows afterwards,
and words that its samples are drawn for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from orthus_core.data.document import Document
from orthus_core.data.own_words import extended_words
from orthus_core.data.sources import ShuffledRows
from orthus_core.train.batches import RowSources
from orthus_core.train.sample_grid import WORDS

Rule = Callable[[Document], object]
"""Raises an error for a document that a training cannot use (`Mixture.rule`)."""

# Rows of each data set whose texts are read for the list of words.
READ = 20_000
# Pictures of a sample grid that are drawn for captions of the data sets, and how many captions of
# each set they are chosen from.
OWN_SAMPLES, LOOKED_AT = 8, 200


def sample_words(rows: RowSources) -> tuple[str, ...]:
    """The phrases of a training's samples: captions of its data sets that it can use, and some of
    the small world's words to see what is forgotten; these words alone where all rows are made.
    """
    found = [
        words
        for part in rows.train.data_sets
        for words in islice(_captions_of(part, rows.train.rule), LOOKED_AT)
    ]
    count = min(OWN_SAMPLES, len(found))
    # Neighbours in a folder often show the same thing.
    own = [found[place * len(found) // count] for place in range(count)]
    return (*own, *WORDS[: len(WORDS) - count])


def words_after(folder: Path, rows: RowSources) -> dict[str, str]:
    """The files that list the words of a model that was trained on these rows; {} if it read no
    data set or lists none.

    Args:
        folder: Folder of the model that the training began with.
        rows: Rows of the training.

    Raises:
        DataError: When a file of the folder is damaged.
    """
    parts, rule = rows.train.data_sets, rows.train.rule
    if not parts:
        return {}
    texts = (
        segment.value
        for part in parts
        for document in _documents(part, rule)
        for segment in document.segments
        if isinstance(segment.value, str)
    )
    captions = (words for part in parts for words in _captions_of(part, rule))
    return extended_words(folder, texts, captions)


def _captions_of(part: ShuffledRows, rule: Rule | None) -> Iterator[str]:
    """The different texts of a data set that one picture is drawn for. Blank ones are left out,
    which no picture can be drawn for.
    """
    seen = set()
    for document in _documents(part, rule):
        kinds = [(segment.role, segment.type) for segment in document.segments]
        if kinds == [("user", "text"), ("model", "image")]:
            words = str(document.segments[0].value)
            if words.strip() and words not in seen:
                seen.add(words)
                yield words


def _documents(part: ShuffledRows, rule: Rule | None) -> Iterator[Document]:
    """The first rows of a data set that can be used; a large one was not checked before, and the
    training passes its other rows over when they come.
    """
    for number in part.numbers_N[:READ].tolist():
        try:
            document = part.rows.document(number)
            if rule is not None:
                rule(document)
        except Exception:  # as `Mixture`, which counts and names the row
            continue
        yield document
