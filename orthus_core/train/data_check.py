"""What a training would leave out of its data, found without training: `orthus data check`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
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
from orthus_core.data.sources import ReadRows
from orthus_core.events import Event, Progress
from orthus_core.recipe.training import FinetuneVaeRecipe, PretrainRecipe
from orthus_core.train.batches import (
    WHOLE,
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
        rows: The data set.
        read: Number of its rows that were read.
        usable: Number of these that can be used.
    """

    name: str
    rows: Rows
    read: int
    usable: int


def check_data(
    recipe: TrainingRecipe,
    model: str | None,
    faults: RowFaults,
    *,
    everything: bool = False,
    workers: int = 0,
) -> Generator[Event, None, list[CheckedSource]]:
    """Read the data sets of a recipe as its training does; returns what was found in each.

    Args:
        recipe: Recipe of the training.
        model: Folder, alias or hub id of the model it starts from; None for a `pretrain` that
            starts from none.
        faults: Counts the rows that the training cannot use.
        everything: Whether all rows of large data sets are read; otherwise `SAMPLED` of them.
        workers: Number of processes that read.

    Raises:
        DataError: When the training would end for want of rows or pictures, though some rows can be
            used; and at the first row that cannot be used if `faults` is strict.
        CheckpointError, HubError: As for `open_orthus`, when the model does not open.
    """
    data = recipe.data
    if model is None:
        assert isinstance(recipe, PretrainRecipe), "every other training starts from a model"
        # Imported here, because no other check needs an autoencoder or trains a tokenizer.
        from orthus_core.train.picture_source import read_pictures
        from orthus_core.train.pretrain import pretrain_rule

        side = recipe.autoencoder.resolution
        rows = yield from read_rows(data, side, faults)
        if not recipe.autoencoder.taken_from:
            yield from read_pictures(data, side, faults=faults)
        rule = pretrain_rule(recipe, rows)
    else:
        path = resolve(model)
        config, processor = read_config(path), open_processor(path)
        encode = row_encoder(processor.tokenizer, config) if processor is not None else None
        side, rule = config.vq_config.resolution, RowRule.of(recipe, encode)
        if isinstance(recipe, FinetuneVaeRecipe):
            from orthus_core.train.picture_source import ReadPictures, read_pictures

            pictures = yield from read_pictures(data, side, rule, faults)
            sources = pictures.sources if isinstance(pictures, ReadPictures) else []
            found = [[part] for part in sources if isinstance(part, ReadRows)]
            return (yield from check_large(found, rule, side, faults, everything, workers))
        rows = yield from read_rows(data, side, faults)
    rows = yield from usable(rows, rule)
    apart = {part.name: part for part in (rows.held_out.parts if rows.held_out else ())}
    found = [
        [part, *([held_out] if isinstance(held_out := apart.get(part.name), ReadRows) else [])]
        for part in rows.train.parts
        if isinstance(part, ReadRows)
    ]
    return (yield from check_large(found, rule, side, faults, everything, workers))


def check_large(
    found: Sequence[Sequence[ReadRows]],
    rule: Rule,
    side: int,
    faults: RowFaults,
    everything: bool,
    workers: int,
) -> Generator[Event, None, list[CheckedSource]]:
    """What was found in data sets, after reading rows of those that were not read at once.

    Args:
        found: The usable rows of each data set, to train on and held out.
    """
    checked = []
    for parts in found:
        name, rows = parts[0].name, parts[0].rows
        if len(rows) <= WHOLE:
            checked.append(CheckedSource(name, rows, len(rows), sum(map(len, parts))))
            continue
        count = len(rows) if everything else min(SAMPLED, len(rows))
        numbers = [Permutation(len(rows), 0)(place) for place in range(count)]
        check = partial(_check, rule=rule, side=side)
        lots = FaultsOf(rows, name, check, sorted(numbers), faults.strict)
        unusable = 0
        for lot, met in enumerate(lots.all(workers), start=1):
            faults.merge(met)
            unusable += len(met)
            yield Progress("rows", min(lot * TOGETHER, count), count, unit="documents")
        checked.append(CheckedSource(name, rows, count, count - unusable))
    return checked


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
    strict: bool

    def __len__(self) -> int:
        return -(-len(self.numbers) // TOGETHER)

    def __getitem__(self, lot: int) -> list[RowFault]:
        if lot >= len(self):
            raise IndexError(lot)
        own = self.numbers[lot * TOGETHER : (lot + 1) * TOGETHER]
        found = (fault_in(self.rows, number, self.check, self.name) for number in own)
        return [fault for fault in found if fault]

    def all(self, workers: int) -> Iterator[list[RowFault]]:
        """Those of all rows in order, read by so many processes."""
        if workers:
            context = "fork"
            yield from DataLoader(
                self, batch_size=None, num_workers=workers, multiprocessing_context=context
            )
        else:
            yield from (self[lot] for lot in range(len(self)))
