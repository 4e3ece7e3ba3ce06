"""The rows a transformer trains on: documents of a recipe's data, encoded, with features or codes
of their pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from orthus_core.data.collate import FeatureSource, collate, collate_discrete
from orthus_core.data.document import Document, says
from orthus_core.data.encode import Encoded, TokenIds, encode
from orthus_core.data.formats import sniff
from orthus_core.data.sources import Batches, Shuffled, Source
from orthus_core.data.sprites import SpritePack
from orthus_core.data.world.records import record
from orthus_core.data.world.world import World
from orthus_core.model.config import OrthusConfig
from orthus_core.recipe.training import DataRecipe, TaskWeights

SPRITES = "sprites"


def task_weights(tasks: TaskWeights) -> Mapping[str, float]:
    """The tasks that are drawn at all, with their weights."""
    weights = {name: getattr(tasks, name) for name in ("text_to_image", "caption", "edit", "story")}
    return {name: weight for name, weight in weights.items() if weight > 0}


def documents(data: DataRecipe) -> Source:
    """Row number n of the recipe's data, n = 0, 1, 2 ...

    Raises: DataError when the source is missing or holds nothing.
    """
    if data.source == SPRITES:
        world = World(SpritePack.open(), held_out=data.held_out)
        return partial(record, world, task_weights(data.tasks), data.seed)
    return Shuffled(sniff.read(Path(data.source)).documents, data.seed)


def pictures_alone(source: Source) -> Source:
    """The last picture of each document with nothing said about it, as `build-base` reads them."""

    def alone(number: int) -> Document:
        document = source(number)
        pictures = [segment for segment in document.segments if segment.type == "image"]
        last = pictures[-1]
        return Document(says("model", last.value), document.id, document.source)

    return alone


def orthus_batches(
    source: Source,
    data: DataRecipe,
    config: OrthusConfig,
    tokenizer: PreTrainedTokenizerBase,
    features_of: FeatureSource,
    batch_size: int,
) -> Batches:
    """The batch of each step, with features in the slots."""
    ids = TokenIds.of(config)
    return Batches(
        source=source,
        encode=_encoder(tokenizer, ids, config.patches, config.max_position_embeddings),
        collate=partial(collate, ids=ids, features_of=features_of),
        batch_size=batch_size,
        seed=data.seed,
        condition_dropout=data.condition_dropout,
        window=8,
    )


def discrete_batches(
    source: Source,
    data: DataRecipe,
    config: OrthusConfig,
    tokenizer: PreTrainedTokenizerBase,
    codes_of: FeatureSource,
    batch_size: int,
) -> Batches:
    """The batch of each step for a discrete Chameleon, with code tokens in the slots."""
    ids = TokenIds.of(config)
    fill = partial(
        collate_discrete, ids=ids, codes_of=codes_of, code_token_ids=config.code_token_ids
    )
    return Batches(
        source=source,
        encode=_encoder(tokenizer, ids, config.patches, config.max_position_embeddings),
        collate=fill,
        batch_size=batch_size,
        seed=data.seed,
        condition_dropout=data.condition_dropout,
        window=8,
    )


def _encoder(
    tokenizer: PreTrainedTokenizerBase, ids: TokenIds, patches: int, longest: int
) -> Callable[[Document], Encoded]:
    return partial(encode, tokenizer=tokenizer, ids=ids, patches=patches, longest=longest)
