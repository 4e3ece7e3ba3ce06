"""The first rows of a training, for people: `orthus data show`."""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from typing import TYPE_CHECKING

from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import open_processor, read_config
from orthus_core.data.encode import TokenIds
from orthus_core.data.row_rule import RowRule
from orthus_core.data.shown_row import ShownRow, shown_row
from orthus_core.errors import CheckpointError
from orthus_core.events import Event
from orthus_core.train.batches import read_rows, row_encoder

if TYPE_CHECKING:
    from orthus_core.data.row_rule import TrainingRecipe


def shown_rows(
    recipe: TrainingRecipe, model: str, count: int
) -> Generator[Event, None, tuple[list[ShownRow], int]]:
    """The first rows that a training sees, and the side of its pictures in pixels.

    Args:
        recipe: Recipe of the training.
        model: Folder, alias or hub id of the model whose tokenizer and context are used.
        count: Number of rows; fewer if there are fewer.

    Raises:
        DataError: When the data set cannot be read.
        CheckpointError, HubError: As for `open_orthus`, when the model does not open.
    """
    path = resolve(model)
    config, processor = read_config(path), open_processor(path)
    if processor is None:
        raise CheckpointError("the model has no tokenizer to show texts by", where=str(path))
    rule = RowRule.of(recipe, row_encoder(processor.tokenizer, config))
    side = config.vq_config.resolution
    rows = yield from read_rows(recipe.data, side)
    ids = TokenIds.of(config)
    first = islice(rows.train.once(), count)
    shown = [shown_row(each.document, rule, processor.tokenizer, ids) for each in first]
    return shown, side
