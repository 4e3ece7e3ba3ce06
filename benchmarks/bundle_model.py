"""Put a trained model among the bundled ones: python benchmarks/bundle_model.py runs/mini mini

With `--from mini` only what differs from that bundled model is stored
(`checkpoint/differences.py`).

The weights are written in bf16 and in files that a git host takes, with the model's recipe and its
lists of words. The run's figures and the place of its feature cache stay out: they belong to the
training. A card that is there already stays, since people write it.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from orthus_core.checkpoint.differences import write_differences
from orthus_core.checkpoint.model_folder import open_model, save_model
from orthus_core.data.known_words import VOCABULARY, WORDS
from orthus_core.recipe import SCHEMAS, load, save
from orthus_core.recipe.load import command_of

STARTER = Path(__file__).parents[1] / "orthus_core" / "starter"
LARGEST_FILE = "13MB"
CARD = "README.md"
RECIPES = ("recipe.toml", "recipe.json")  # of an Orthus, and of a discrete Chameleon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder that a training wrote")
    parser.add_argument("name", help="of the bundled model")
    parser.add_argument("--from", dest="base", metavar="MODEL", help="the one it differs from")
    options = parser.parse_args()
    target = STARTER / options.name
    if options.base:
        bundle_differences(options.model, STARTER / options.base, target)
    else:
        bundle(options.model, target)
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:>12,} {file.name}")


def bundle(source: Path, target: Path) -> Path:
    """Write a trained model to `target`, which may be a bundled model that it replaces.

    Raises:
        CheckpointError: When `source` is no model folder, or damaged.
        OutputError: When `target` holds something else, or cannot be written to.
    """
    opened = open_model(source, device="cpu", dtype="bf16")
    texts = {
        path.name: path.read_text("utf-8")
        for path in (source / VOCABULARY, source / WORDS, target / CARD)
        if path.is_file()
    }
    for path in map(source.joinpath, RECIPES):
        if path.is_file():
            texts[path.name] = published_recipe(path)
    return save_model(
        opened.model,
        opened.processor,
        target,
        texts=texts,
        overwrite=True,
        max_shard_size=LARGEST_FILE,
    )


def bundle_differences(source: Path, base: Path, target: Path) -> Path:
    """Write what a trained model differs in from a bundled one; a card that is there stays.

    Raises:
        CheckpointError: When a folder is no model folder, or damaged.
        ValueError: When the base has a tensor that the model has not.
    """
    with TemporaryDirectory() as folder:
        whole = bundle(source, Path(folder) / target.name)
        if (target / CARD).exists():
            shutil.copyfile(target / CARD, whole / CARD)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        write_differences(whole, base, target)
    return target


def published_recipe(path: Path) -> str:
    """The text of a training's recipe without the place of its feature cache, which is a folder of
    the machine that it ran on.
    """
    recipe: Any = load(SCHEMAS[command_of(path)], path)
    recipe = replace(recipe, data=replace(recipe.data, cache=""))
    with TemporaryDirectory() as folder:
        return save(recipe, Path(folder) / path.name).read_text("utf-8")


if __name__ == "__main__":
    main()
