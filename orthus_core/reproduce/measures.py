"""What is measured of an arm: the outcome of each question, prompt or picture, from its results.

A measure names the task of the benchmark whose samples it reads, and gives one number a unit. Units
have the same names for all arms, because the benchmark asks every model the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from orthus_core.reproduce.paired_seeds import Outcomes

Sample = Mapping[str, Any]
Read = Callable[[Sequence[Sample]], Outcomes]

TRAINING = "training"
"""In place of a task: the figures of the training itself (`training_figures`)."""


class Measure(NamedTuple):
    """One measure.

    Attributes:
        title: Its name on the page.
        task: The benchmark's task, a name in `select_tasks`, or `TRAINING`.
        read: The outcomes of that task's samples.
        unit: What a unit is, in the plural.
        scale: Factor for the page: 100 for shares.
        digits: Digits after the point on the page.
        lower_is_better: Whether less is better.
    """

    title: str
    task: str
    read: Read
    unit: str
    scale: float = 1.0
    digits: int = 1
    lower_is_better: bool = False

    def shown(self, value: float) -> str:
        """A value as the page prints it."""
        return f"{self.scale * value:.{self.digits}f}"


def _right(samples: Sequence[Sample]) -> Outcomes:
    return {number: float(sample["right"]) for number, sample in enumerate(samples)}


def _right_of_prompt(samples: Sequence[Sample]) -> Outcomes:
    """The share of a prompt's pictures that are right: they are not independent."""
    found: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        found[f"{sample['tag']}: {sample['prompt']}"].append(sample["right"])
    return {prompt: sum(each) / len(each) for prompt, each in found.items()}


def _field(name: str) -> Read:
    """The values of a field; samples without one are left out."""

    def read(samples: Sequence[Sample]) -> Outcomes:
        return {
            number: float(sample[name])
            for number, sample in enumerate(samples)
            if sample.get(name) is not None
        }

    return read


def _distance_of_true(samples: Sequence[Sample]) -> Outcomes:
    """The distance of a prompt's pictures, as a share of the mean distance of true ones."""
    true = sum(sample["true_distance"] for sample in samples) / max(1, len(samples))
    return {
        number: sample["distance"] / true if true else 0.0 for number, sample in enumerate(samples)
    }


ANSWERS = "orthus_core.reproduce.scene_answers.run"

MEASURES: dict[str, Measure] = {
    "answers": Measure("questions answered, %", ANSWERS, _right, "questions", 100),
    "presence": Measure("presence (POPE), %", "pope", _right, "questions", 100),
    "pictures": Measure("pictures right (GenEval), %", "geneval", _right_of_prompt, "prompts", 100),
    "edits": Measure("edits right, %", "edit", _right, "edits", 100),
    "untouched": Measure("untouched by edits, dB", "edit", _field("untouched_psnr"), "edits", 1, 2),
    "diversity": Measure(
        "diversity, % of true scenes'", "diversity", _distance_of_true, "prompts", 100
    ),
    **{
        f"{path} {name}": Measure(
            f"{name.upper()} from {path}", "recon", _field(f"{path}_{name}"), "pictures", 1, digits
        )
        for path in ("features", "codes")
        for name, digits in (("psnr", 2), ("ssim", 3))
    },
    "text loss": Measure(
        "text loss, held-out rows",
        TRAINING,
        _field("text"),
        "trainings",
        1,
        4,
        lower_is_better=True,
    ),
    "image loss": Measure(
        "image loss, held-out rows",
        TRAINING,
        _field("image"),
        "trainings",
        1,
        4,
        lower_is_better=True,
    ),
    "gradient": Measure(
        "gradient norm, log10 of the mean",
        TRAINING,
        _field("log_gradient"),
        "trainings",
        1,
        3,
        lower_is_better=True,
    ),
    "jump": Measure(
        "largest gradient norm, times the median",
        TRAINING,
        _field("gradient_jump"),
        "trainings",
        1,
        2,
        lower_is_better=True,
    ),
    "entropy": Measure(
        "entropy of the mixture, nats", TRAINING, _field("entropy"), "trainings", 1, 2
    ),
    "entropy before": Measure(
        "entropy before posttraining, nats", TRAINING, _field("entropy_before"), "trainings", 1, 2
    ),
    "distance": Measure(
        "distance to the argmin embedding", TRAINING, _field("distance"), "trainings", 1, 3
    ),
}
