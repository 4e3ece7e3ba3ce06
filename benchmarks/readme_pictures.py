"""The pictures of README.md, each with its prompt: python benchmarks/readme_pictures.py [MODEL]

Single things and scenes at one seed, and one prompt at seeds 1 to 8, with the model's own sampling
values.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from orthus_core import Orthus
from orthus_core.image_grid import image_grid, with_caption

THINGS = (
    "a snowman, a red apple, a cat, a rocket, a pizza, a sunflower, a guitar, a fish",
    "a house, a dog on a blue background, an octopus, a strawberry, a car, a ghost, a bus, a robot",
)
SCENES = (
    "a dog and a cat, three strawberries, a purple kite, a fox left of a penguin, "
    "a red star and a blue key, an owl in a meadow at night, a rocket above a house, "
    "two snowmen in the snow by day",
)
SEEDS = list(range(1, 9))
SIDE = 128  # pixels of a picture on the page
GAP = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    orthus = Orthus.open(options.model, dtype="fp32")

    def strip(prompts: list[str], seeds: list[int], captions: list[str]) -> list[Image.Image]:
        images = orthus.generate(prompts, seed=seeds).images
        return [with_caption(_enlarged(i), text) for i, text in zip(images, captions, strict=True)]

    rows = {
        name: [strip(row.split(", "), [1], row.split(", ")) for row in rows]
        for name, rows in {"sheet": THINGS, "scenes": SCENES}.items()
    }
    rows["snowmen"] = [strip(["a snowman"], SEEDS, [f"a snowman, seed {n}" for n in SEEDS])]
    options.output.mkdir(parents=True, exist_ok=True)
    for name, lines in rows.items():
        image_grid(lines, gap=GAP).save(options.output / f"{name}.png", optimize=True)


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
