"""The mean of two trainings of one model: python benchmarks/average_models.py A B -o runs/mean

Two models that were trained from the same weights often have a mean that is better at what each of
them is good at than the other is (2203.05482, 2109.01903). So it is among the starter recipes: what
a training for one thing made the model forget comes back, and most of what it learnt stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from orthus_core.checkpoint.model_folder import open_orthus, save_model
from orthus_core.data.known_words import VOCABULARY
from orthus_core.version import __version__


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", help="a model: folder or alias")
    parser.add_argument("second", help="another, trained from the same weights")
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    first, second = (open_orthus(each, dtype="fp32") for each in (options.first, options.second))
    weights = second.model.state_dict()
    for name, weight in first.model.state_dict().items():
        if weight.is_floating_point():
            weight.lerp_(weights[name], options.share)
    config, theirs = first.model.config, second.model.config
    config.sampling = theirs.sampling
    before = theirs.origin or {}
    config.origin = {
        "made_by": f"benchmarks/average_models.py {__version__}",
        "made_from": f"{first.path.name} and {second.path.name}",
        "lineage": [
            *before.get("lineage", []),
            f"{before.get('made_by')} from {before.get('made_from')}",
        ],
    }
    words = {VOCABULARY: (first.path / VOCABULARY).read_text(encoding="utf-8")}
    save_model(first.model.bfloat16(), first.processor, options.output, texts=words)
    print(options.output)


if __name__ == "__main__":
    main()
