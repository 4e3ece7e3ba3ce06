"""Put a trained model among the bundled ones: python benchmarks/bundle_model.py runs/mini-4 mini

The same weights in files that a git host takes, with what the training wrote beside them, but not
its figures. A model card that is there already stays, since people write it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from orthus_core.checkpoint.model_folder import open_orthus, save_model

STARTER = Path(__file__).parents[1] / "orthus_core" / "starter"
LARGEST_FILE = "13MB"
KEPT = ("README.md",)
CARRIED = ("recipe.toml", "vocabulary.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder that orthus posttrain wrote")
    parser.add_argument("name", help="of the bundled model")
    options = parser.parse_args()
    target = STARTER / options.name
    opened = open_orthus(options.model, device="cpu", dtype="bf16")
    kept = {name: (target / name).read_text("utf-8") for name in KEPT if (target / name).is_file()}
    carried = {
        name: (options.model / name).read_text("utf-8")
        for name in CARRIED
        if (options.model / name).is_file()
    }
    save_model(
        opened.model,
        opened.processor,
        target,
        texts=carried | kept,
        overwrite=True,
        max_shard_size=LARGEST_FILE,
    )
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:>12,} {file.name}")


if __name__ == "__main__":
    main()
