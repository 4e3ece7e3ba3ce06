"""The rows a transformer trains on: documents of a recipe's data, encoded, with features or codes
of their pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.data.collate import Batch, collate, with_codes, with_features
from orthus_core.data.document import Document, turn
from orthus_core.data.encode import EncodedRow, TokenIds, encode
from orthus_core.data.latent_cache import FeatureCache
from orthus_core.data.pictures import FilePicture, Picture
from orthus_core.data.sources import Batches, ShuffledSource, Source, hold_out, identity_of
from orthus_core.device import usable_processors
from orthus_core.errors import DataError
from orthus_core.events import Event, Note
from orthus_core.model.config import InterleavedConfig, OrthusConfig
from orthus_core.recipe.training import DataRecipe, TaskWeights
from orthus_core.train.distributed import current_rank
from orthus_core.train.prefetch import Prefetcher

if TYPE_CHECKING:
    from orthus_core.data.formats.reading import ReadResult
    from orthus_core.data.row_rule import Encode, TrainingRecipe

SPRITES = "sprites"

# Number of steps whose rows are sorted by length together; packed rows need no sorting.
WINDOW = 8


class RowSources(NamedTuple):
    """Endless sources of documents, numbered n = 0, 1, 2 ...

    Attributes:
        held_out: Documents that are never trained on; None when nothing is held out.
    """

    train: Source
    held_out: Source | None

    @property
    def identity(self) -> str:
        """What tells these rows from others; empty where the recipe alone decides them."""
        read = [each for each in self if isinstance(each, ShuffledSource)]
        documents = [document for source in read for document in source.documents]
        values = ([segment.value for segment in each.segments] for each in documents)
        return identity_of(values) if read else ""


def task_weights(tasks: TaskWeights) -> Mapping[str, float]:
    """The tasks with a weight above 0, and their weights."""
    return {name: weight for name, weight in asdict(tasks).items() if weight > 0}


def read_rows(data: DataRecipe, side: int | None = None) -> Generator[Event, None, RowSources]:
    """Read and split the recipe's data; yields notes about anything left out.

    Args:
        data: Data table of the recipe.
        side: Side of the model's pictures, in pixels; they are checked at this size.

    Raises:
        DataError: When the source is missing or empty, and at the first broken record or picture
            when the recipe is strict.
    """
    if data.source == SPRITES:
        from orthus_core.world.records import record
        from orthus_core.world.world import World

        weights = task_weights(data.tasks)

        def made(testing: bool) -> Source:
            world = World.open(held_out=data.held_out, testing=testing)
            return returning(partial(record, world, weights, data.seed), data.rows)

        return RowSources(made(False), made(True) if data.held_out else None)
    return split_rows((yield from read_documents(data, side)), data)


def listed_words(data: DataRecipe) -> str:
    """The content of `words.json` for a model of these rows; "" if they are not the small world."""
    if data.source != SPRITES:
        return ""
    from orthus_core.world.listed_words import word_list
    from orthus_core.world.world import World

    return word_list(World.open(held_out=data.held_out)).text()


def split_rows(documents: list[Document], data: DataRecipe) -> RowSources:
    """The documents to train on, and those that are held out.

    Raises:
        DataError: When there are none to train on.
    """
    kept, held_out = hold_out(documents, data.held_out, data.seed)
    return RowSources(
        ShuffledSource(kept, data.seed, where=data.source),
        ShuffledSource(held_out, data.seed) if held_out else None,
    )


def returning(source: Source, rows: int) -> Source:
    """Repeat the source's first `rows` documents; 0 uses all of them without repeating."""
    return (lambda number: source(number % rows)) if rows else source


def read_documents(
    data: DataRecipe, side: int | None = None, rule: Callable[[Document], object] | None = None
) -> Generator[Event, None, list[Document]]:
    """The documents on disk whose records and pictures can all be read.

    Args:
        data: Data table of the recipe.
        side: Side of the model's pictures, in pixels; they are checked at this size.
        rule: Raises an error for a document that the training cannot use.

    Raises:
        DataError: As for `read_rows`.
    """
    from orthus_core.data.formats import sniff
    from orthus_core.data.formats.reading import CHECK_SIZE
    from orthus_core.user_files import user_path
    from orthus_core.world.picture_kinds import register_picture_kinds

    register_picture_kinds()
    reading = sniff.read(user_path(data.source), strict=data.strict)
    yield from reading.check_pictures(side or CHECK_SIZE)
    if rule is not None:
        yield from reading.check(rule, "rows")
    yield from left_out(reading)
    return reading.documents


def usable(
    rows: RowSources, rule: Callable[[Document], object], *, strict: bool
) -> Generator[Event, None, RowSources]:
    """The rows without documents that a training cannot use. Endless generated sources are not
    checked, and must be valid by themselves.

    Args:
        rows: The rows as they were read.
        rule: Raises an error for a document that cannot be used: a `RowRule`.
        strict: Whether the first such document ends the training.

    Raises:
        DataError: When no document is left, and at the first unusable one when strict.
    """
    if not isinstance(rows.train, ShuffledSource):
        return rows
    from orthus_core.data.formats.reading import ReadResult

    where = Path(rows.train.where)
    held_out = rows.held_out.documents if isinstance(rows.held_out, ShuffledSource) else []
    apart = {id(document) for document in held_out}
    reading = ReadResult(strict, documents=[*rows.train.documents, *held_out], where=where)
    yield from reading.check(rule, "rows")
    yield from left_out(reading)
    kept = to_train_on(reading.documents, held_out, where)
    measured = [document for document in reading.documents if id(document) in apart]
    seed = rows.train.seed
    return RowSources(
        ShuffledSource(kept, seed, str(where)), ShuffledSource(measured, seed) if measured else None
    )


def to_train_on(
    documents: Sequence[Document], held_out: Sequence[Document], where: Path
) -> list[Document]:
    """The usable documents of a data set without those that are held out.

    Raises:
        DataError: When there are usable ones, and all of them are held out.
    """
    apart = {id(document) for document in held_out}
    kept = [document for document in documents if id(document) not in apart]
    if documents and not kept:
        raise DataError(
            "there are no documents to train on: all that can be used are held out",
            where=str(where),
            hint="set data.held_out to 0, or add rows that can be used",
        )
    return kept


def training_rule(recipe: TrainingRecipe, encode: Encode | None) -> Callable[[Document], None]:
    """Checks a document by the `RowRule` of a training; arguments as for `RowRule.of`."""

    def check(document: Document) -> None:
        # Imported with the first document: generated rows are not checked.
        from orthus_core.data.row_rule import RowRule

        RowRule.of(recipe, encode)(document)

    return check


def left_out(reading: ReadResult) -> Iterator[Note]:
    """Notes on what could not be read: how many items, and the first of them."""
    if reading.fault_count:
        found = reading.fault_count + len(reading.documents)
        yield Note(f"{reading.fault_count} of {found} records are left out")
        yield from (Note(f"  {fault}") for fault in reading.faults)


def last_picture(document: Document) -> Picture:
    """The picture that `build-base` learns to draw.

    Raises:
        DataError: When there is none.
    """
    for segment in reversed(document.segments):
        if isinstance(segment.value, Picture):
            return segment.value
    raise DataError("there is no picture in it", where=document.id)


def picture_alone(document: Document) -> Document:
    """The last picture of a document, without its text."""
    return replace(document, segments=turn("model", last_picture(document)))


def pictures_alone(rows: RowSources) -> RowSources:
    """The last picture of each document, as `build-base` reads them."""

    def alone(source: Source) -> Source:
        return lambda number: picture_alone(source(number))

    return RowSources(alone(rows.train), alone(rows.held_out) if rows.held_out else None)


@contextmanager
def name_record_on_error(rows: list[EncodedRow]) -> Iterator[None]:
    """Names the record of a picture that could be read when the training began and no longer can.

    Raises:
        DataError: The error of the picture, with its record.
    """
    try:
        yield
    except DataError as error:
        for row in rows:
            for picture in row.pictures:
                if isinstance(picture, FilePicture) and str(picture.path) == error.where:
                    where = row.name if error.where in row.name else f"{row.name}, {error.where}"
                    raise DataError(error.message, where=where, hint=error.hint) from error
        raise


class RowBatches(NamedTuple):
    """Batches of rows.

    Attributes:
        train: Returns batch number n, n = 0, 1, 2 ...
        held_out: Makes the validation batches, the same on every device; [] without held-out rows.
    """

    train: Callable[[int], Batch]
    held_out: Callable[[], list[Batch]]


@dataclass(frozen=True)
class BatchBuilder:
    """Converts documents to batches.

    Attributes:
        encode: Converts a document to a row.
        lay: Combines rows to a batch whose slots are empty.
        pictures: Computes the features or codes of pictures.
        fill: Fills a batch's slots with them.
        side: Side of the pictures, in pixels.
    """

    encode: Callable[[Document], EncodedRow]
    lay: Callable[[list[EncodedRow]], Batch]
    pictures: FeatureCache
    fill: Callable[[Batch, Tensor], Batch]
    side: int

    def collate(self, rows: list[EncodedRow]) -> Batch:
        """Combine rows to a batch."""
        batch = self.lay(rows)
        if not batch.pictures:
            return batch
        with name_record_on_error(rows):
            return self.fill(batch, self.pictures(batch.pictures))

    def loaded(self, rows: list[EncodedRow]) -> Batch:
        """Combine rows to a batch that holds pixels; needs neither a model nor a GPU."""
        batch = self.lay(rows)
        if not batch.pictures:
            return batch
        with name_record_on_error(rows):
            squares = [picture.load(self.side) for picture in batch.pictures]
        return replace(batch, pictures=(), pixels_MHW3=torch.from_numpy(np.stack(squares)))

    def finished(self, batch: Batch) -> Batch:
        """A loaded batch with its slots filled with features or codes."""
        pixels_MHW3 = batch.pixels_MHW3
        return (
            batch
            if pixels_MHW3 is None
            else self.fill(batch, self.pictures.encode_pixels(pixels_MHW3))
        )

    def batches(
        self, rows: RowSources, data: DataRecipe, batch_size: int, validate_rows: int
    ) -> RowBatches:
        """Batches of `batch_size` documents, from this process's share of the rows."""
        place = current_rank()
        window = 1 if data.packing else WINDOW
        made = Batches(
            source=rows.train,
            encode=self.encode,
            collate=self.loaded if data.workers else self.collate,
            batch_size=batch_size,
            seed=data.seed,
            condition_dropout=data.condition_dropout,
            window=window,
            shard=place.shard,
            shards=place.shards,
        )
        # Which process makes a batch does not matter: a container's share may lower their number.
        workers = min(data.workers, usable_processors())
        ahead = Prefetcher(made, workers, together=window) if workers else None

        def train(number: int) -> Batch:
            return self.finished(ahead(number)) if ahead else made(number)

        def held_out() -> list[Batch]:
            if rows.held_out is None:
                return []
            most = (
                len(rows.held_out) if isinstance(rows.held_out, ShuffledSource) else validate_rows
            )
            numbers = range(min(most, validate_rows))
            measured = [self.encode(rows.held_out(number)) for number in numbers]
            return [
                self.collate(measured[at : at + batch_size])
                for at in range(0, len(measured), batch_size)
            ]

        return RowBatches(train, held_out)


def orthus_batch_builder(
    data: DataRecipe,
    config: OrthusConfig,
    tokenizer: PreTrainedTokenizerBase,
    features: FeatureCache,
) -> BatchBuilder:
    """A builder of rows with features in the slots."""
    own = data.own_pictures
    return _laying(data, config, tokenizer, features, with_features, own_pictures=own)


def discrete_batch_builder(
    data: DataRecipe,
    config: OrthusConfig,
    tokenizer: PreTrainedTokenizerBase,
    codes: FeatureCache,
) -> BatchBuilder:
    """A builder of rows for a discrete Chameleon, with code tokens in the slots."""
    fill = partial(with_codes, code_token_ids=config.code_token_ids)
    return _laying(data, config, tokenizer, codes, fill)


def _laying(
    data: DataRecipe,
    config: OrthusConfig,
    tokenizer: PreTrainedTokenizerBase,
    pictures: FeatureCache,
    fill: Callable[[Batch, Tensor], Batch],
    *,
    own_pictures: bool = False,
) -> BatchBuilder:
    lay = partial(
        collate,
        ids=TokenIds.of(config),
        packing=data.packing,
        own_pictures=own_pictures,
        few_shapes=torch.cuda.is_available(),
    )
    encode_row = row_encoder(tokenizer, config)
    return BatchBuilder(encode_row, lay, pictures, fill, config.vq_config.resolution)


def row_encoder(
    tokenizer: PreTrainedTokenizerBase, config: InterleavedConfig
) -> Callable[[Document], EncodedRow]:
    """A function from a document to a row of a model.

    The function raises DataError when the document does not fit the context.
    """
    return partial(
        encode,
        tokenizer=tokenizer,
        ids=TokenIds.of(config),
        patches=config.patches,
        longest=config.max_position_embeddings,
    )
