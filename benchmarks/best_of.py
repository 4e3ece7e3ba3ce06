"""What `--best-of` is worth: python benchmarks/best_of.py [--model MODEL] [--prompts N]

Candidates of prompts for one thing and for two are drawn once; each is scored by the model's own
answers, and judged right or wrong by the detector of `orthus eval`. The best of the first 1, 4 and
8 candidates are compared: as the model chooses, and as a perfect choice would.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from orthus_core import Orthus
from orthus_core.api import run
from orthus_core.api.best_of import CandidatesJudged, prepare_best_of
from orthus_core.api.inputs import input_image
from orthus_core.api.loaded import LoadedModel
from orthus_core.data.pixels import to_image
from orthus_core.evaluation.intervals import bootstrap, wilson
from orthus_core.events import ImageDone
from orthus_core.recipe import GenerateRecipe, load
from orthus_core.samplers.answer_scores import answer_probabilities
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.prompt_questions import PromptQuestion
from orthus_core.world.benchmark.detector import Detector
from orthus_core.world.benchmark.geneval_rule import judge
from orthus_core.world.benchmark.model_under_test import to_unit_range
from orthus_core.world.geneval_prompts import geneval_prompts
from orthus_core.world.world import World

TAGS = ("single_object", "two_object")
SIZES = (1, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--prompts", type=int, default=12, help="prompts of each category")
    parser.add_argument("--noise-scale", type=float, help="the model's own if left out")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--wordings", choices=("trained", "held-out"), help="plain if left out")
    options = parser.parse_args()
    start = time.process_time()
    world = World.open(testing=True)
    detector = Detector(world)
    every = geneval_prompts(world, options.prompts, 5, options.wordings)
    asked = [prompt for prompt in every if prompt.tag in TAGS]
    orthus = Orthus.open(options.model, device="cpu", dtype="fp32")
    flags = {"best_of": max(SIZES), "preset": options.preset, "noise_scale": options.noise_scale}
    recipe = load(GenerateRecipe, flags=flags)
    loaded = LoadedModel(orthus.builder, orthus.about, None)
    request = prepare_best_of(loaded, recipe, [prompt.prompt for prompt in asked], [1])
    right = np.zeros((len(asked), request.candidates), bool)
    firsts: dict[int, Image.Image] = {}
    scores = np.zeros((len(asked), request.candidates))
    for event in run(request):
        if isinstance(event, ImageDone):
            row, number = divmod(event.row, request.candidates)
            found = detector.find(to_unit_range(event.pixels_3HW))
            if number == 0:
                firsts[row] = to_image(event.pixels_3HW)
            right[row, number] = judge(asked[row].record(), found).right
        if isinstance(event, CandidatesJudged):
            scores[event.row] = event.scores
    # Does the model see anything at all? Each first candidate, asked about the next prompt, too.
    of_one = len(asked) // len(TAGS)
    others = [(row + 1) % of_one + row // of_one * of_one for row in range(len(asked))]
    for tag in TAGS:
        rows = [number for number, prompt in enumerate(asked) if prompt.tag == tag]
        own = [
            scores[row, 0] > mean_score(orthus.builder, firsts[row], request.questions[others[row]])
            for row in rows
        ]
        low, high = wilson(sum(own), len(own))
        print(f"{tag}, own prompt before another: {np.mean(own):.2f} [{low:.2f}, {high:.2f}]")
    for tag in TAGS:
        rows = [number for number, prompt in enumerate(asked) if prompt.tag == tag]
        report(tag, right[rows], scores[rows])
    both = right.any(1) & ~right.all(1)  # only there a choice can help
    print(f"prompts with right and wrong candidates: {both.sum()} of {len(asked)}")
    if both.any():
        pairs = [
            float(scores[row, a] > scores[row, b])
            for row in np.flatnonzero(both)
            for a in np.flatnonzero(right[row])
            for b in np.flatnonzero(~right[row])
        ]
        print(f"a right one has the higher score than a wrong one: {np.mean(pairs):.2f} of pairs")
    print(f"scores of a prompt's candidates: standard deviation {scores.std(1).mean():.3f}")
    print(f"{time.process_time() - start:.0f} s of one core")


def mean_score(
    builder: PromptBuilder, image: Image.Image, questions: Sequence[PromptQuestion]
) -> float:
    """The score of one picture for some questions."""
    picture = input_image(image).picture
    return float(np.mean(answer_probabilities(builder, [picture], questions)[0]))


def report(tag: str, right: np.ndarray, scores: np.ndarray) -> None:
    """Prints the shares of right pictures, with 95% intervals."""
    of = {
        size: right[range(len(right)), scores[:, :size].argmax(1)].astype(float) for size in SIZES
    }
    for size in SIZES:
        low, high = wilson(int(of[size].sum()), len(right))
        gain = of[size] - of[1]
        apart = bootstrap(list(gain), lambda values: float(np.mean(values)))
        print(
            f"{tag}, best of {size}: {of[size].mean():.2f} [{low:.2f}, {high:.2f}], "
            f"against one {gain.mean():+.2f} [{apart.low:+.2f}, {apart.high:+.2f}]; "
            f"a perfect choice {right[:, :size].any(1).mean():.2f}; n {len(right)}"
        )


if __name__ == "__main__":
    main()
