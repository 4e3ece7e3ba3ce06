"""What a training would leave out of a data set, found without training: `orthus data check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import open_processor, read_config
from orthus_core.data.formats.reading import ReadResult
from orthus_core.data.row_rule import RowRule
from orthus_core.data.sources import hold_out
from orthus_core.events import Event
from orthus_core.recipe.training import PretrainRecipe
from orthus_core.train.batches import row_encoder, split_rows, to_train_on

if TYPE_CHECKING:
    from orthus_core.data.row_rule import TrainingRecipe


def check_data(
    reading: ReadResult, recipe: TrainingRecipe, model: str, where: Path
) -> Iterator[Event]:
    """Skip the documents of a data set that a training could not use.

    Args:
        reading: The data set as it was read; afterwards only what can be used is left.
        recipe: Recipe of the training.
        model: Folder, alias or hub id of the model it starts from; `pretrain` starts from none.
        where: Path of the data set.

    Raises:
        DataError: When the training would end for want of rows or pictures, though some rows can be
            used.
        CheckpointError, HubError: As for `open_orthus`, when the model does not open.
        DataError: When the reading is strict, at the first such document.
    """
    if isinstance(recipe, PretrainRecipe):
        from orthus_core.train.picture_source import split_pictures
        from orthus_core.train.pretrain import pretrain_rule

        yield from reading.check_pictures(recipe.autoencoder.resolution)
        if reading.documents:
            if not recipe.autoencoder.taken_from:
                split_pictures(reading.documents, recipe.data, where)
            rule = pretrain_rule(recipe, split_rows(reading.documents, recipe.data))
            _, held_out = hold_out(reading.documents, recipe.data.held_out, recipe.data.seed)
            yield from reading.check(rule, "rows")
            to_train_on(reading.documents, held_out, where)
        return
    path = resolve(model)
    config, processor = read_config(path), open_processor(path)
    encode = row_encoder(processor.tokenizer, config) if processor is not None else None
    yield from reading.check_pictures(config.vq_config.resolution)
    _, held_out = hold_out(reading.documents, recipe.data.held_out, recipe.data.seed)
    yield from reading.check(RowRule.of(recipe, encode), "rows")
    if recipe.command != "finetune-vae":  # it holds out pictures of the rows that can be used
        to_train_on(reading.documents, held_out, where)
