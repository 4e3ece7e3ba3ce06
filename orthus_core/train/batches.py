"""The rows a transformer trains on: documents of a recipe's data, encoded, with features or codes
of their pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.data.collate import Batch, collate, noise_seed, with_codes, with_features
from orthus_core.data.document import Document, turn
from orthus_core.data.encode import EncodedRow, TokenIds, encode
from orthus_core.data.latent_cache import FeatureCache
from orthus_core.data.order import hash_of, is_held_out
from orthus_core.data.pictures import FilePicture, Picture
from orthus_core.data.row_faults import RowFault, RowFaults, fault_of
from orthus_core.data.sources import (
    CHECK_SAYS_WHY,
    Batches,
    MadeRows,
    Mixture,
    RowsReport,
    ShuffledRows,
    identity_of,
)
from orthus_core.device import usable_processors
from orthus_core.errors import DataError, TrainingError
from orthus_core.events import Event, Note, Progress
from orthus_core.model.config import IGNORE, InterleavedConfig, OrthusConfig
from orthus_core.recipe.training import DataRecipe, SourceRecipe, TaskWeights
from orthus_core.train.distributed import Rank, current_rank
from orthus_core.train.other_words import (
    OTHER_WORDS,
    OWN_WORDS,
    is_drawn_from_words,
    with_other_words,
)

if TYPE_CHECKING:
    from orthus_core.data.row_rule import Encode, TrainingRecipe
    from orthus_core.data.rows import Rows

# Sources of at most so many rows are checked as a whole before the first step.
WHOLE = 1000
# Side at which pictures are loaded to be checked when no model has its own.
CHECKED_SIDE = 64

# Held-out rows are always measured with the same noise, so that the figures can be compared.
VALIDATION_SEED = 20_241_200_127

# Number of steps whose rows are sorted by length together; packed rows need no sorting.
WINDOW = 8


Make = Callable[[int], Document]


@dataclass(frozen=True)
class RowSources:
    """The rows of a training.

    Attributes:
        train: Rows to train on.
        held_out: Rows that are never trained on; None when nothing is held out.
        faults: The rows of both that cannot be used.
    """

    train: Mixture
    held_out: Mixture | None
    faults: RowFaults = field(default_factory=RowFaults)

    @property
    def identity(self) -> str:
        """What tells these rows from others; empty where the recipe alone decides them."""
        read = self.train.data_sets
        return "; ".join([ORDER, *map(identity_of_part, read)]) if read else ""

    def change(self, **changes: Any) -> RowSources:
        """The same rows under another rule, or changed."""
        held_out = replace(self.held_out, **changes) if self.held_out else None
        return replace(self, train=replace(self.train, **changes), held_out=held_out)


# The order in which rows are read, as the identity of a training's rows names it: it is raised when
# another version reads the same data in another order.
ORDER = "order 2"


def identity_of_part(part: ShuffledRows) -> str:
    """What tells a data set, and which of its rows are used, from others.

    Of a small one that is its texts, and the names and sizes of its pictures.
    """
    if len(part.rows) <= WHOLE:
        documents = (part.rows.document(int(number)) for number in part.numbers_N)
        return identity_of([segment.value for segment in each.segments] for each in documents)
    used = hashlib.sha256(part.numbers_N.tobytes()).hexdigest()[:10]
    return f"{len(part)} rows, {used}, {part.rows.identity}"


def task_weights(tasks: TaskWeights) -> Mapping[str, float]:
    """The tasks with a weight above 0, and their weights."""
    return {name: weight for name, weight in asdict(tasks).items() if weight > 0}


def read_rows(
    data: DataRecipe, side: int | None = None, faults: RowFaults | None = None
) -> Generator[Event, None, RowSources]:
    """Open and split the recipe's sources; yields notes about anything left out.

    A source of at most `WHOLE` rows is read at once, with its pictures; the rows of others are read
    when they come.

    Args:
        data: Data table of the recipe.
        side: Side of the model's pictures, in pixels; they are checked at this size.
        faults: Counts the rows that cannot be used.

    Raises:
        DataError: When a source is missing or empty, and at the first broken record or picture when
            the recipe is strict.
    """
    faults = faults if faults is not None else RowFaults(data.strict)
    train: dict[str, MadeRows | ShuffledRows] = {}
    held_out: dict[str, MadeRows | ShuffledRows] = {}
    sources = data.named_sources()
    for number, (name, source) in enumerate(sources.items()):
        if source.is_made:
            train[name] = world_rows(name, data, testing=False)
            if data.held_out:
                held_out[name] = world_rows(name, data, testing=True)
            continue
        rows = yield from open_source(name, source, quiet=faults.named_later)
        check = partial(load_pictures, side=side or CHECKED_SIDE)
        whole = chosen_rows(name, source, rows, data.seed)
        (whole,) = yield from without_unusable([whole], check, "pictures", faults)
        if source.also_captions:
            whole = both_ways(whole, source.drawings_per_question)
        share = data.held_out if source.held_out is None else source.held_out
        kept, apart = split_part(whole, replace(data, held_out=share), number)
        train[name] = kept
        if len(apart):
            held_out[name] = apart
    order = partial(Mixture, seed=data.seed, faults=faults)
    return RowSources(
        order(list(train.values()), [sources[name].weight for name in train]),
        order(list(held_out.values()), [sources[name].weight for name in held_out])
        if held_out
        else None,
        faults,
    )


def chosen_rows(name: str, source: SourceRecipe, rows: Rows, seed: int) -> ShuffledRows:
    """The rows of a data set that a recipe takes: all, or the first of them."""
    count = min(len(rows), source.first or len(rows))
    return ShuffledRows(name, rows, np.arange(count, dtype=np.int64), seed)


def both_ways(part: ShuffledRows, drawings: int) -> ShuffledRows:
    """The rows of a source, each so often to be drawn, and once as a question about its picture."""
    from orthus_core.data.caption_rows import RowsBothWays

    rows = RowsBothWays(part.rows, drawings)
    numbers_N = (rows.times * part.numbers_N[:, None] + np.arange(rows.times)).flatten()
    return replace(part, rows=rows, numbers_N=numbers_N)


def world_rows(name: str, data: DataRecipe, *, testing: bool) -> MadeRows:
    """Rows of the small world, of what is held out or of the rest. Training begins with those of
    `data.first_tasks`.
    """
    from orthus_core.world.records import record
    from orthus_core.world.world import World

    world = World.open(held_out=data.held_out, testing=testing)
    make = partial(record, world, task_weights(data.tasks), data.seed, fillers=data.fillers)
    rows = returning(make, data.rows)
    if data.first_rows and not testing:
        tasks = task_weights(data.first_tasks)
        first = partial(record, world, tasks, data.seed, fillers=data.fillers)
        rows = after(returning(first, data.rows), data.first_rows, rows)
    return MadeRows(name, rows)


def made_pictures() -> Callable[[str], bool]:
    """Whether a picture is of rows that are made, by its key."""
    from orthus_core.world.picture_kinds import is_of_world

    return is_of_world


def open_source(
    name: str, source: SourceRecipe, *, quiet: bool = False
) -> Generator[Event, None, Rows]:
    """Open a data set; its index is made if it has none yet.

    Args:
        quiet: Whether nothing is said of files that are passed over.

    Raises:
        DataError: When it is missing or in no known format.
    """
    from orthus_core.data.formats import sniff
    from orthus_core.data.listing import passed_over_line
    from orthus_core.data.rows import SourceOptions
    from orthus_core.user_files import user_path
    from orthus_core.world.picture_kinds import register_picture_kinds

    register_picture_kinds()
    options = SourceOptions(
        name=name,
        images=user_path(source.images) if source.images else None,
        columns=source.columns,
        split=source.split,
    )
    rows = yield from sniff.open_rows(Path(source.path), options, source.format or None)
    if rows.passed_over and not quiet:
        yield Note(passed_over_line(rows.passed_over))
    return rows


def without_unusable(
    parts: Sequence[ShuffledRows], check: Callable[[Document], object], what: str, faults: RowFaults
) -> Generator[Event, None, list[ShuffledRows]]:
    """The same parts of a data set without rows that cannot be used, if it is small enough to be
    read at once.

    Args:
        parts: Parts of one data set.
        check: Raises an error for a document that cannot be used, whatever it is.
        what: What is checked, for the progress.
    """
    rows, name = parts[0].rows, parts[0].name
    if len(rows) > WHOLE:
        return list(parts)
    numbers = sorted(int(number) for part in parts for number in part.numbers_N)
    unusable: set[int] = set()
    for done, number in enumerate(numbers, start=1):
        if fault := fault_in(rows, number, check, name, faults.strict):
            faults.add(fault)
            unusable.add(number)
        yield Progress(what, done, len(numbers), unit="documents")
    yield from left_out(faults, len(numbers))
    if len(unusable) == len(numbers):
        raise NothingUsable(rows)
    kept = [[n for n in part.numbers_N if int(n) not in unusable] for part in parts]
    return [
        replace(part, numbers_N=np.array(numbers, dtype=np.int64))
        for part, numbers in zip(parts, kept, strict=True)
    ]


def split_part(
    part: ShuffledRows, data: DataRecipe, number: int
) -> tuple[ShuffledRows, ShuffledRows]:
    """The rows of a source to train on, and those that are held out; of a few rows at least one is
    to train on.

    Args:
        number: Number of the source among the recipe's, which has an order of its own.
    """
    apart_N = is_held_out(part.rows.keys()[part.numbers_N], data.held_out, data.seed)
    apart_N[:1] &= not apart_N.all()
    seed = hash_of(data.seed, number)
    kept = replace(part, numbers_N=part.numbers_N[~apart_N], seed=seed)
    return kept, replace(part, numbers_N=part.numbers_N[apart_N], seed=seed)


def listed_words(data: DataRecipe) -> str:
    """The content of `words.json` for a model of these rows; "" if they are not the small world."""
    if not data.makes_rows:
        return ""
    from orthus_core.world.listed_words import word_list
    from orthus_core.world.world import World

    return word_list(World.open(held_out=data.held_out)).text()


def existing_words(data: DataRecipe, document: Document) -> list[str]:
    """The texts of a row without the words that the small world makes up."""
    texts = [segment.value for segment in document.segments if isinstance(segment.value, str)]
    if not any(source.is_made for source in data.named_sources().values()):
        return texts
    from orthus_core.world.fillers import without_made_up_words

    return [without_made_up_words(text) for text in texts]


def returning(source: Make, rows: int) -> Make:
    """Repeat the source's first `rows` documents; 0 uses all of them without repeating."""
    return (lambda number: source(number % rows)) if rows else source


def after(first: Make, count: int, then: Make) -> Make:
    """`count` documents of the first source, then those of the other from its beginning."""
    return lambda number: first(number) if number < count else then(number - count)


def usable(
    rows: RowSources, rule: Callable[[Document], object]
) -> Generator[Event, None, RowSources]:
    """The rows under the rule of a training. Small data sets are checked at once, the rows of
    others when they come; rows that are made must be valid by themselves.

    Args:
        rows: The rows as they were read.
        rule: Raises an error for a document that cannot be used: a `RowRule`.

    Raises:
        DataError: When no row of a small data set is left, and at the first unusable one when
            strict.
    """
    rows = rows.change(rule=rule)
    train, held_out = [*rows.train.parts], [*rows.held_out.parts] if rows.held_out else []
    weights = dict(zip((part.name for part in train), rows.train.weights, strict=True))
    apart = {part.name: part for part in held_out}
    for number, part in enumerate(train):
        if isinstance(part, MadeRows):
            continue
        both = [part, *([apart[part.name]] if part.name in apart else [])]
        checked = yield from without_unusable(both, rule, "rows", rows.faults)  # type: ignore[arg-type]
        train[number], *measured = checked
        check_left(checked[0])
        if measured:
            apart[part.name] = measured[0]
    kept = [part for part in apart.values() if isinstance(part, MadeRows) or len(part)]
    return replace(
        rows,
        train=replace(rows.train, parts=train),
        held_out=replace(rows.held_out, parts=kept, weights=[weights[p.name] for p in kept])
        if rows.held_out and kept
        else None,
    )


class NothingUsable(DataError):
    """A data set in which no row can be used.

    Args:
        rows: The data set.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__(
            "there are no documents to train on", where=rows.where, hint=CHECK_SAYS_WHY
        )
        self.rows = rows


def check_left(kept: ShuffledRows) -> None:
    """Check that there are rows to train on in a data set of which some can be used.

    Raises:
        DataError: When there are none.
    """
    if not len(kept):
        raise DataError(
            "there are no documents to train on: all that can be used are held out",
            where=kept.rows.where,
            hint="set data.held_out to 0, or add rows that can be used",
        )


def training_rule(recipe: TrainingRecipe, encode: Encode | None) -> Callable[[Document], None]:
    """Checks a document by the `RowRule` of a training; arguments as for `RowRule.of`."""

    def check(document: Document) -> None:
        # Imported with the first document: generated rows are not checked.
        from orthus_core.data.row_rule import RowRule

        RowRule.of(recipe, encode)(document)

    return check


def fault_in(
    rows: Rows, number: int, check: Callable[[Document], object], name: str, strict: bool = False
) -> RowFault | None:
    """What is wrong with a row of a data set; None when nothing is.

    Raises:
        DataError: If `strict`, when something is.
    """
    document = None
    try:
        check(document := rows.document(number))
    except Exception as error:
        fault = fault_of(name, rows, number, error, document.id if document else "")
        if strict:
            RowFaults(strict).add(fault, error)
        return fault
    return None


def load_pictures(document: Document, side: int) -> None:
    """Load every picture of a document, which raises an error for one that cannot be read."""
    for picture in document.pictures:
        picture.load(side)


def left_out(faults: RowFaults, found: int) -> Iterator[Note]:
    """Notes on new faults among the records that were found: how many, and the first of all."""
    if not faults.named_later and (new := faults.take()):
        yield Note(f"{len(new)} of {found} records are left out")
        yield from (Note(f"  {fault}") for fault in faults.named(new))


def last_picture(document: Document) -> Picture:
    """The picture that `build-base` learns to draw.

    Raises:
        DataError: When there is none.
    """
    if not document.pictures:
        raise DataError("there is no picture in it", where=document.id)
    return document.pictures[-1]


def picture_alone(document: Document) -> Document:
    """The last picture of a document, without its text."""
    return replace(document, segments=turn("model", last_picture(document)))


def pictures_alone(rows: RowSources) -> RowSources:
    """The last picture of each document, as `build-base` reads them."""
    return rows.change(change=picture_alone)


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
        held_out: Makes the validation batches, of which each process has its share; [] without
            held-out rows.
        by_words: Makes the batches of the held-out rows that are a picture of words alone, each
            process its share, with their own words and with those of other rows, by the name of
            the image loss (`other_words`); {} when fewer than two of them have different words.
        report: Counts the rows that cannot be used, and the epochs of each data set.
    """

    train: Callable[[int], Batch]
    held_out: Callable[[], list[Batch]]
    by_words: Callable[[], dict[str, list[Batch]]]
    report: RowsReport


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
            keys = batch.picture_keys
        pixels_MHW3 = torch.from_numpy(np.stack(squares))
        return replace(batch, pictures=(), sent_keys=keys, pixels_MHW3=pixels_MHW3)

    def looked_up(self, rows: list[EncodedRow]) -> Batch:
        """Combine rows to a batch that holds what is stored of its pictures, and pixels of the
        others; needs neither a model nor a GPU.
        """
        batch = self.lay(rows)
        if not batch.pictures:
            return batch
        with name_record_on_error(rows):
            lookup, pixels_MHW3 = self.pictures.look_up(batch.pictures)
            keys = batch.picture_keys
        return replace(batch, pictures=(), sent_keys=keys, lookup=lookup, pixels_MHW3=pixels_MHW3)

    def finished(self, batch: Batch) -> Batch:
        """A loaded or looked-up batch with its slots filled with features or codes."""
        if batch.lookup is not None:
            return self.fill(batch, self.pictures.complete(batch.lookup, batch.pixels_MHW3))
        if batch.pixels_MHW3 is not None:
            return self.fill(batch, self.pictures.encode_pixels(batch.pixels_MHW3))
        return batch

    def ready(self, row: EncodedRow) -> EncodedRow:
        """The row with pictures that can be read: loaded, unless their features are known.

        Raises:
            DataError: When one cannot be read.
        """
        return row._replace(pictures=tuple(map(self._readable, row.pictures)))

    def _readable(self, picture: Picture) -> Picture:
        if isinstance(self.pictures, FeatureCache):
            return self.pictures.addressed(picture)
        return picture

    def batches(
        self,
        rows: RowSources,
        data: DataRecipe,
        batch_size: int,
        validate_rows: int,
        *,
        seed: int = 0,
    ) -> RowBatches:
        """Batches of `batch_size` documents, of which each process has its share.

        Args:
            seed: Seed of the training, for what it draws for each row.

        Raises:
            TrainingError: When the processes cannot share a batch evenly.
        """
        place = current_rank()
        share_of(batch_size, place)
        window = 1 if data.packing else WINDOW
        made = Batches(
            source=rows.train,
            encode=self.encode,
            collate=self._collated(rows, data),
            batch_size=batch_size,
            ready=self.ready,
            seed=data.seed,
            noise_seed=seed,
            condition_dropout=data.condition_dropout,
            dropout_of={
                name: source.condition_dropout
                for name, source in data.named_sources().items()
                if source.condition_dropout is not None
            },
            window=window,
            shard=place.shard,
            shards=place.shards,
        )
        # Which process makes a batch does not matter: a container's share may lower their number.
        workers = min(data.workers, usable_processors())
        ahead = None
        if workers:
            # Imported here, because most trainings have none.
            from orthus_core.train.prefetch import Prefetcher

            ahead = Prefetcher(made, workers, window, rows.faults)

        def train(number: int) -> Batch:
            return self.finished(ahead(number)) if ahead else made(number)

        def measured() -> list[tuple[Document, EncodedRow]]:
            found = enumerate(islice(self.measured(rows.held_out), validate_rows))
            return [
                (document, row._replace(noise_seed=noise_seed(VALIDATION_SEED, number)))
                for number, (document, row) in found
            ]

        def shared(found: list[EncodedRow]) -> list[Batch]:
            together = [found[at : at + batch_size] for at in range(0, len(found), batch_size)]
            own = [each[place.shard :: place.shards] for each in together]
            # Each process has as many batches as the others: a row that counts nothing, for none.
            return [self.collate(r) if r else blank(self.collate(found[:1])) for r in own]

        def held_out() -> list[Batch]:
            return shared([row for _, row in measured()])

        def by_words() -> dict[str, list[Batch]]:
            every = measured()
            drawn = [(document, row) for document, row in every if is_drawn_from_words(document)]
            # Each is measured twice: half of the rows cost as much as all of them did once.
            drawn = drawn[: max(2, len(every) // 2)]
            changed = with_other_words([document for document, _ in drawn])
            if not changed:
                return {}
            own = [row for _, row in drawn]
            # The same picture with the same seed, so that the two losses differ by words alone.
            other = [
                self.encode(document)._replace(pictures=row.pictures, noise_seed=row.noise_seed)
                for document, row in zip(changed, own, strict=True)
            ]
            return {OWN_WORDS: shared(own), OTHER_WORDS: shared(other)}

        return RowBatches(train, held_out, by_words, RowsReport(rows.train, batch_size))

    def _collated(self, rows: RowSources, data: DataRecipe) -> Callable[[list[EncodedRow]], Batch]:
        """How rows are combined: by this process, or by a worker for it to finish."""
        # Rows that are made without end never come again, so their features are not kept.
        kept = bool(data.rows or rows.train.data_sets)
        if data.workers:
            return self.looked_up if kept else self.loaded
        return self.collate if kept else self.combined

    def combined(self, rows: list[EncodedRow]) -> Batch:
        """Combine rows to a batch whose pictures' features or codes are not stored."""
        return self.finished(self.loaded(rows))

    def measured(self, held_out: Mixture | None) -> Iterator[tuple[Document, EncodedRow]]:
        """The held-out documents that can be used and their rows, each of a data set once."""
        for candidate in held_out.once() if held_out else ():
            try:
                row = self.encode(candidate.document)
                ready = row if isinstance(candidate.part, MadeRows) else self.ready(row)
                yield candidate.document, ready
            except Exception as error:
                candidate.reject(error)


def blank(batch: Batch) -> Batch:
    """The batch with nothing to predict."""
    texts_BS = torch.full_like(batch.text_targets_BS, IGNORE)
    none_N = torch.zeros(len(batch.image_index_N), dtype=torch.bool)
    return replace(batch, text_targets_BS=texts_BS, image_targets_N=none_N)


def share_of(batch_size: int, place: Rank, key: str = "optim.batch_size") -> int:
    """Rows of a batch on each device.

    Args:
        key: The recipe's key of the batch's size.

    Raises:
        TrainingError: When they cannot share it evenly.
    """
    if batch_size % place.shards:
        above = (batch_size // place.shards + 1) * place.shards
        raise TrainingError(
            f"a batch of {batch_size} rows cannot be shared evenly by {place.shards} processes",
            where=key,
            hint=f"batch_size is for all of them together: take a multiple of {place.shards}, such "
            f"as {above}",
        )
    return batch_size // place.shards


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
    config: InterleavedConfig,
    tokenizer: PreTrainedTokenizerBase,
    codes: FeatureCache,
    *,
    own_pictures: bool = False,
    words: bool = True,
    pictures: bool = True,
) -> BatchBuilder:
    """A builder of rows for a discrete Chameleon, with code tokens in the slots.

    Args:
        own_pictures: As for `collate`.
        words, pictures: Whether text and codes are targets.
    """
    ids = config.code_token_ids
    fill = partial(with_codes, code_token_ids=ids, targets=pictures)
    return _laying(data, config, tokenizer, codes, fill, own_pictures=own_pictures, words=words)


def _laying(
    data: DataRecipe,
    config: InterleavedConfig,
    tokenizer: PreTrainedTokenizerBase,
    pictures: FeatureCache,
    fill: Callable[[Batch, Tensor], Batch],
    *,
    own_pictures: bool = False,
    words: bool = True,
) -> BatchBuilder:
    lay = partial(
        collate,
        ids=TokenIds.of(config),
        packing=data.packing,
        own_pictures=own_pictures,
        words=words,
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
