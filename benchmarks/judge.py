"""How good the judge of `orthus eval` is: python benchmarks/judge.py [--autoencoder MODEL]

It judges pictures whose content is known (true scenes of GenEval's six categories, the same scenes
through an autoencoder, blurred, and with two things swapped), and a model's drawings of the same
prompts. The table is that of docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from orthus_core import Orthus
from orthus_core.train.linear_code import LinearCode
from orthus_core.world.benchmark.detector import Detector
from orthus_core.world.benchmark.geneval_rule import judge, scene_of
from orthus_core.world.benchmark.sprite_metric import blur, unit_range_of_bytes
from orthus_core.world.geneval_prompts import TAGS, geneval_prompts
from orthus_core.world.scene import Scene
from orthus_core.world.scenes import sample_scene
from orthus_core.world.world import World

SIDE, PATCH = 128, 16  # pixels
FITTED = 800  # scenes that the linear code is fitted to
BLUR = 0.12  # standard deviation, as a share of a thing's side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini", help="model whose drawings are judged")
    parser.add_argument("--autoencoder", help="model of the round trips; a linear code if left out")
    parser.add_argument("--channels", type=int, default=96, help="channels of the linear code")
    parser.add_argument("--prompts", type=int, default=20, help="prompts of each category")
    options = parser.parse_args()
    world = World.open(testing=True)
    detector = Detector(world)
    requests = [prompt.record() for prompt in geneval_prompts(world, options.prompts, seed=5)]
    rng = random.Random(5)
    scenes = [scene_of(rng, world, request) for request in requests]
    trip = of_model(options.autoencoder) if options.autoencoder else of_code(options.channels)

    def shown(scene: Scene) -> Tensor:
        return unit_range_of_bytes(world.scene_image(scene).load(SIDE))

    def blurred(scene: Scene) -> Tensor:
        return blur(shown(scene), BLUR * scene.things[0].side * SIDE / 64)

    def swapped(scene: Scene) -> Tensor:
        if len(scene.things) < 2:
            return torch.ones(3, SIDE, SIDE)
        one, other, *rest = scene.things
        first = Scene(scene.backdrop, (one, other, *rest))
        first = first.with_thing(0, x=other.x, y=other.y).with_thing(1, x=one.x, y=one.y)
        return shown(first)

    images = Orthus.open(options.model, dtype="fp32").generate(
        [request["prompt"] for request in requests], seed=[5]
    )
    drawings = [unit_range_of_bytes(np.asarray(image)) for image in images.images]
    rows = {
        "true scenes": [shown(scene) for scene in scenes],
        "their round trips": [trip(shown(scene)) for scene in scenes],
        "blurred": [blurred(scene) for scene in scenes],
        "two things swapped": [swapped(scene) for scene in scenes],
        f"drawn by {options.model}": drawings,
    }
    print("| pictures | " + " | ".join(TAGS) + " | two or more things | ms |")
    for name, pictures in rows.items():
        start = time.process_time()
        right = [
            judge(request, detector.find(picture)).right
            for request, picture in zip(requests, pictures, strict=True)
        ]
        taken = (time.process_time() - start) / len(pictures)
        of_tag = {
            tag: [r for r, q in zip(right, requests, strict=True) if q["tag"] == tag]
            for tag in TAGS
        }
        several = [r for r, scene in zip(right, scenes, strict=True) if len(scene.things) > 1]
        shares = [sum(group) / len(group) for group in (*of_tag.values(), several)]
        print(
            f"| {name} | "
            + " | ".join(f"{share:.2f}" for share in shares)
            + f" | {1e3 * taken:.0f} |"
        )


def of_code(channels: int) -> Callable[[Tensor], Tensor]:
    """The round trip through a linear code that is fitted to scenes of training."""
    world, rng = World.open(), random.Random(0)
    scenes = [world.scene_image(sample_scene(rng, world).scene) for _ in range(FITTED)]
    code = LinearCode(channels, PATCH)
    code.fit(torch.stack([unit_range_of_bytes(scene.load(SIDE)) for scene in scenes]) * 2 - 1)
    return lambda x_3HW: (code.pixels(code.features(x_3HW[None] * 2 - 1))[0] / 2 + 0.5).clamp(0, 1)


def of_model(name: str) -> Callable[[Tensor], Tensor]:
    """The round trip through a model's autoencoder, from features."""
    vq = Orthus.open(name, dtype="fp32").model.model.vqmodel
    side = vq.config.resolution

    @torch.no_grad()
    def trip(x_3HW: Tensor) -> Tensor:
        x_13HW = torch.nn.functional.interpolate(x_3HW[None], (side, side), mode="area") * 2 - 1
        return (vq.pixels(vq.features(x_13HW))[0] / 2 + 0.5).clamp(0, 1)

    return trip


if __name__ == "__main__":
    main()
