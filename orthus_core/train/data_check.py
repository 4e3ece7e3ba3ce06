"""What a training would leave out of its data, found without training: `orthus data check`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from torch.utils.data import DataLoader, Dataset

from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import open_processor, read_config
from orthus_core.data.document import Document
from orthus_core.data.order import Permutation
from orthus_core.data.row_faults import RowFault, RowFaults
from orthus_core.data.row_rule import RowRule
from orthus_core.data.rows import Rows
from orthus_core.data.sources import ShuffledRows
from orthus_core.device import usable_processors
from orthus_core.errors import ChangedDataError
from orthus_core.events import Event, Progress, result_of
from orthus_core.recipe.training import SPRITES, FinetuneVaeRecipe, PretrainRecipe
from orthus_core.train.batches import (
    WHOLE,
    NothingUsable,
    RowSources,
    fault_in,
    load_pictures,
    read_rows,
    row_encoder,
    usable,
)

if TYPE_CHECKING:
    from orthus_core.data.row_rule import TrainingRecipe

# Rows of a large data set that are read unless all are asked for, and rows in a worker's task.
SAMPLED, TOGETHER = 1000, 64

Rule = Callable[[Document], object]


class CheckedSource(NamedTuple):
    """What was found in a data set.

    Attributes:
        name: Name of the source.
        path: Path of it as it was named.
        rows: The data set.
        read: Number of its rows that were read.
        usable: Number of these that can be used.
    """

    name: str
    path: str
    rows: Rows
    read: int
    usable: int


def check_data(
    recipe: TrainingRecipe,
    model: str | None,
    faults: RowFaults,
    found: list[CheckedSource],
    *,
    everything: bool = False,
    workers: int = 0,
) -> Iterator[Event]:
    """Read the data sets of a recipe as its training does.

    Args:
        recipe: Recipe of the training.
        model: Folder, alias or hub id of the model it starts from; None for a `pretrain` that
            starts from none.
        faults: Counts the rows that the training cannot use.
        found: Receives what was found in each data set.
        everything: Whether all rows of large data sets are read; otherwise `SAMPLED` of them.
        workers: Number of processes that read.

    Raises:
        DataError: When the training would end for want of rows or pictures, though some rows can be
            used; and at the first row that cannot be used if `faults` is strict.
        CheckpointError, HubError: As for `open_orthus`, when the model does not open.
    """
    rules = RulesOf(recipe, model)
    for name, source in recipe.data.named_sources().items():
        if source.is_made:
            continue
        alone = replace(source, name=name)
        part = replace(recipe, data=replace(recipe.data, source=SPRITES, sources=(alone,)))
        try:
            parts, rule, side = yield from usable_rows(part, rules, faults)
        except NothingUsable as error:
            found.append(CheckedSource(name, source.path, error.rows, len(error.rows), 0))
            continue
        rows = parts[0].rows
        if len(rows) <= WHOLE:
            usable_count = sum(map(len, parts))
            found.append(CheckedSource(name, source.path, rows, len(rows), usable_count))
            continue
        count = len(rows) if everything else SAMPLED
        numbers = sorted(Permutation(len(rows), 0)(place) for place in range(count))
        check = partial(_check, rule=rule, side=side)
        unusable = 0
        for lot, met in enumerate(FaultsOf(rows, name, check, numbers).all(workers), start=1):
            faults.merge(met)
            unusable += len(met)
            yield Progress("rows", min(lot * TOGETHER, count), count, unit="documents")
        found.append(CheckedSource(name, source.path, rows, count, count - unusable))


def usable_rows(
    recipe: TrainingRecipe, rules: RulesOf, faults: RowFaults
) -> Generator[Event, None, tuple[list[ShuffledRows], Rule, int]]:
    """The rows of a recipe's only data set that its training would use, to train on and held out;
    its rule, and the side of its pictures. Rows of a large data set are not checked.
    """
    side = rules.side
    if isinstance(recipe, FinetuneVaeRecipe):
        rule = rules.of(None)
        return [(yield from pictures_part(recipe, side, rule, faults))], rule, side
    rows = yield from read_rows(recipe.data, side, faults)
    if rules.trains_autoencoder:
        yield from pictures_part(recipe, side, None, faults)
    rule = rules.of(rows)
    rows = yield from usable(rows, rule)
    held_out = rows.held_out.data_sets if rows.held_out else []
    return [*rows.train.data_sets, *held_out], rule, side


def pictures_part(
    recipe: TrainingRecipe, side: int, rule: Rule | None, faults: RowFaults
) -> Generator[Event, None, ShuffledRows]:
    """The rows that an autoencoder's pictures would come from."""
    # Imported here, because most trainings have none to train.
    from orthus_core.train.picture_source import ReadPictures, read_pictures

    pictures = yield from read_pictures(recipe.data, side, rule, faults)
    assert isinstance(pictures, ReadPictures), "the small world is not checked"
    (part,) = pictures.sources
    assert isinstance(part, ShuffledRows)
    return part


class RulesOf:
    """The rule of a training for the rows of each of its data sets.

    Args:
        recipe: Recipe of the training.
        model: Folder, alias or hub id of the model it starts from; None for a `pretrain` that
            starts from none, and trains its tokenizer on the rows.

    Attributes:
        side: Side of the pictures, in pixels.
        trains_autoencoder: Whether the rows need pictures for an autoencoder besides.
    """

    def __init__(self, recipe: TrainingRecipe, model: str | None) -> None:
        self._recipe = recipe
        self._rule: Rule | None = None
        self.trains_autoencoder = False
        if model is None:
            assert isinstance(recipe, PretrainRecipe), "every other training starts from a model"
            self.trains_autoencoder = not recipe.autoencoder.taken_from
            self.side = recipe.autoencoder.resolution
            return
        path = resolve(model)
        config, processor = read_config(path), open_processor(path)
        if isinstance(recipe, PretrainRecipe):
            from orthus_core.train.pretrain import check_discrete

            check_discrete(config, path)
        encode = row_encoder(processor.tokenizer, config) if processor is not None else None
        self._rule = RowRule.of(recipe, encode)
        self.side = config.vq_config.resolution

    def of(self, rows: RowSources | None) -> Rule:
        """The rule.

        Args:
            rows: Rows of one of the data sets; a tokenizer is trained on all of them.
        """
        if self._rule is None:
            # Imported here, because no other check trains a tokenizer.
            from orthus_core.train.pretrain import pretrain_rule

            assert rows is not None and isinstance(self._recipe, PretrainRecipe)
            if len(self._recipe.data.named_sources()) > 1:
                rows = result_of(read_rows(self._recipe.data, self.side))
            self._rule = pretrain_rule(self._recipe, rows)
        return self._rule


def _check(document: Document, rule: Rule, side: int) -> None:
    load_pictures(document, side)
    rule(document)


@dataclass(frozen=True)
class FaultsOf(Dataset):
    """The faults among rows of a data set, `TOGETHER` rows at a time."""

    rows: Rows
    name: str
    check: Rule
    numbers: Sequence[int]

    def __len__(self) -> int:
        return -(-len(self.numbers) // TOGETHER)

    def __getitem__(self, lot: int) -> list[RowFault] | ChangedDataError:
        if lot >= len(self):
            raise IndexError(lot)
        own = self.numbers[lot * TOGETHER : (lot + 1) * TOGETHER]
        found = (fault_in(self.rows, number, self.check, self.name) for number in own)
        try:
            return [fault for fault in found if fault]
        except ChangedDataError as error:  # raised here, torch would put a traceback into it
            return error

    def all(self, workers: int) -> Iterator[list[RowFault]]:
        """Those of all rows in order, read by so many processes.

        Raises:
            ChangedDataError: if the data was changed meanwhile.
        """
        for found in self._lots(workers):
            if isinstance(found, ChangedDataError):
                raise found
            yield found

    def _lots(self, workers: int) -> Iterator[list[RowFault] | ChangedDataError]:
        if workers := min(workers, usable_processors()):
            context = "fork"
            yield from DataLoader(
                self, batch_size=None, num_workers=workers, multiprocessing_context=context
            )
        else:
            yield from (self[lot] for lot in range(len(self)))
