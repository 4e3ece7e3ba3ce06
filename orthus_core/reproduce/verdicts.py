"""The rule that turns a measured difference into a verdict about a claim.

The rule is `RULE`; the page prints it, and `verdict` is it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from orthus_core.reproduce.paired_seeds import SeededMean

Word = Literal["reproduces", "does not", "cannot tell"]

LEAST_SEEDS = 3
# Largest multiple of questions and seeds that the page names.
MOST_TIMES = 100
AGREE = "all pairs agree, so their spread is unknown"
"""The reason of a claim about which nothing can be said, not even which run would decide it."""

FLOOR = "there is hardly anything to lose: what it is compared with is near 0 itself"
"""The reason of a claim to do as well as an arm that does nothing."""

RULE = f"""\
A claim says that one arm is better than another in a measure, by more than a margin that is 0
unless it is stated (a claim that less does as well has a negative one: it may be worse by no more
than that). The difference is the mean over seeds and over the same questions, prompts or pictures,
in pairs; its 95% interval counts both, the spread over questions and the spread over seeds
(Student's quantile, with Welch's and Satterthwaite's degrees of freedom). Of an arm with one seed
the interval is that of the questions alone, and says nothing of another training. A seed is that of
an arm's last training, posttraining or finetune-vae; what comes before it, from the start to
build-base, is trained once for all seeds, and how it might have come out otherwise is in no
interval.

- **reproduces**: the whole interval is above the margin, with at least {LEAST_SEEDS} seeds.
- **does not**: the whole interval is below the margin, with at least {LEAST_SEEDS} seeds.
- **cannot tell**: everything else, also where all pairs agree, since then the spread is unknown,
  and where an arm may be worse by a margin and the other arm's share is at most twice that margin,
  since then it cannot be worse by much. Beside it stands the run whose interval would just leave
  out the margin, if the difference and the spread stay as they are.
"""


class Needed(NamedTuple):
    """The run that an undecided claim would take.

    Attributes:
        seeds: Seeds of each arm.
        times: The same as a multiple of what there is.
        more_questions: Whether seeds alone would not do, because questions make most of the spread.
    """

    seeds: int
    times: float
    more_questions: bool


class ClaimVerdict(NamedTuple):
    """What a measured difference says about a claim.

    Attributes:
        word: The verdict.
        why: The reason, for "cannot tell".
        needed: The run that it would take, for "cannot tell" where it can be estimated.
    """

    word: Word
    why: str = ""
    needed: Needed | None = None


def verdict(found: SeededMean, margin: float = 0.0, *, at_stake: float = math.inf) -> ClaimVerdict:
    """The verdict on a claim that a difference is above the margin.

    Args:
        at_stake: How far the arm that it is compared with is from 0, where nothing is below 0.
    """
    if found.seeds < LEAST_SEEDS:
        why = f"{found.seeds} of at least {LEAST_SEEDS} seeds"
        return ClaimVerdict(
            "cannot tell", why, Needed(LEAST_SEEDS, LEAST_SEEDS / found.seeds, False)
        )
    if margin < 0 and at_stake <= 2 * -margin:
        return ClaimVerdict("cannot tell", FLOOR)
    if found.half == 0:
        return ClaimVerdict("cannot tell", AGREE)
    if found.low > margin:
        return ClaimVerdict("reproduces")
    if found.high < margin:
        return ClaimVerdict("does not")
    return ClaimVerdict("cannot tell", "the interval includes the margin", needed(found, margin))


def needed(found: SeededMean, margin: float) -> Needed | None:
    """The run whose interval would leave out the margin; None beyond `MOST_TIMES`.

    The half-width falls with the square root of the number of seeds and questions.
    """
    far = abs(found.mean - margin)
    times = (found.half / far) ** 2 if far else math.inf
    if not times <= MOST_TIMES:
        return None
    times = max(times, 1.0)
    # An interval that just touches the margin is one that would include it every other time.
    return Needed(math.ceil(found.seeds * times) + 1, times, found.of_units > found.of_seeds)
