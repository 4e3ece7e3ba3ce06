"""Two folders of pictures as sets: FID, KID, Inception score, diversity, precision, recall and
coverage, each by the features that it was measured with.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orthus_core.evaluation import diversity, fid
from orthus_core.evaluation.intervals import Interval, wilson
from orthus_core.evaluation.official.task import OfficialScores
from orthus_core.evaluation.picture_features import FeatureNetwork, folder_features
from orthus_core.evaluation.picture_folders import pictures_in
from orthus_core.events import Progress

# The Inception score is a mean over parts, of no fewer pictures than this.
SPLITS, SMALLEST_SPLIT = 10, 10


def score_picture_sets(
    drawn: Path, reference: Path, network: FeatureNetwork, device: str = "cpu"
) -> Iterator[Progress | OfficialScores]:
    """Scores a folder of drawn pictures against one of true ones; the scores come last.

    Raises:
        DataError: When a folder is missing, or has too few pictures.
    """
    places = {"drawn": pictures_in(drawn), "reference": pictures_in(reference)}
    features = {}
    for name, paths in places.items():
        features[name] = yield from folder_features(paths, network, device)
    ours, theirs = features["drawn"], features["reference"]
    count = min(len(paths) for paths in places.values())
    overlap = diversity.overlap(ours.features_ND, theirs.features_ND)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said below, for these features
        distance = fid.frechet_distance(ours.features_ND, theirs.features_ND)
    kid = fid.kernel_distance(ours.features_ND, theirs.features_ND)
    splits = max(1, min(SPLITS, len(places["drawn"]) // SMALLEST_SPLIT))
    inception = fid.inception_score(ours.logits_Nc, splits)
    distances = {name: diversity.mean_distance(each.features_ND) for name, each in features.items()}
    shares = {
        "precision": overlap.precise,
        "recall": overlap.recalled,
        "coverage": overlap.covered,
    }
    intervals: dict[str, Interval] = {
        name: wilson(sum(each), len(each)) for name, each in shares.items()
    }
    intervals["mean_distance"] = distances["drawn"].interval
    intervals["reference_mean_distance"] = distances["reference"].interval
    width = ours.features_ND.shape[1]
    notes = [
        f"features: {fid.NETWORKS[network.name]}; resized to {network.size} pixels by Pillow's "
        "bicubic filter, without keeping the shape"
    ]
    if count < max(width, fid.FEWEST_PICTURES):
        notes.append(
            f"FID of {count} pictures is far from that of many; KID is not biased by their number"
        )
    if splits < SPLITS:
        notes.append(f"the Inception score is a mean over {splits} parts, and not over {SPLITS}")
    yield OfficialScores(
        n=len(places["drawn"]),
        n_missing=0,
        n_unparsed=0,
        metrics={
            "fid": distance,
            "kid": kid.mean,
            "inception_score": inception.mean,
            "mean_distance": distances["drawn"].value,
            "reference_mean_distance": distances["reference"].value,
            **{name: sum(each) / len(each) for name, each in shares.items()},
        },
        per_category={
            "std": {"kid": kid.std, "inception_score": inception.std},
            "pictures": {name: len(paths) for name, paths in places.items()},
        },
        intervals=intervals,
        samples=[
            {
                "id": path.relative_to(drawn).as_posix(),
                "picture": path.relative_to(drawn).as_posix(),
                "right": is_precise,
                "scores": {"precision": is_precise},
            }
            for path, is_precise in zip(places["drawn"], overlap.precise, strict=True)
        ],
        files=places["reference"],
        notes=notes,
    )


def features_settings(network: FeatureNetwork) -> dict[str, Any]:
    """What has to be the same to repeat the numbers, for result.json."""
    return {
        "features": network.name,
        "weights_hash": network.weights_hash,
        "size": network.size,
        "resizing": "Pillow bicubic, stretched",
        "neighbours": diversity.NEIGHBOURS,
        "coverage_neighbours": diversity.COVERAGE_NEIGHBOURS,
    }
