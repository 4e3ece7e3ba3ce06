"""The pictures of README.md, drawn by a model: python benchmarks/readme_pictures.py [MODEL]

Single things and scenes at one seed with the model's own sampling values, and one prompt at seeds 1
to 8.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from orthus_core.checkpoint.model_folder import open_model
from orthus_core.events import ImageDone
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.train.sample_grid import sheet

PROMPTS = (
    "a snowman, a red apple, a cat, a rocket, a pizza, a sunflower, a guitar, a fish",
    "a house, a dog on a blue background, an octopus, a strawberry, a car, a ghost, a bus, a robot",
)
SCENES = (
    "a dog and a cat, three strawberries, a purple kite, a fox left of a penguin, "
    "a red star and a blue key, an owl in a meadow at night, a rocket above a house, "
    "two snowmen in the snow by day",
)
SEEDS = range(1, 9)
SCALE = 2


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    model, processor, _ = open_model(options.model, dtype="fp32")
    builder = PromptBuilder(model, processor.tokenizer)
    params = SamplingParams.resolve(model.config)

    def drawn(asked: list[tuple[str, int]]) -> torch.Tensor:
        prompts = [builder.picture(text, params)._replace(seed=seed) for text, seed in asked]
        events = generate(model, prompts, params)
        done = {e.row: e.pixels_3HW for e in events if isinstance(e, ImageDone)}
        return torch.stack([done[row] for row in range(len(asked))])

    options.output.mkdir(parents=True, exist_ok=True)
    for name, prompts in {"sheet": PROMPTS, "scenes": SCENES}.items():
        rows = [drawn([(text, 1) for text in row.split(", ")]) for row in prompts]
        save(sheet(rows), options.output / f"{name}.png")
    save(sheet([drawn([("a snowman", seed) for seed in SEEDS])]), options.output / "snowmen.png")


def save(image: Image.Image, path: Path) -> None:
    size = (image.width * SCALE, image.height * SCALE)
    image.resize(size, Image.Resampling.LANCZOS).save(path, optimize=True)


if __name__ == "__main__":
    main()
