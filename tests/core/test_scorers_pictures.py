"""Scorers of pictures and of sets of features, by hand and against slow definitions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from orthus_core.errors import DataError
from orthus_core.evaluation import clip_edit, fid, geneval, hps, pictures
from orthus_core.evaluation.intervals import bootstrap_counts, wilson

# GenEval: centres of A and B are 20 apart, sides are 10: the offset is shortened by 0.1 x 20.
A, B = [0, 0, 10, 10], [20, 0, 30, 10]


@pytest.mark.parametrize(
    ("a", "b", "relations"),
    [
        (A, B, {"left of"}),  # -18 / 20
        (B, A, {"right of"}),
        ([0, 20, 10, 30], A, {"below"}),
        (A, [0, 20, 10, 30], {"above"}),
        (A, [20, 20, 30, 30], {"left of", "above"}),  # -18 / 28.3 = -0.64 on both axes
        (A, A, set()),
        (A, [1, 0, 11, 10], set()),  # 1 is shortened to 0
        (A, [3, 0, 13, 10], set()),  # 1 / 3 of the whole offset is too little
        (A, [4, 0, 14, 10], set()),  # 2 / 4: not above a half
        (A, [4.1, 0, 14.1, 10], {"left of"}),  # divided by the shortened length it would be 1
    ],
)
def test_relative_position_divides_by_the_whole_offset(a, b, relations):
    assert geneval.relative_position(a, b) == relations
    assert geneval.relative_position([*a, 0.9], [*b, 0.9]) == relations


def dog(*scores):
    return {"dog": [[*A, score] for score in scores]}


def asks(tag="single_object", count=1, **more):
    return {"tag": tag, "include": [{"class": "dog", "count": count, **more}]}


def test_geneval_thresholds_are_strict_and_higher_for_counting():
    assert geneval.judge(asks(), dog(0.31)).right
    assert not geneval.judge(asks(), dog(0.3)).right
    assert geneval.judge(asks("counting"), dog(0.91)).right
    found = geneval.judge(asks("counting"), dog(0.9))
    assert found.reasons == ("expected dog>=1, found 0",) and found.kept == {}


def test_geneval_compares_scores_in_single_precision_as_officially():
    # The nearest number to 0.3 in single precision is above 0.3 in double precision.
    assert float(np.float32(0.3)) > 0.3
    exact = {"dog": np.array([[*A, 0.3]], np.float32)}
    assert not geneval.judge(asks(), exact).right
    exact["dog"][0, 4] = np.nextafter(np.float32(0.3), np.float32(1))
    assert geneval.judge(asks(), exact).right
    assert not geneval.judge(asks(), dog(0.3 + 1e-9)).right


def test_geneval_reads_a_box_beside_its_mask():
    def beside(score):
        return {"dog": [(np.array([*A, score], np.float32), np.ones((2, 2), bool))]}

    assert geneval.judge(asks(), beside(0.31)).right
    assert not geneval.judge(asks(), beside(0.29)).right
    assert geneval.judge(asks(), {"dog": [(np.array([*A, 0.9]), None)]}).right
    assert not geneval.judge(asks(), {"dog": [(A, 0.29)]}).right


def test_geneval_exclude_counts_everything_that_is_kept():
    asked = {**asks("counting", 2), "exclude": [{"class": "dog", "count": 3}]}
    assert geneval.judge(asked, dog(0.95, 0.95)).right
    assert geneval.judge(asked, dog(0.95, 0.95, 0.9)).right
    found = geneval.judge(asked, dog(0.95, 0.95, 0.95))
    assert found.reasons == ("expected dog<3, found 3",)
    assert len(geneval.judge(asks(), dog(*[0.5] * 20)).kept["dog"]) == 16


def test_geneval_colours_of_the_most_certain_only():
    boxes = [
        {"class": "dog", "box": A, "score": 0.5, "color": "red"},
        {"class": "dog", "box": B, "score": 0.9, "color": "blue"},
    ]
    assert geneval.judge(asks("colors", color="blue"), boxes).right
    found = geneval.judge(asks("colors", color="red"), boxes)
    assert found.reasons == ("expected red dog>=1, found 0 red; and 1 blue",)
    assert not geneval.judge(asks("colors", count=2, color="red"), boxes).right
    with pytest.raises(DataError, match="colour of a detection of 'dog' is not known"):
        geneval.judge(asks("colors", color="red"), dog(0.9))


def test_geneval_positions_need_a_matched_target_and_all_pairs():
    asked = {
        "tag": "position",
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": ["left of", 0]},
        ],
    }
    both = {"cat": [[*B, 0.8]], "dog": [[*A, 0.5], [40, 0, 50, 10, 0.4]]}
    assert geneval.judge(asked, both).right
    both["dog"][1][4] = 0.6  # the one on the right is the most certain now
    found = geneval.judge(asked, both)
    assert found.reasons == ("expected dog left of target, found right of target",)
    alone = geneval.judge(asked, dog(0.9))
    assert alone.reasons == ("expected cat>=1, found 0", "no target for dog to be left of")
    for place in (1, -1):  # itself, and none
        asked["include"][1]["position"] = ["left of", place]
        with pytest.raises(DataError, match=f"dog is placed beside entry {place}"):
            geneval.judge(asked, both)


def test_geneval_of_equal_scores_the_last_comes_first_as_officially():
    boxes = [
        {"class": "dog", "box": A, "score": 0.9, "color": "red"},
        {"class": "dog", "box": B, "score": 0.9, "color": "blue"},
    ]
    assert geneval.judge(asks("colors", color="blue"), boxes).right
    boxes[0]["score"] += 1e-9  # equal in single precision
    assert geneval.judge(asks("colors", color="blue"), boxes).right


def test_geneval_overlapping_boxes_are_kept_unless_asked():
    assert len(geneval.judge(asks(), dog(0.9, 0.8)).kept["dog"]) == 2
    assert len(geneval.judge(asks(), dog(0.9, 0.8), most_overlap=0.5).kept["dog"]) == 1


def test_geneval_overall_is_the_mean_of_tasks():
    # counting: 1 of 3, colors: 1 of 1; pictures 2 of 4; prompts 2 of 3.
    rows = [
        {"tag": "counting", "prompt": "a", "correct": True},
        {"tag": "counting", "prompt": "a", "correct": False},
        {"tag": "counting", "prompt": "b", "correct": False},
        {"tag": "colors", "prompt": "c", "correct": True},
    ]
    found = geneval.summary(rows)
    assert found["overall"] == pytest.approx(2 / 3) and found["per_image"] == 0.5
    assert found["per_task"] == {"counting": 1 / 3, "colors": 1.0}
    assert found["per_prompt"] == pytest.approx(2 / 3)


def test_clip_edit_by_hand():
    # Features are scaled to length 1 first: [2, 0] is [1, 0], [3, 3] is [0.707, 0.707].
    found = clip_edit.similarities([2, 0], [0, 5], [1, 0], [3, 3])
    root = math.sqrt(0.5)
    assert found["sim_0"] == pytest.approx(1) and found["sim_1"] == pytest.approx(root)
    assert found["sim_image"] == pytest.approx(0)
    # Changes are [-1, 1] and [root - 1, root].
    change = (1 - root + root) / (math.sqrt(2) * math.hypot(root - 1, root))
    assert found["sim_direction"] == pytest.approx(change)


def test_clip_edit_without_a_change_and_of_several_samples():
    found = clip_edit.similarities([1, 0], [1, 0], [1, 0], [0, 1])
    assert found["sim_direction"] == 0 and found["sim_image"] == 1
    same = torch.eye(2)
    both = clip_edit.similarities(same, same.flip(1), same, torch.tensor([[0.0, 1], [0, 1]]))
    assert both["sim_1"] == 0.5  # 1 and 0
    with pytest.raises(DataError, match="different shapes"):
        clip_edit.similarities([1, 0], [1, 0, 0], [1, 0], [1, 0])


def normal(seed, count, size, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, scale, (count, size))


@pytest.mark.filterwarnings("ignore:FID of")
def test_frechet_distance_by_hand_and_by_eigenvalues_of_the_product():
    # Variances over N - 1: 2 and 8; means 1 and 4: 9 + 2 + 8 - 2 sqrt(16) = 11.
    assert fid.frechet_distance([[0], [2]], [[2], [6]]) == pytest.approx(11)
    a, b = normal(0, 200, 6), normal(1, 150, 6, 2.0, 0.5)
    s, t = (np.cov(each, rowvar=False) for each in (a, b))
    root = np.sqrt(np.linalg.eigvals(s @ t).real).sum()
    slow = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * root
    assert fid.frechet_distance(a, torch.tensor(b)) == pytest.approx(slow, rel=1e-9)
    assert fid.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # A singular covariance: 5 pictures of 6 features.
    few = fid.frechet_distance(a[:5], a[:5] + 1)
    assert few == pytest.approx(6, rel=1e-6)


def test_fid_of_few_pictures_warns():
    with pytest.warns(UserWarning, match="FID of 20 pictures"):
        fid.frechet_distance(normal(0, 20, 3), normal(1, 3000, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fid.frechet_distance(normal(0, 2048, 3), normal(1, 2048, 3))
    with pytest.raises(DataError, match="fewer than two"):
        fid.frechet_distance([[1.0, 2.0]], [[1.0, 2.0]])
    with pytest.raises(DataError, match="3 features of one set and 2"):
        fid.frechet_distance(normal(0, 4, 3), normal(0, 4, 2))


def test_kernel_distance_by_hand():
    # (x y + 1)^3 with one feature: a = 0, 1; b = 0, 2. Within a: (0 + 1)^3 = 1, within b: 1;
    # across: 1, 1, 1, 27, mean 7.5: 1 + 1 - 15 = -13.
    found = fid.kernel_distance([[0.0], [1.0]], [[0.0], [2.0]], subsets=3)
    assert found.mean == pytest.approx(-13) and found.std == pytest.approx(0)
    assert abs(fid.kernel_distance(normal(0, 500, 4), normal(1, 500, 4), 10, 400).mean) < 0.05


def test_inception_score_by_hand():
    sure = 1000 * np.eye(4)
    assert fid.inception_score(sure, 1).mean == pytest.approx(4)
    assert fid.inception_score(np.zeros((8, 4)), 2) == (pytest.approx(1), pytest.approx(0))
    # Two parts: four classes, and one class: mean 2.5, deviation 1.5.
    parts = np.concatenate([sure, np.repeat(sure[:1], 4, 0)])
    assert fid.inception_score(parts, 2) == (pytest.approx(2.5), pytest.approx(1.5))
    with pytest.raises(DataError, match="cannot be divided"):
        fid.inception_score(sure, 5)


def test_hps_averages_chunks_of_styles_and_all_pictures():
    # Chunks 0.2 0.4 | 0.4: means 30 and 40; photo: 10; all: 1.1 / 4.
    found = hps.aggregate({"anime": [0.2, 0.4, 0.4], "photo": [0.1]}, chunk=2)
    assert found["per_style"] == {"anime": pytest.approx(35), "photo": pytest.approx(10)}
    assert found["overall"] == pytest.approx(27.5)
    official = hps.aggregate({"anime": [20, 40, 40], "photo": [10]}, chunk=2)  # 100 x cosine
    assert official["per_style"] == found["per_style"] and official["overall"] == 27.5
    spread = hps.aggregate({"anime": [0.1, 0.3]}, chunk=1)
    assert spread["std_per_style"]["anime"] == pytest.approx(10)
    with pytest.raises(DataError, match="no scores of the style"):
        hps.aggregate({"anime": []})


def test_psnr_and_ssim_take_any_layout():
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (24, 20, 3)).astype(np.uint8)
    b = np.clip(a + random.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    by_hand = 10 * math.log10(255**2 / np.mean((a.astype(float) - b) ** 2))
    assert pictures.psnr(a, b) == pytest.approx(by_hand)
    assert pictures.psnr(a / 255, b / 255) == pytest.approx(by_hand)
    assert pictures.psnr(a / 127.5 - 1, b / 127.5 - 1, range=2) == pytest.approx(by_hand)
    first = [torch.tensor(each).permute(2, 0, 1) for each in (a, b)]
    ssim = pictures.ssim(a, b)
    assert 0.8 < ssim < 1
    assert pictures.ssim(*first) == pytest.approx(ssim)
    assert pictures.ssim(a / 255, b / 255, range=1) == pytest.approx(ssim)
    grey = [each[:, :, 0] for each in (a, b)]
    assert pictures.ssim(*grey) != pytest.approx(ssim)
    assert pictures.psnr(a, a) == math.inf and pictures.ssim(a, a) == pytest.approx(1)


def test_the_mean_of_psnr_is_not_the_psnr_of_the_mean_error():
    truth = np.zeros((2, 1, 12, 12))
    drawn = truth + np.array([1.0, 10.0]).reshape(2, 1, 1, 1)  # 48.13 and 28.13 dB
    assert pictures.psnr(drawn, truth, range=255) == pytest.approx(38.1308, abs=1e-4)


def test_pictures_that_do_not_fit_their_range_are_refused():
    low, high = np.full((12, 12), -1.0), np.full((12, 12), 0.5)
    with pytest.raises(DataError, match="not in 0..1"):
        pictures.ssim(low, high)
    with pytest.raises(DataError, match="span 1.5, more than the range 1"):
        pictures.psnr(low, high)
    with pytest.raises(DataError, match="different shapes"):
        pictures.psnr(low, high[:10])
    with pytest.raises(DataError, match="fewer than 11"):
        pictures.ssim(high[:10], high[:10])


def test_bootstrap_of_counts_agrees_with_wilson():
    low, high = bootstrap_counts(
        {"": {True: 700, False: 300}}, lambda drawn: drawn[""][True] / 1000
    )
    exact = wilson(700, 1000)
    assert low == pytest.approx(exact.low, abs=0.005)
    assert high == pytest.approx(exact.high, abs=0.005)
