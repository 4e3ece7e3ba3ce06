"""First scores of a small model on the bundled sprites: python benchmarks/starter_scores.py [MODEL]

- recall: of N plain sprites asked for by name, how often the drawing is nearest (mean squared error
of pixels) to the
  sprite of that name, among all sprites. Chance is one in the number of sprites.
- captions: of N plain sprites shown with "What is this?", how often the answer is the sprite's own
phrase.
- PSNR of all plain sprites through the autoencoder: from features, and from the nearest codes.

These sprites were all trained on: the scores say what the model has learnt by heart, no more.
"""

from __future__ import annotations

import argparse
import math
import random
import time

import torch

from orthus_core.checkpoint.folder import open_model
from orthus_core.data.pixels import pack_pixels
from orthus_core.data.sprites import SpritePack
from orthus_core.data.world.questions import caption
from orthus_core.data.world.world import World
from orthus_core.events import ImageDone, TextPiece
from orthus_core.samplers.batches import in_batches
from orthus_core.samplers.requests import Asking, sampling_of
from orthus_core.samplers.settings import Settings
from orthus_core.samplers.words import with_words


def psnr(pixels_M3HW: torch.Tensor, truth_M3HW: torch.Tensor) -> float:
    """Mean over pictures, in decibels; pixels are in [-1, 1]."""
    error_M = (pixels_M3HW.clamp(-1, 1) - truth_M3HW).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / error_M)).mean())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("-n", type=int, default=64, help="sprites asked for")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()

    model, processor, path = open_model(options.model, dtype="fp32")
    world = World(SpritePack.open())
    plain = [s for s in world.sprites if not s.skin and not s.gender and s.group != "symbols"]
    size = model.config.vq_config.resolution
    truth_M3HW = pack_pixels([world.picture(sprite).load(size) for sprite in plain])
    asked = random.Random(0).sample(range(len(plain)), min(options.n, len(plain)))
    asking, sampling = Asking(model, processor.tokenizer), sampling_of(model.config)
    print(f"{path.name}: {len(plain)} plain sprites, {len(asked)} asked for, {sampling}")

    # 1. Drawing.
    prompts = [
        asking.picture(world.names(plain[index]).phrase, sampling)._replace(seed=1)
        for index in asked
    ]
    settings = Settings(steps=sampling.steps, noise_scale=sampling.noise_scale)
    began, right = time.monotonic(), 0
    for event in in_batches(model, prompts, settings, options.batch_size):
        if isinstance(event, ImageDone):
            distance_M = (truth_M3HW - event.pixels_3HW).square().flatten(1).mean(1)
            right += int(distance_M.argmin()) == asked[event.row]
    seconds = (time.monotonic() - began) / len(asked)
    print(f"recall {right}/{len(asked)}, {seconds:.2f} s a picture")

    # 2. Saying.
    questions = [asking.question(world.picture(plain[i]), "What is this?") for i in asked]
    answers = [""] * len(asked)
    writing = Settings(max_images=0, max_text=24)
    events = in_batches(model, questions, writing, options.batch_size)
    for event in with_words(events, processor.tokenizer):
        if isinstance(event, TextPiece):
            answers[event.row] += event.text
    exact = sum(
        answer.strip().lower() == caption(world, plain[index]).lower()
        for answer, index in zip(answers, asked, strict=True)
    )
    print(f"captions exact {exact}/{len(asked)}")

    # 3. The autoencoder.
    vq = model.model.vqmodel
    from_features, from_codes = [], []
    for part_M3HW in truth_M3HW.split(64):
        from_features.append(psnr(vq.pixels(vq.features(part_M3HW)), part_M3HW) * len(part_M3HW))
        decoded_M3HW = vq.pixels_of_codes(vq.codes(part_M3HW))
        from_codes.append(psnr(decoded_M3HW, part_M3HW) * len(part_M3HW))
    scores = [math.fsum(part) / len(truth_M3HW) for part in (from_features, from_codes)]
    print(f"PSNR {scores[0]:.1f} dB from features, {scores[1]:.1f} dB from codes")


if __name__ == "__main__":
    main()
