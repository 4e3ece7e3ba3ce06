"""A model and adapters as one model folder, written one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from orthus_core.atomic import real_path
from orthus_core.atomic_folder import check_folder, staged_folder
from orthus_core.checkpoint.adapters import bring_settings, merged, read_adapters
from orthus_core.checkpoint.card import model_card, origin_of
from orthus_core.checkpoint.headers import CONFIG, INDEX, MODEL_FILES, check_path
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.hub_files import add_hub_files
from orthus_core.checkpoint.model_folder import read_config
from orthus_core.checkpoint.writer import write_weights
from orthus_core.data.known_words import VOCABULARY, WORDS
from orthus_core.device import limit_threads
from orthus_core.errors import CheckpointError
from orthus_core.events import Progress
from orthus_core.model.config import OrthusConfig
from orthus_core.output_checks import check_room
from orthus_core.user_files import user_path

SHARD_BYTES = 5 * 10**9
# Files of the base that say how it was made, and not what the new model is.
_OF_THE_BASE = ("recipe.toml", "run.json", "recipe.json", "metrics.jsonl", "quality.json")


class Merged(NamedTuple):
    """A model folder that was written, with the bytes of its weights."""

    folder: Path
    bytes: int


def merge(
    source: str | Path, lora: Sequence[str | Path], output: Path, *, overwrite: bool = False
) -> Iterator[Progress | Merged]:
    """Write a model with adapters as a model folder; each tensor keeps the precision that it is
    stored in.

    Args:
        source: Folder, alias or hub id of the model.
        lora: Adapters, each PATH or PATH:SCALE.
        output: Folder to create; it appears once everything is written.
        overwrite: Replace a model folder at `output`.

    Raises:
        CheckpointError: When the model or the adapters do not read, or do not belong together.
        OutputError: When `output` exists, cannot be written, or does not fit on the disk.
    """
    limit_threads()
    output, folder = user_path(output), resolve(source)
    check_path(output)
    check_folder(output, mark=CONFIG, overwrite=overwrite)
    if real_path(output) == real_path(folder):
        raise CheckpointError(
            "the model would be replaced while it is read",
            where=str(output),
            hint="write the merged model to another folder with -o",
        )
    config = read_config(folder)
    if not isinstance(config, OrthusConfig):
        raise CheckpointError(
            "this is a discrete Chameleon, and adapters are of an Orthus", where=str(folder)
        )
    adapters = read_adapters(lora, folder, str(source))
    tensors = merged(folder, adapters)
    size = sum(tensor.bytes for tensor in tensors.values())
    check_room(output, size)
    config.origin = origin_of("merge", config, folder.name)
    config.origin["adapters"] = [each.record for each in adapters]
    bring_settings(config, adapters)
    config.tie_word_embeddings = False  # both are written out
    with staged_folder(output, mark=CONFIG, replaces=MODEL_FILES, overwrite=overwrite) as staged:
        yield from write_weights(staged, tensors, SHARD_BYTES)
        for file in sorted(folder.iterdir()):
            aside = file.suffix == ".safetensors" or file.name in (CONFIG, INDEX, *_OF_THE_BASE)
            if file.is_file() and not aside and not file.name.startswith("."):
                (staged / file.name).write_bytes(file.read_bytes())
        for words in (user_path(a.path) / name for a in adapters for name in (VOCABULARY, WORDS)):
            if words.is_file():  # the last adapters' words, as where they are loaded
                (staged / words.name).write_bytes(words.read_bytes())
        card = model_card(config, real_path(output).name)
        (staged / "README.md").write_text(card, encoding="utf-8")
        config.save_pretrained(staged)
        add_hub_files(staged)
    yield Merged(output, size)
