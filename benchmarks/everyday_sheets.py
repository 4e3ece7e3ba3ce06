"""Draws everyday prompts as sheets without the prompts, for someone to name who never read them.

    python benchmarks/everyday_sheets.py draw -m mini -o sheets     # 60 prompts, two seeds each
    python benchmarks/everyday_sheets.py judge sheets               # what the detector finds
    python benchmarks/everyday_sheets.py score sheets named.json    # shares, side by side

`draw` writes numbered sheets in random order, the pictures, and `prompts.json`, which the observer
must not see. The observer writes what each picture shows, as {"1": "a dog under a tree", ...}; a
second reading, with the prompts, says which of these names are right: {"1": true, ...} is
`named.json`. The prompts (`everyday_prompts.txt`) were written before the training by someone who
knew neither the code nor the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from orthus_core import Orthus
from orthus_core.checkpoint.hub import resolve
from orthus_core.data.known_words import KnownWords
from orthus_core.image_grid import contact_sheet, with_caption
from orthus_core.world.benchmark.detector import Detector
from orthus_core.world.benchmark.scores import wilson
from orthus_core.world.benchmark.sprite_metric import unit_range_of_bytes
from orthus_core.world.vocabulary import entries
from orthus_core.world.world import World

PROMPTS = Path(__file__).with_name("everyday_prompts.txt")
SEEDS = (1, 2)
SHEET, COLUMNS = 20, 5
SHOWN = 192  # pixels of a picture on a sheet
KEY, FOUND = "prompts.json", "judged.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("-m", "--model", default="mini")
    drawing.add_argument("-o", "--output", type=Path, required=True)
    judging = commands.add_parser("judge")
    judging.add_argument("sheets", type=Path)
    judging.add_argument("-m", "--model", default="mini", help="model that drew them")
    scoring = commands.add_parser("score")
    scoring.add_argument("sheets", type=Path)
    scoring.add_argument("named", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "draw":
        draw(chosen.model, chosen.output)
    elif chosen.command == "judge":
        judge(chosen.sheets, chosen.model)
    else:
        score(chosen.sheets, chosen.named)


def draw(model: str, output: Path) -> None:
    """Draws every prompt with every seed, and writes them in random order."""
    output.mkdir(parents=True, exist_ok=False)
    prompts = [line for line in PROMPTS.read_text(encoding="utf-8").split("\n") if line]
    drawn = Orthus.open(model).generate(prompts, seed=list(SEEDS))
    asked = [
        (info.prompt, info.seed, image)
        for image, info in zip(drawn.images, drawn.infos, strict=True)
    ]
    random.Random(0).shuffle(asked)
    shown = []
    for number, (_, _, picture) in enumerate(asked, start=1):
        picture.save(output / f"{number:03}.png")
        larger = picture.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
        shown.append(with_caption(larger, str(number), lines=1))
    for sheet, start in enumerate(range(0, len(shown), SHEET), start=1):
        contact_sheet(shown[start : start + SHEET], COLUMNS).save(output / f"sheet-{sheet}.png")
    key = [{"number": n, "prompt": p, "seed": s} for n, (p, s, _) in enumerate(asked, start=1)]
    (output / KEY).write_text(json.dumps(key, indent=1) + "\n")
    print(f"{len(shown)} pictures on {-(-len(shown) // SHEET)} sheets in {output}")


def judge(sheets: Path, model: str) -> None:
    """Which pictures have all things of their prompt, and as many as it says, by the detector.

    One whose prompt also names a thing that is not taught, or has a word that the model does not
    know ("flat", "woods"), is not right: the rest is not what was asked for.
    """
    world = World.open()
    known = KnownWords.of(resolve(model))
    detector = Detector(world)
    found = {}
    for entry in json.loads((sheets / KEY).read_text()):
        wanted, untaught = things_of(world, entry["prompt"])
        if known is not None:
            untaught += [each.word for each in known.unknown(entry["prompt"])]
        with Image.open(sheets / f"{entry['number']:03}.png") as picture:
            picture_3HW = unit_range_of_bytes(np.asarray(picture.convert("RGB")))
        seen = [each.noun for each in detector.find(picture_3HW)]
        right = None
        if wanted or untaught:
            right = not untaught and all(seen.count(noun) == count for noun, count in wanted)
        found[entry["number"]] = {
            "wanted": wanted,
            "untaught": untaught,
            "seen": seen,
            "right": right,
        }
    (sheets / FOUND).write_text(json.dumps(found, indent=1) + "\n")
    verdicts = [each["right"] for each in found.values() if each["right"] is not None]
    without = len(found) - len(verdicts)
    print(f"by the detector {share_text(verdicts)}; {without} name nothing that is known here")


NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "pair": 2}


def things_of(world: World, prompt: str) -> tuple[list[tuple[str, int]], list[str]]:
    """The nouns of the cast that a prompt names, each with its number; and the names of things in
    it that are not taught.
    """
    words = re.findall(r"[a-z0-9]+", prompt.lower())
    named = [*_things(world, words)]
    return [(noun, count) for noun, count, _ in named if noun], [n for t, _, n in named if not t]


def _things(world: World, words: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    # Names of what is not taught, too: a polar bear is no bear.
    nouns = {name.lower(): "" for entry in entries() for name in (entry.name, *entry.others)}
    nouns |= {name.lower(): noun for noun in world.cast for name in world.things[noun].names.all}
    place = 0
    while place < len(words):
        for length in (3, 2, 1):
            name = " ".join(words[place : place + length])
            singular = name.removesuffix("s")
            spellings = (name, singular, name.removesuffix("es"), re.sub("ies$", "y", name))
            noun = next((nouns[each] for each in spellings if each in nouns), None)
            if noun is not None and length <= len(words) - place:
                before = words[max(0, place - 2) : place]
                counts = [int(w) if w.isdigit() else NUMBERS.get(w, 1) for w in before]
                yield noun, max([1, *counts]), name
                place += length - 1
                break
        place += 1


def score(sheets: Path, named: Path) -> None:
    """The share that the observer named rightly, beside the detector's."""
    right = json.loads(named.read_text())
    print(f"named rightly {share_text([*right.values()])}")
    if (sheets / FOUND).exists():
        found = json.loads((sheets / FOUND).read_text())
        both = [(right[n], each["right"]) for n, each in found.items() if each["right"] is not None]
        agree = sum(a == b for a, b in both)
        print(f"the detector {share_text([b for _, b in both])}, agreement {agree} of {len(both)}")


def share_text(right: Sequence[bool]) -> str:
    low, high = wilson(sum(right), len(right))
    return f"{sum(right)} of {len(right)} ({sum(right) / len(right):.2f}, {low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
