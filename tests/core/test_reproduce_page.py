"""The page of the paper's claims, from results on disk that can be followed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orthus_core.recipe import PosttrainRecipe, load
from orthus_core.reproduce.arm_results import recipes_of, result_folder
from orthus_core.reproduce.claims import REPRODUCTIONS, UNKNOWN
from orthus_core.reproduce.measures import ANSWERS, TRAINING
from orthus_core.reproduce.paper_arms import Arm, paper_arms
from orthus_core.reproduce.paper_page import NOT_RUN, page_arms, paper_page
from orthus_core.reproduce.training_figures import SETTLING, training_figures

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
QUESTIONS = 40


@pytest.fixture(scope="module")
def arms() -> dict[str, Arm]:
    return page_arms(Path("nowhere"))


def put(folder: Path, arm: Arm, task: str, samples: list[list[dict]]) -> None:
    """Write the samples of each seed as results of an arm."""
    for seed, of_seed in enumerate(samples):
        place = result_folder(folder, arm, seed, task)
        place.mkdir(parents=True)
        run = {"run": {"recipes": recipes_of(arm, seed)}}
        (place / "result.json").write_text(json.dumps(run))
        (place / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in of_seed))


def right(*counts: int) -> list[list[dict]]:
    """Samples of each seed, of which the first `count` are right."""
    return [[{"right": n < count} for n in range(QUESTIONS)] for count in counts]


def section(page: str, heading: str) -> str:
    return page.partition(f"\n## {heading}")[2].partition("\n## ")[0]


def test_the_page_decides_by_the_results_and_says_what_is_missing(arms, tmp_path):
    put(tmp_path, arms["softmax"], ANSWERS, right(30, 31, 32))
    put(tmp_path, arms["argmin"], ANSWERS, right(20, 21, 22))
    put(tmp_path, arms["linear"], ANSWERS, right(20, 22, 21))
    found = section(paper_page(tmp_path, arms), "Table 5: Embedding")
    better, than_linear, even, presence = (
        line for line in found.splitlines() if line.startswith("- ")
    )
    # Ten of 40 questions, in each seed: +25 points; one question more or less is 2.5 points.
    assert "+25.0 (+" in better and "over 3 seeds and 40 questions. **reproduces**." in better
    assert "**reproduces**" in than_linear
    assert "**cannot tell**" in even and "+0.0 (-" in even
    assert "No run of a reasonable length would tell" in even
    assert presence.endswith(f"Ours: {NOT_RUN}.")
    assert "| `softmax` | the common recipes" in found and "| 3 | 77.5 (" in found
    assert (
        "Not run to its end" in found
        and "`orthus reproduce table5 -o runs/paper --resume auto`" in found
    )


def test_a_doubtful_difference_is_told_with_the_run_that_would_tell(arms, tmp_path):
    put(tmp_path, arms["softmax"], ANSWERS, right(24, 20, 22))
    put(tmp_path, arms["understanding-only"], ANSWERS, right(21, 21, 20))
    found = section(paper_page(tmp_path, arms), "Table 4")
    assert "**cannot tell**: the interval includes the margin. It would take about" in found
    assert " --seeds " in found and " on one core from nothing." in found


def test_of_pairs_that_all_agree_no_run_is_named(arms, tmp_path):
    put(tmp_path, arms["softmax"], ANSWERS, right(40, 40, 40))
    put(tmp_path, arms["understanding-only"], ANSWERS, right(0, 0, 0))
    found = section(paper_page(tmp_path, arms), "Table 4")
    assert "**cannot tell**: all pairs agree, so their spread is unknown.\n" in found


def prompts(samples: list[list[dict]]) -> list[list[dict]]:
    """The same samples, each of a prompt of its own."""
    return [
        [{**sample, "tag": "counting", "prompt": str(n)} for n, sample in enumerate(of_seed)]
        for of_seed in samples
    ]


def test_arms_that_draw_nothing_do_not_draw_as_well_as_each_other(arms, tmp_path):
    few, many = [[right(1, 1, 2), right(2, 1, 1)], [right(34, 34, 35), right(30, 31, 30)]]
    for folder, counts in ((tmp_path / "few", few), (tmp_path / "many", many)):
        for name, samples in zip(("steps-10", "steps-100"), counts, strict=True):
            put(folder, arms[name], "geneval", prompts(samples))
    words = [
        [
            line.partition("**")[2]
            for line in found.splitlines()
            if "draw as well as a hundred" in line
        ]
        for found in (
            section(paper_page(folder, arms), "diversity")
            for folder in (tmp_path / "few", tmp_path / "many")
        )
    ]
    ((nothing,), (much,)) = words
    assert (
        nothing == "cannot tell**: there is hardly anything to lose: what it is compared with "
        "is near 0 itself."
    )
    assert much.startswith("reproduces**")


def test_one_seed_of_three_is_not_decided(arms, tmp_path):
    """Nor is the seed of one arm paired with other seeds of the other."""
    put(tmp_path, arms["softmax"], ANSWERS, right(30, 31, 32))
    put(tmp_path, arms["understanding-only"], ANSWERS, right(10))
    found = section(paper_page(tmp_path, arms), "Table 4")
    assert "Not run to its end" in found and "over 1 seed and 40 questions" in found
    assert "**cannot tell**: 1 of at least 3 seeds" in found and "reproduces**" not in found


def test_every_decoder_is_compared_with_the_one_start(arms, tmp_path):
    pictures = [[{"features_psnr": 24.0 + seed + n} for n in range(9)] for seed in range(3)]
    put(tmp_path, arms["decoder"], "recon", pictures)
    put(tmp_path, arms["start"], "recon", [[{"codes_psnr": 15.0 + n} for n in range(9)]])
    found = section(paper_page(tmp_path, arms), "Table 6")
    assert "+10.00 (+7.52 to +12.48), over 3 seeds and 9 pictures. **reproduces**" in found


def test_seeds_beyond_an_arms_own_count_too(tmp_path):
    many = {arm.name: arm for arm in paper_arms(["softmax", "linear", "argmin"], seeds=5)}
    for name, arm in many.items():
        put(tmp_path, arm, ANSWERS, right(*(30 if name == "softmax" else 20 for _ in range(5))))
    arms = page_arms(tmp_path)
    assert len(arms["linear"].seeds) == 5 and len(arms["noised"].seeds) == 3
    assert "over 5 seeds and 40 questions" in section(paper_page(tmp_path, arms), "Table 5")


def test_a_rehearsal_has_no_verdicts(arms, tmp_path):
    put(tmp_path, arms["softmax"], ANSWERS, right(30, 31, 32))
    put(tmp_path, arms["understanding-only"], ANSWERS, right(10, 11, 9))
    page = paper_page(tmp_path, arms, quick=True)
    assert "This page is a rehearsal" in page and "**a rehearsal**" in section(page, "Table 4")
    assert not any(f"| {word} |" in page for word in ("reproduces", "does not", "cannot tell"))


def test_less_is_better_where_a_measure_says_so(arms, tmp_path):
    """The annealed arm's largest gradient is 2 times the median, the other's 6 times."""
    for name, jumps in (("tau-annealed", (2.0, 2.1, 2.2)), ("softmax", (6.0, 6.1, 6.3))):
        put(tmp_path, arms[name], TRAINING, [[{"gradient_jump": each}] for each in jumps])
    found = section(paper_page(tmp_path, arms), "tau")
    assert "`softmax` minus `tau-annealed`" in found and "+4.03 (+" in found
    assert "one value of each training. **reproduces**" in found


def test_the_figures_of_a_training_are_read_from_its_metrics(tmp_path):
    assert load(PosttrainRecipe, "paper/5-posttrain").optim.warmup_steps == SETTLING
    lines = [{"step": n, "grad_norm": 50.0 if n < SETTLING else 2.0} for n in range(90)]
    lines[70]["grad_norm"] = 10.0
    lines[30] |= {"validation_text": 9.0}
    lines[89] |= {"validation_text": 1.5, "validation_mixture_entropy": 0.25}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = training_figures(tmp_path)
    assert found["text"] == 1.5 and found["entropy"] == 0.25
    assert found["gradient_jump"] == 5.0, "of the steps after the learning rate rose"
    assert "image" not in found and "entropy_before" not in found


def test_the_page_in_docs_has_every_claim():
    page = PAGE.read_text()
    for each in REPRODUCTIONS.values():
        assert all(page.count(claim.statement) == 2 for claim in each.claims), each.name
    assert UNKNOWN in page and "a rehearsal" not in page
