"""The page about the paper's claims: each with its numbers, ours with intervals, and the verdict.

It is made of the results in a folder and nothing else, so a run that was stopped and went on makes
the same page. What is not there yet is named with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orthus_core.evaluation.official.comparison import markdown_row
from orthus_core.reproduce.arm_results import RESULTS, outcomes, state_of, tasks_of
from orthus_core.reproduce.arm_times import Expected, expected_times, spoken
from orthus_core.reproduce.claims import (
    REPRODUCTIONS,
    Claim,
    Reproduction,
    needed_measures,
)
from orthus_core.reproduce.measures import MEASURES, Measure
from orthus_core.reproduce.paired_seeds import SeededMean, seeded_difference, seeded_mean
from orthus_core.reproduce.paper_arms import Arm, paper_arms
from orthus_core.reproduce.verdicts import AGREE, FLOOR, RULE, ClaimVerdict, verdict

COMMAND = "orthus reproduce"
NOT_RUN = "not run yet"
REHEARSAL = "a rehearsal"

_HEAD = """\
# The paper's claims, tested in the small world

<!-- Made by `orthus reproduce`; change `orthus_core/reproduce`, not this page. -->

[The paper](https://arxiv.org/abs/2412.00127) trains a model of 7 billion parameters and reports one
training of each kind. Here every comparison is trained again, small, three times, on pictures of
which everything is known, with nothing different but what is compared: one common start, the same
rows in the same order, the same number of steps. `orthus recipes ls` lists the recipes
(`paper/...`): five that all arms share, and one for each arm with its differences. What holds in a
small world may not hold at 7B, and the other way round. Trainings as short as these learn to answer
well before they learn to draw. The models draw hardly a prompt rightly (the tables say how many),
so only a large difference in drawing or editing would show.

`orthus reproduce all -o runs/paper --page docs/paper.md` trains and evaluates everything and writes
this page; `--dry-run` says what each arm takes, Ctrl-C saves, `--resume auto` goes on, and a
table's name, such as `table5`, does that table alone. Tables are numbered as in the published
version (ICML 2025); their titles below are names, too: `orthus reproduce embedding`. A number of
the paper that could not be looked up is "not known here".
"""


def paper_page(
    folder: Path, arms: Mapping[str, Arm], *, quick: bool = False, place: str = "runs/paper"
) -> str:
    """The whole page.

    Args:
        folder: Folder of the runs.
        arms: All arms by name.
        quick: Whether the results are those of a rehearsal.
        place: Name of the folder in the commands of the page.
    """
    sections = [_section(folder, each, arms, quick, place) for each in REPRODUCTIONS.values()]
    summary = ["| | claim | the paper | ours | verdict |", "|---|---|---|---|---|"]
    for each in REPRODUCTIONS.values():
        link = f"[{each.name}](#{_anchor(each)})"
        summary += [
            markdown_row([link, claim.statement, claim.paper, ours, word])
            for claim, ours, word in decided_claims(folder, each, arms, quick=quick)
        ]
    note = [_REHEARSED] if quick else []
    parts = [_HEAD, *note, "## In short", "\n".join(summary), "## The rule", RULE, *sections]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_REHEARSED = (
    "**This page is a rehearsal** (`--quick`): its arms had a few steps each, so its numbers say "
    "that everything runs, and nothing of the claims. There are no verdicts."
)


def page_arms(folder: Path, *, quick: bool = False) -> dict[str, Arm]:
    """All arms by name, each with the seeds of its own recipe, and with more where their results
    are there.
    """
    arms = {}
    for arm in paper_arms(needed_measures(REPRODUCTIONS.values()), quick=quick):
        there = len([*(folder / RESULTS / arm.name).glob("seed-*")])
        more = there > len(arm.seeds) and not quick
        arms[arm.name] = paper_arms([arm.name], seeds=there)[0] if more else arm
    return arms


def decided_claims(
    folder: Path, each: Reproduction, arms: Mapping[str, Arm], *, quick: bool = False
) -> Iterator[tuple[Claim, str, str]]:
    """The claims of a reproduction, each with our difference and the verdict, in words."""
    for claim in each.claims:
        found = _difference(folder, claim, arms)
        ours = NOT_RUN if found is None else _signed(found, MEASURES[claim.measure])
        if found is None:
            word = ""
        else:
            word = REHEARSAL if quick else _decided(folder, claim, arms, found).word
        yield claim, ours, word


def _section(
    folder: Path, each: Reproduction, arms: Mapping[str, Arm], quick: bool, place: str
) -> str:
    """What the paper says of one table or question, the arms, and the claims."""
    lines = [f"## {_heading(each)}", "", f"The paper: {each.paper}", "", f"Here: {each.here}", ""]
    differences = [_difference(folder, claim, arms) for claim in each.claims]
    if any(found is None for found in differences) or not _is_whole(folder, each, arms):
        took = sum(found.seconds for found in _times([each], arms))
        begun = any(found is not None for found in differences)
        lines += [
            f"**{'Not run to its end' if begun else NOT_RUN.capitalize()}**: `{COMMAND} {each.name}"
            f" -o {place} --resume auto`, about {spoken(took)} on one core with everything that it"
            " begins from.",
            "",
        ]
    lines += [*_arms_table(folder, each, arms), ""]
    for claim, found in zip(each.claims, differences, strict=True):
        decided = None if quick or found is None else _decided(folder, claim, arms, found)
        lines += [*_claim(claim, found, decided, each, place)]
    return "\n".join(lines)


def _arms_table(folder: Path, each: Reproduction, arms: Mapping[str, Arm]) -> list[str]:
    """The arms, and the mean of each measure with its interval."""
    names = [*dict.fromkeys(name for arm in each.arms for name in each.measures_of(arm))]
    lines = [
        markdown_row(["arm", "what it is", "seeds", *(MEASURES[name].title for name in names)]),
        "|---" * (3 + len(names)) + "|",
    ]
    for name in each.arms:
        arm, cells, seeds = arms[name], [], 0
        for measure in names:
            if measure not in each.measures_of(name):
                cells.append("")
                continue
            found = seeded_mean(outcomes(folder, arm, measure))
            seeds = max(seeds, found.seeds if found else 0)
            cells.append("" if found is None else _plain(found, MEASURES[measure]))
        lines.append(markdown_row([f"`{name}`", arm.recipe.about, str(seeds or ""), *cells]))
    return lines


def _claim(
    claim: Claim,
    found: SeededMean | None,
    decided: ClaimVerdict | None,
    each: Reproduction,
    place: str,
) -> list[str]:
    """A claim, our difference, and the verdict; without one the results are a rehearsal's."""
    measure = MEASURES[claim.measure]
    head = f"- {claim.statement} The paper: {claim.paper}."
    if found is None:
        return [f"{head} Ours: {NOT_RUN}."]
    margin = f", margin {measure.shown(claim.margin)}" if claim.margin else ""
    units = f"{found.units} {measure.unit}" if found.units > 1 else "one value of each training"
    sides = [f"`{claim.better}`", f"`{claim.worse}`"]
    if measure.lower_is_better:
        sides.reverse()
    ours = (
        f" Ours, {' minus '.join(sides)}, {measure.title}: {_signed(found, measure)}{margin}, "
        f"over {found.seeds} seed{'s' * (found.seeds != 1)} and {units}."
    )
    if decided is None:
        return [f"{head}{ours} **{REHEARSAL}**"]
    why = f": {decided.why}" if decided.why else ""
    return [f"{head}{ours} **{decided.word}**{why}.{_needed(decided, claim, each, place)}"]


def _needed(decided: ClaimVerdict, claim: Claim, each: Reproduction, place: str) -> str:
    """The run that an undecided claim would take."""
    needed = decided.needed
    if decided.word != "cannot tell":
        return ""
    if needed is None:
        if decided.why in (AGREE, FLOOR):
            return ""
        return " No run of a reasonable length would tell: more than a hundred times as much."
    more = ""
    if needed.more_questions and needed.times > 1:
        more = f", and {needed.times:.1f} times the {MEASURES[claim.measure].unit}"
    arms = {arm.name: arm for arm in paper_arms(each.arms, seeds=needed.seeds)}
    took = sum(time.seconds for time in _times([each], arms))
    return (
        f" It would take about {needed.seeds} seeds{more}: `{COMMAND} {each.name} -o {place} "
        f"--seeds {needed.seeds} --resume auto`, about {spoken(took)} on one core from nothing."
    )


def _decided(
    folder: Path, claim: Claim, arms: Mapping[str, Arm], found: SeededMean
) -> ClaimVerdict:
    """The verdict on a claim; of shares it matters how far the worse arm is from 0."""
    measure = MEASURES[claim.measure]
    if measure.scale != 100:
        return verdict(found, claim.margin)
    of_worse = claim.measure_of_worse or claim.measure
    theirs = seeded_mean(outcomes(folder, arms[claim.worse], of_worse))
    assert theirs is not None, "a difference was found"
    return verdict(found, claim.margin, at_stake=theirs.mean)


def _difference(folder: Path, claim: Claim, arms: Mapping[str, Arm]) -> SeededMean | None:
    """How much better the better arm is, over the seeds that both have; None without any."""
    sides = (claim.better, claim.measure), (claim.worse, claim.measure_of_worse or claim.measure)
    ours, theirs = (outcomes(folder, arms[name], measure) for name, measure in sides)
    if ours and theirs and arms[claim.worse].recipe.kind == "start":
        theirs = dict.fromkeys(ours, theirs[0])  # there is one start, and every seed begins from it
    if MEASURES[claim.measure].lower_is_better:
        ours, theirs = theirs, ours
    return seeded_difference(ours, theirs)


def _is_whole(folder: Path, each: Reproduction, arms: Mapping[str, Arm]) -> bool:
    """Whether every result of a reproduction is there, of the seeds that are asked for."""
    return all(
        state_of(folder, arms[name], each.measures_of(name)) == "there" for name in each.arms
    )


def _times(chosen: Sequence[Reproduction], arms: Mapping[str, Arm]) -> list[Expected]:
    """What reproductions take by the rates that were measured for the page, so that it is the same
    wherever it is made.
    """
    names = dict.fromkeys(arm for each in chosen for arm in each.arms)
    tasks = {
        name: tasks_of(m for each in chosen if name in each.arms for m in each.measures_of(name))
        for name in names
    }
    return expected_times([arms[name] for name in names], tasks, {})


def _plain(found: SeededMean, measure: Measure) -> str:
    bounds = (found.low, found.high)
    if measure.scale == 100:  # a share stays one
        bounds = (max(0.0, found.low), found.high)
    if found.half == 0:
        return measure.shown(found.mean)
    return f"{measure.shown(found.mean)} ({' to '.join(map(measure.shown, bounds))})"


def _signed(found: SeededMean, measure: Measure) -> str:
    values = (
        f"{measure.scale * value:+.{measure.digits}f}"
        for value in (found.mean, found.low, found.high)
    )
    mean, low, high = values
    return f"{mean} ({low} to {high})"


def _heading(each: Reproduction) -> str:
    name = each.name.replace("table", "Table ") if each.name.startswith("table") else each.name
    return f"{name}: {each.title}"


def _anchor(each: Reproduction) -> str:
    """The heading as a link: as GitHub makes it."""
    kept = (c for c in _heading(each).lower() if c.isalnum() or c in " -")
    return "".join(kept).replace(" ", "-")
