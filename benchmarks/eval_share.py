"""What answering a set of questions costs beside the model: python benchmarks/eval_share.py

`orthus eval pope` answers and scores a set of POPE's form from the small world: 500 pictures, with
two questions in each of three splits. Printed are the seconds, and the share of them in the model.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from orthus_core.evaluation.pope import SPLITS
from orthus_core.world.scene_questions import pope_questions
from orthus_core.world.scenes import sample_scene
from orthus_core.world.world import World

SIDE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--pictures", type=int, default=500)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        data, out = Path(folder) / "pope", Path(folder) / "report"
        count = write_set(data, options.pictures)
        words = ["eval", "pope", "--data", data, "-o", out, "-m", options.model]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "orthus_cli", *map(str, words)], check=True)
        whole_s = time.perf_counter() - start
        run = json.loads((out / "result.json").read_text())["run"]
        spent = run["time"]
        print(f"{count} questions about {options.pictures} pictures, {run['n_asked']} different")
        print(f"in the model {spent['model_s']:.1f} s of {spent['all_s']:.1f} s")
        print(f"share {spent['share_in_model']:.4f}")
        print(f"the command {whole_s:.1f} s: opening the model {run['opening_s']:.1f} s")


def write_set(data: Path, pictures: int) -> int:
    """Writes the set, and returns the number of its questions."""
    rng, world = random.Random(1), World.open()
    (data / "val2014").mkdir(parents=True)
    records: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number in range(pictures):
        scene, _ = sample_scene(rng, world)
        name = f"{number:06d}.jpg"
        Image.fromarray(world.scene_image(scene).load(SIDE)).save(data / "val2014" / name)
        for split, lines in records.items():
            for asked in pope_questions(rng, world, scene, split):
                line = {"question_id": len(lines) + 1, "image": name}
                lines.append(json.dumps({**line, "text": asked.question, "label": asked.answer}))
    for split, lines in records.items():
        (data / f"coco_pope_{split}.json").write_text("\n".join(lines) + "\n")
    return sum(map(len, records.values()))


if __name__ == "__main__":
    main()
