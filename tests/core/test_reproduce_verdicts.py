"""The rule of the paper's verdicts, on numbers that can be followed by hand."""

from __future__ import annotations

import math

import pytest

from orthus_core.reproduce.paired_seeds import (
    SeededMean,
    seeded_difference,
    seeded_mean,
    t_quantile,
)
from orthus_core.reproduce.verdicts import LEAST_SEEDS, verdict


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (10, 2.2281), (120, 1.9799)]
)
def test_the_quantile_is_that_of_the_printed_tables(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)


def test_the_interval_by_hand():
    """Two seeds, two questions. The questions' means over seeds are 0.5 and 1, the seeds' means
    over questions 1 and 0.5: both parts of the variance are 0.125 / 2, with one degree of freedom
    each, so two together.
    """
    found = seeded_mean({0: {"a": 1, "b": 1}, 1: {"a": 0, "b": 1}})
    assert found is not None
    assert found.mean == 0.75
    assert found.of_units == pytest.approx(0.25) and found.of_seeds == pytest.approx(0.25)
    assert found.half == pytest.approx(4.3027 * math.sqrt(0.125), abs=1e-4)
    assert (found.seeds, found.units) == (2, 2)


def test_what_both_arms_find_hard_is_no_spread_of_their_difference():
    """Ten hard questions and ten easy ones: each arm alone varies by far more than they differ."""
    hard = {number: float(number % 2) for number in range(20)}
    ours = {seed: {n: value + 0.1 + 0.01 * seed for n, value in hard.items()} for seed in range(3)}
    found = seeded_difference(ours, dict.fromkeys(range(3), hard))
    assert found is not None and found.mean == pytest.approx(0.11)
    assert found.of_units == pytest.approx(0, abs=1e-12)
    assert 0.08 < found.low < found.high < 0.14


def test_seeds_that_disagree_make_a_difference_doubtful_however_many_questions_there_are():
    """+0.3, +0.2 and -0.2 over a thousand questions each: the questions alone would decide it."""
    jitter = [0.1 * (-1) ** number for number in range(1000)]
    by_seed = {
        s: {n: shift + j for n, j in enumerate(jitter)} for s, shift in enumerate((3, 2, -2))
    }
    found = seeded_mean({s: {n: v / 10 for n, v in each.items()} for s, each in by_seed.items()})
    assert found is not None and found.mean == pytest.approx(0.1)
    assert found.of_units < 0.001 and found.low < 0 < found.high
    assert verdict(found).word == "cannot tell"


def test_a_seed_or_question_of_one_arm_alone_is_left_out():
    ours = {seed: {"a": 23.0 + seed, "b": 0.0} for seed in range(3)}
    found = seeded_difference(ours, {1: {"a": 20.0}, 2: {"a": 20.0}, 5: {"a": 0.0}})
    assert found is not None and (found.seeds, found.units, found.mean) == (2, 1, 4.5)
    assert seeded_difference({0: {"a": 1.0}}, {0: {"b": 1.0}}) is None, "no question in common"


def mean(low: float, middle: float, high: float, seeds: int = LEAST_SEEDS) -> SeededMean:
    return SeededMean(middle, low, high, seeds, 100, (high - low) / 8, (high - low) / 4)


@pytest.mark.parametrize(
    ("found", "margin", "word"),
    [
        (mean(0.01, 0.05, 0.09), 0.0, "reproduces"),
        (mean(-0.01, 0.05, 0.11), 0.0, "cannot tell"),
        (mean(-0.09, -0.05, -0.01), 0.0, "does not"),
        (mean(0.0, 0.05, 0.1), 0.0, "cannot tell"),  # zero itself is not excluded
        # A claim that less does as well, within 0.03.
        (mean(-0.02, 0.0, 0.02), -0.03, "reproduces"),
        (mean(-0.05, -0.02, 0.01), -0.03, "cannot tell"),
        (mean(-0.06, -0.04, -0.01), -0.03, "cannot tell"),  # surely worse, and by less perhaps
        (mean(-0.09, -0.06, -0.04), -0.03, "does not"),
        (mean(0.01, 0.05, 0.09, seeds=2), 0.0, "cannot tell"),
        (mean(0.05, 0.05, 0.05), 0.0, "cannot tell"),  # all pairs agree
    ],
)
def test_the_verdict_follows_from_interval_margin_and_seeds(found, margin, word):
    assert verdict(found, margin).word == word


def test_what_it_would_take_grows_with_the_square_of_the_width():
    """Half a width of 0.2 at a distance of 0.1: four times the seeds, and one more to be sure."""
    needed = verdict(mean(-0.1, 0.1, 0.3)).needed
    assert needed is not None
    assert (needed.times, needed.seeds) == (pytest.approx(4), 13)
    assert not needed.more_questions
    assert verdict(mean(-0.2, 0.001, 0.202)).needed is None, "beyond all reason"
    one = verdict(mean(0.01, 0.05, 0.09, seeds=1)).needed
    assert one is not None and one.seeds == LEAST_SEEDS


@pytest.mark.parametrize(("at_stake", "word"), [(0.06, "cannot tell"), (0.07, "reproduces")])
def test_nothing_does_as_well_as_an_arm_that_does_nothing(at_stake, word):
    """Both are near 0, so none can be worse by the margin."""
    close = mean(-0.01, 0.0, 0.01)
    assert verdict(close, -0.03, at_stake=at_stake).word == word
    better = mean(0.01, 0.02, 0.03)
    assert verdict(better, at_stake=0.0).word == "reproduces", "more than nothing is more"
