"""A benchmark's numbers from the records of its samples, so that two results can be compared
question by question. What is resampled together (the two questions of an MME picture, the pictures
of a prompt) is one unit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from orthus_core.evaluation import mme, pope
from orthus_core.evaluation.paired import Strata

Sample = Mapping[str, Any]
Units = dict[str, dict[Any, Any]]


class SampledFigure(NamedTuple):
    """A number, and what it is computed from.

    Attributes:
        units: The outcome of each unit, by stratum and name of the unit.
        figure: The number, of counts of outcomes in each stratum.
        unit: What a unit is, for people.
        scale: For a plain share of units whose outcomes are True and False, what it is multiplied
            by; 0 for all other numbers.
    """

    units: Units
    figure: Callable[[Strata], Any]
    unit: str = "questions"
    scale: int = 0


def sampled_figures(task: str, variant: str, samples: Sequence[Sample]) -> dict[str, SampledFigure]:
    """The numbers of a result that its samples give, by the names that they have there.

    Args:
        task: The benchmark.
        variant: The rule of the result.
        samples: Records of samples.jsonl.
    """
    known = {
        "pope": _pope,
        "mme": _mme,
        "vqav2": _vqav2,
        "gqa": _gqa,
        "mmmu": _mmmu,
        "geneval": _geneval,
        "mini": _mini,
        "hps": _hps,
    }
    return known.get(task, _means)(samples, variant)


def _pope(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    units: Units = defaultdict(dict)
    for sample in samples:
        split = str(sample["id"]).partition("/")[0]
        (truth,) = pope.truths([sample["gold"]], variant)
        # What is missing counts as the wrong answer.
        said = sample["parsed"] or ("yes" if truth == "no" else "no")
        units[split][sample["id"]] = (said, truth)
    rates = {"accuracy": _hit_rate, "precision": _precision, "recall": _recall, "f1": _f1}
    found = {name: SampledFigure(units, _mean_of_strata(rate)) for name, rate in rates.items()}
    for split, each in units.items():
        for name, rate in rates.items():
            found[f"{split}.{name}"] = SampledFigure({split: each}, _mean_of_strata(rate))
    return found


def _mme(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    hits: Units = defaultdict(lambda: defaultdict(int))
    for sample in samples:
        task, _, rest = str(sample["id"]).partition("/")
        picture = PurePosixPath(rest.rpartition("/")[0]).stem
        hits[task][picture] += bool(sample["right"])
    found = {}
    for name, tasks in (("perception", mme.PERCEPTION), ("cognition", mme.COGNITION)):
        present = {task: hits[task] for task in tasks if task in hits}
        if present:
            found[name] = SampledFigure(present, _mme_sum, "pictures")
    for task, each in hits.items():
        found[f"{task}.score"] = SampledFigure({task: each}, _mme_sum, "pictures")
    return found


def _vqav2(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    units = {sample["id"]: 100 * float(sample["right"]) for sample in samples}
    found = {"overall": SampledFigure({"": units}, _mean_of_strata(_mean))}
    for kind, some in _groups(samples, "kind").items():
        each = {sample["id"]: units[sample["id"]] for sample in some}
        found[f"answer_type.{kind}"] = SampledFigure({"": each}, _mean_of_strata(_mean))
    return found


def _gqa(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    found = {"accuracy": _share(samples, 100)}
    for kind, some in _groups(samples, "kind").items():
        found[kind] = _share(some, 100)
    return found


def _mmmu(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    return {"overall": _share(samples)}


def _geneval(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    drawn: dict[str, dict[Any, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        drawn[sample["tag"]][sample["prompt"]].append(bool(sample["right"]))
    units = {
        tag: {prompt: (sum(each), len(each)) for prompt, each in prompts.items()}
        for tag, prompts in drawn.items()
    }
    whole = {
        "": {(tag, prompt): each for tag, some in units.items() for prompt, each in some.items()}
    }
    found = {
        "overall": SampledFigure(units, _mean_of_strata(_ratio_of_sums), "prompts"),
        "per_image": SampledFigure(whole, _mean_of_strata(_ratio_of_sums), "prompts"),
        "per_prompt": SampledFigure(whole, _mean_of_strata(_any_right), "prompts"),
    }
    for tag, each in units.items():
        found[tag] = SampledFigure({tag: each}, _mean_of_strata(_ratio_of_sums), "prompts")
    return found


def _hps(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    styles = {
        style: {sample["id"]: 100 * float(sample["score"]) for sample in some}
        for style, some in _groups(samples, "style").items()
    }
    found = {"overall": SampledFigure(styles, _pooled_mean, "pictures")}
    for style, each in styles.items():
        found[style] = SampledFigure({style: each}, _mean_of_strata(_mean), "pictures")
    return found


def _mini(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    found: dict[str, SampledFigure] = {}
    for task, some in _groups(samples, "task").items():
        numbered = [{**sample, "id": number} for number, sample in enumerate(some)]
        judged = [sample for sample in numbered if isinstance(sample.get("right"), bool)]
        field = next((name for name in ("tag", "kind", "part") if judged and name in judged[0]), "")
        parts = {part: _share(each) for part, each in _groups(judged, field).items()}
        units = {part: each.units[""] for part, each in parts.items()}
        found |= {f"{task}.{part}": each for part, each in parts.items()}
        if units:
            whole = SampledFigure(units, _mean_of_strata(_mean), "samples")
            found |= {f"{task}.overall": whole, f"{task}.accuracy": whole}  # pope's is the latter
        exact = [{**sample, "right": sample["exact"]} for sample in numbered if "exact" in sample]
        if exact:
            found[f"{task}.exact"] = _share(exact)
        apart = {
            sample["id"]: (sample["distance"], sample["true_distance"])
            for sample in numbered
            if "true_distance" in sample
        }
        if apart:
            figure = _mean_of_strata(_ratio_of_sums)
            found[f"{task}.diversity"] = SampledFigure({"": apart}, figure, "prompts")
    return found


def _means(samples: Sequence[Sample], variant: str) -> dict[str, SampledFigure]:
    """For results whose samples name their own numbers, in `scores`; the result has their means."""
    units: Units = defaultdict(dict)
    for sample in samples:
        for name, value in (sample.get("scores") or {}).items():
            if value is not None:
                units[name][sample["id"]] = value
    return {
        name: SampledFigure({"": each}, _mean_of_strata(_mean), "samples", _scale(each))
        for name, each in units.items()
    }


def _scale(units: Mapping[Any, Any]) -> int:
    return int(all(isinstance(each, bool) for each in units.values()))


def _share(samples: Sequence[Sample], scale: int = 1) -> SampledFigure:
    units = {sample["id"]: bool(sample["right"]) for sample in samples}
    return SampledFigure(
        {"": units}, lambda drawn: scale * _mean_of_strata(_mean)(drawn), "questions", scale
    )


def _groups(samples: Sequence[Sample], field: str) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.get(field) is not None:
            found[str(sample[field])].append(sample)
    return found


# Figures of counts of outcomes; a count is a number, or an array of numbers of resamplings.


def _mean_of_strata(figure: Callable[[Mapping[Any, Any]], Any]) -> Callable[[Strata], Any]:
    return lambda drawn: sum(figure(counts) for counts in drawn.values()) / len(drawn)


def _pooled_mean(drawn: Strata) -> Any:
    return sum(_mean(counts) * _total(counts) for counts in drawn.values()) / sum(
        _total(counts) for counts in drawn.values()
    )


def _total(counts: Mapping[Any, Any]) -> Any:
    return sum(counts.values())


def _mean(counts: Mapping[Any, Any]) -> Any:
    return sum(value * n for value, n in counts.items()) / _total(counts)


def _ratio_of_sums(counts: Mapping[Any, Any]) -> Any:
    above = sum(pair[0] * n for pair, n in counts.items())
    return above / sum(pair[1] * n for pair, n in counts.items())


def _any_right(counts: Mapping[Any, Any]) -> Any:
    return sum(n for (right, _), n in counts.items() if right) / _total(counts)


def _mme_sum(drawn: Strata) -> Any:
    """100 x accuracy + 100 x share of pictures with both right, summed over tasks."""
    return sum(
        50 * sum(hits * n for hits, n in counts.items()) / _total(counts)
        + 100 * sum(n for hits, n in counts.items() if hits >= 2) / _total(counts)
        for counts in drawn.values()
    )


def _hit_rate(counts: Mapping[Any, Any]) -> Any:
    return sum(n for (said, truth), n in counts.items() if said == truth) / _total(counts)


def _precision(counts: Mapping[Any, Any]) -> Any:
    return _quotient(counts, lambda said, truth: said == "yes")


def _recall(counts: Mapping[Any, Any]) -> Any:
    return _quotient(counts, lambda said, truth: truth == "yes" and said in ("yes", "no"))


def _f1(counts: Mapping[Any, Any]) -> Any:
    import numpy as np

    precision, recall = _precision(counts), _recall(counts)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-300)


def _quotient(counts: Mapping[Any, Any], among: Callable[[str, str], bool]) -> Any:
    """The share of true "yes" among some; 0 of none."""
    import numpy as np

    hits = 0 * _total(counts) + counts.get(("yes", "yes"), 0)
    whole = sum(n for pair, n in counts.items() if among(*pair) and pair[1] in ("yes", "no"))
    return hits / np.maximum(whole, 1)
