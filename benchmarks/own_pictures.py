"""What recipe `finetune` teaches a model of twenty drawings, and what it forgets for them.

    python benchmarks/own_pictures.py out                # draw, train, measure before and after
    python benchmarks/own_pictures.py out --only-draw    # the drawings and their captions alone

In `out` are then `creatures` (the drawings), `mine` (the model), `prompts.png` (eight captions of
the folder and three that are not in it, drawn by `mine`), and the reports of `orthus eval mini`.
Printed are its scores before and after and the processor time of the training. Whether the
creatures of `prompts.png` are right is for someone to look at.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 256
OUTLINE = 7
GROUNDS = {
    "white": "#ffffff",
    "yellow": "#ffe27a",
    "light blue": "#a9dcf7",
    "pink": "#ffc4d8",
    "green": "#9ed99a",
}
Drawing = Callable[[ImageDraw.ImageDraw, float, float, float], None]


def zorble(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """A purple ball with two antennae."""
    for side in (-1, 1):
        tip = (x + side * 0.55 * size, y - 1.15 * size)
        draw.line([(x + side * 0.25 * size, y - 0.6 * size), tip], "#3b2357", 12)
        ball(draw, *tip, 0.17 * size, "#ffb000")
    ball(draw, x, y, 0.8 * size, "#8e44c9")
    eyes(draw, x, y, size)


def quimp(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """An orange triangle with two feet."""
    for side in (-1, 1):
        ball(draw, x + side * 0.45 * size, y + 0.85 * size, 0.2 * size, "#7a3b00")
    points = [(x, y - size), (x + size, y + 0.75 * size), (x - size, y + 0.75 * size)]
    draw.polygon(points, "#f57c1f", "#5a2b00", OUTLINE)
    eyes(draw, x, y + 0.2 * size, size)


def flonk(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """A red star with five points."""
    points = []
    for corner in range(10):
        reach, angle = (1.1 if corner % 2 == 0 else 0.5) * size, pi * corner / 5
        points.append((x + reach * sin(angle), y - reach * cos(angle)))
    draw.polygon(points, "#e0322f", "#6b0f0d", OUTLINE)
    eyes(draw, x, y, 0.8 * size)


def mirp(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """A caterpillar of four blue rings."""
    for place in (1.05, 0.35, -0.35):
        ball(draw, x + place * size, y + 0.25 * size, 0.42 * size, "#3f7de0")
    ball(draw, x - 1.0 * size, y - 0.05 * size, 0.5 * size, "#1d4fa8")
    eyes(draw, x - 1.0 * size, y - 0.05 * size, 0.6 * size)


def dabbit(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """A brown square with two long white ears."""
    for side in (-1, 1):
        left = x + side * 0.45 * size - 0.2 * size
        box = (left, y - 1.3 * size, left + 0.4 * size, y - 0.2 * size)
        draw.ellipse(box, "#fff4e6", "#3d2510", OUTLINE)
    box = (x - 0.8 * size, y - 0.55 * size, x + 0.8 * size, y + 0.9 * size)
    draw.rectangle(box, "#a06a3c", "#3d2510", OUTLINE)
    eyes(draw, x, y + 0.1 * size, size)


def ball(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: str) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, "#222222", OUTLINE)


def eyes(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """Two white eyes with black pupils."""
    for side in (-1, 1):
        ball(draw, x + side * 0.28 * size, y - 0.1 * size, 0.18 * size, "#ffffff")
        box = (x + side * 0.28 * size - 7, y - 0.1 * size - 7)
        draw.ellipse((*box, box[0] + 14, box[1] + 14), "#000000")


CREATURES: dict[str, Drawing] = {
    "zorble": zorble,
    "quimp": quimp,
    "flonk": flonk,
    "mirp": mirp,
    "dabbit": dabbit,
}
# The background that the folder never shows each creature on, though it shows others on it.
LEFT_OUT = dict(zip(CREATURES, GROUNDS, strict=True))


def caption(creature: str, ground: str) -> str:
    return f"a {creature}" if ground == "white" else f"a {creature} on a {ground} background"


# Eight captions of the folder, each creature at least once, and three that are not in it.
SHOWN = (
    caption("zorble", "yellow"),
    caption("zorble", "pink"),
    caption("quimp", "white"),
    caption("quimp", "light blue"),
    caption("flonk", "pink"),
    caption("mirp", "light blue"),
    caption("mirp", "white"),
    caption("dabbit", "white"),
)
UNSEEN = tuple(caption(creature, LEFT_OUT[creature]) for creature in ("quimp", "flonk", "dabbit"))


def draw_folder(folder: Path) -> None:
    """Five creatures, each on four backgrounds, with their captions."""
    folder.mkdir(parents=True)
    places = random.Random(0)
    for creature, drawing in CREATURES.items():
        for ground, colour in GROUNDS.items():
            if ground == LEFT_OUT[creature]:
                continue
            picture = Image.new("RGB", (SIDE, SIDE), colour)
            x, y = (SIDE / 2 + places.uniform(-10, 10) for _ in "xy")
            drawing(ImageDraw.Draw(picture), x, y + 12, places.uniform(68, 80))
            name = folder / f"{creature}-{ground.replace(' ', '-')}.png"
            picture.save(name)
            name.with_suffix(".txt").write_text(caption(creature, ground))


def orthus(*arguments: object) -> float:
    """Run a command; returns the processor seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "orthus_cli", *map(str, arguments)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scores(model: str | Path, report: Path, limit: int) -> dict[str, float]:
    """Scores of a model on the first items of each task of the small world's benchmark, by task
    and name.
    """
    orthus("eval", "mini", "-m", model, "--limit", limit, "-o", report)
    found = json.loads((report / "result.json").read_text(encoding="utf-8"))
    return {
        f"{task}, {score['name']}": score["value"]
        for task, of_task in found["tasks"].items()
        for score in of_task
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--only-draw", action="store_true")
    parser.add_argument("--init-from", default="mini")
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    chosen = parser.parse_args()
    out, mine = chosen.output, chosen.output / "mine"
    draw_folder(out / "creatures")
    if chosen.only_draw:
        return
    sets = [f"data.sources.0.path={out / 'creatures'}", *chosen.sets]
    flags = [part for each in sets for part in ("--set", each)]
    begun = time.monotonic()
    taken = orthus("posttrain", "finetune", *flags, "--init-from", chosen.init_from, "-o", mine)
    elapsed = time.monotonic() - begun
    drawn = ("-o", out / "drawn", "--grid", out / "prompts.png")
    orthus("generate", *SHOWN, *UNSEEN, "-m", mine, "--seed", 0, *drawn)
    before = scores(chosen.init_from, out / "before", chosen.limit)
    after = scores(mine, out / "after", chosen.limit)
    print(f"| score | {chosen.init_from} | mine |\n|---|---|---|")
    for name, value in before.items():
        print(f"| {name} | {value:.2f} | {after[name]:.2f} |")
    print(f"training: {taken / 60:.1f} minutes of processor time, {elapsed / 60:.1f} elapsed")


if __name__ == "__main__":
    main()
