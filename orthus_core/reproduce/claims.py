"""The paper's claims (2412.00127), its numbers, and what answers them in the small world.

A number that could not be looked up is "not known here". Tables are numbered as in the published
version (ICML 2025, PMLR 267).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from orthus_core.errors import RecipeError

UNKNOWN = "not known here"
ALL = "all"


class Claim(NamedTuple):
    """One claim: that an arm is better than another in a measure.

    Attributes:
        statement: The claim, as a sentence.
        paper: The paper's numbers for it.
        better, worse: The two arms.
        measure: What is compared, a name in `MEASURES`.
        measure_of_worse: The measure of the worse arm, where it is another one.
        margin: How much better it has to be, in the measure's own unit; negative where less is
            claimed to do as well.
    """

    statement: str
    paper: str
    better: str
    worse: str
    measure: str
    measure_of_worse: str = ""
    margin: float = 0.0


class Reproduction(NamedTuple):
    """One table or question of the paper.

    Attributes:
        name: Its name on the command line.
        title: What it is about.
        paper: What the paper reports, in a sentence or two.
        here: What stands for it in the small world.
        arms: Its arms, in the order of the page.
        measures: What is measured of each arm; names in `MEASURES`.
        claims: The claims that are decided.
    """

    name: str
    title: str
    paper: str
    here: str
    arms: tuple[str, ...]
    measures: tuple[str, ...]
    claims: tuple[Claim, ...]

    def measures_of(self, arm: str) -> list[str]:
        """What is measured of one of its arms."""
        claimed = [
            name
            for claim in self.claims
            for side, name in (
                (claim.better, claim.measure),
                (claim.worse, claim.measure_of_worse or claim.measure),
            )
            if side == arm
        ]
        return [*dict.fromkeys([*self.measures, *claimed])]


TAUS = ("tau-annealed", "tau-0.1", "tau-0.2", "tau-0.5", "softmax", "tau-1.5", "tau-2", "tau-16")

REPRODUCTIONS: dict[str, Reproduction] = {
    each.name: each
    for each in (
        Reproduction(
            "table1",
            "Editing",
            "Orthus, posttrained on InstructPix2Pix, against editors made for it: CLIP-T 0.238, "
            f"CLIP-I 0.87, CLIP-D 0.049. The rows of the other editors: {UNKNOWN}.",
            "No diffusion editor lives in the small world, so the rival is the discrete baseline "
            "of the same rows. An edit is right when every thing of the edited scene is found "
            "where it should be, and no other. The baseline draws with the values of Meta's "
            "scripts (guidance 3, by the picture 1.2), Orthus with guidance 2 and 2.",
            ("softmax", "dagger"),
            ("edits", "untouched"),
            (
                Claim(
                    "Orthus edits as the instruction says (against the discrete baseline).",
                    "CLIP-T 0.238, CLIP-D 0.049; the baseline's: " + UNKNOWN,
                    "softmax",
                    "dagger",
                    "edits",
                ),
                Claim(
                    "Orthus keeps what an edit does not touch (against the discrete baseline).",
                    "CLIP-I 0.87; the baseline's: " + UNKNOWN,
                    "softmax",
                    "dagger",
                    "untouched",
                ),
            ),
        ),
        Reproduction(
            "table2",
            "Understanding",
            "Orthus: POPE 79.6, MME-P 1265.8, VQAv2 63.2, GQA 52.8, MMMU 28.2. Chameleon "
            f"posttrained on the same data (its dagger): {UNKNOWN}. The OCR task of MME is 70 "
            f"against 45; of which models, is {UNKNOWN}.",
            "Questions about scenes that hold combinations which no training shows; the discrete "
            "baseline is posttrained on as many rows of the same kinds as build-base and "
            "posttraining together.",
            ("softmax", "dagger"),
            ("answers", "presence"),
            (
                Claim(
                    "Orthus understands better than the discrete baseline at equal tokens "
                    "(questions about scenes).",
                    "VQAv2 63.2, GQA 52.8; the baseline's: " + UNKNOWN,
                    "softmax",
                    "dagger",
                    "answers",
                ),
                Claim(
                    "Orthus names fewer absent things than the discrete baseline (POPE's "
                    "questions).",
                    "POPE 79.6; the baseline's: " + UNKNOWN,
                    "softmax",
                    "dagger",
                    "presence",
                ),
            ),
        ),
        Reproduction(
            "table3",
            "Generation",
            "Orthus: GenEval 0.58, HPS 28.2 (most likely v2.0). Chameleon posttrained on the same "
            f"data (its dagger): {UNKNOWN}.",
            "GenEval's six kinds of prompts on the small world, judged by a detector that knows "
            "every thing in it. The sampling values are those of table 1.",
            ("softmax", "dagger"),
            ("pictures", "diversity"),
            (
                Claim(
                    "Orthus draws what the prompt says more often than the discrete baseline at "
                    "equal tokens.",
                    "GenEval 0.58; the baseline's: " + UNKNOWN,
                    "softmax",
                    "dagger",
                    "pictures",
                ),
            ),
        ),
        Reproduction(
            "table4",
            "Unified training",
            "Training on both losses is better at both than training on either alone. Numbers: "
            f"{UNKNOWN}.",
            "The same rows for all three; two of them count one loss and leave the other head "
            "alone.",
            ("softmax", "understanding-only", "generation-only"),
            (),
            (
                Claim(
                    "Unified training answers better than training on text alone.",
                    UNKNOWN,
                    "softmax",
                    "understanding-only",
                    "answers",
                ),
                Claim(
                    "Unified training draws better than training on pictures alone.",
                    UNKNOWN,
                    "softmax",
                    "generation-only",
                    "pictures",
                ),
            ),
        ),
        Reproduction(
            "table5",
            "Embedding",
            "POPE, MME-P, VQAv2, GQA, MMMU by embedding: softmax 78.7, 1244.2, 60.8, 51.9, 28.0; "
            "argmin 77.6, 1064.8, 57.9, 50.1, 26.7; linear 70.4, 800.7, 50.3, 44.5, 22.3.",
            "Three conversions of one start: softmax over the codes at temperature 1, the nearest "
            "code, and a linear layer that begins at random. Each has its own build-base.",
            ("softmax", "argmin", "linear"),
            ("answers", "presence"),
            (
                Claim(
                    "A softmax over the codes understands better than the nearest code.",
                    "VQAv2 60.8 against 57.9, GQA 51.9 against 50.1",
                    "softmax",
                    "argmin",
                    "answers",
                ),
                Claim(
                    "A softmax over the codes understands better than a linear layer.",
                    "VQAv2 60.8 against 50.3, GQA 51.9 against 44.5",
                    "softmax",
                    "linear",
                    "answers",
                ),
                Claim(
                    "The nearest code understands better than a linear layer.",
                    "VQAv2 57.9 against 50.3, GQA 50.1 against 44.5",
                    "argmin",
                    "linear",
                    "answers",
                ),
                Claim(
                    "A softmax over the codes names fewer absent things than a linear layer.",
                    "POPE 78.7 against 70.4",
                    "softmax",
                    "linear",
                    "presence",
                ),
            ),
        ),
        Reproduction(
            "table6",
            "Reconstruction",
            "10,000 pictures that training has not seen: PSNR 26.1 and SSIM 0.84 from features, "
            "23.7 and 0.80 of the VQ autoencoder from codes.",
            "The same encoder: its features through the decoder that finetune-vae trained, against "
            "its codes through the decoder that was trained with them. That of finetune-vae began "
            "as this one, so it has 300 steps more.",
            ("decoder", "start"),
            (),
            (
                Claim(
                    "Features reconstruct better than codes (PSNR).",
                    "26.1 against 23.7 dB",
                    "decoder",
                    "start",
                    "features psnr",
                    "codes psnr",
                ),
                Claim(
                    "Features reconstruct better than codes (SSIM).",
                    "0.84 against 0.80",
                    "decoder",
                    "start",
                    "features ssim",
                    "codes ssim",
                ),
            ),
        ),
        Reproduction(
            "mse",
            "Diffusion head against regression",
            "A head that regresses the next feature by mean squared error draws pictures of few "
            f"colours that are all alike; shown by examples. Numbers: {UNKNOWN}.",
            "The same blocks with the same condition, without noise and time: one pass a patch "
            "gives the feature, and its loss is the mean squared error. It draws without "
            "randomness, so its pictures of one prompt are all the same whatever it has learnt.",
            ("softmax", "mse"),
            ("pictures", "diversity", "answers"),
            (
                Claim(
                    "The diffusion head draws what the prompt says more often than regression.",
                    "examples only",
                    "softmax",
                    "mse",
                    "pictures",
                ),
                Claim(
                    "Pictures of one prompt differ more with the diffusion head.",
                    "examples only",
                    "softmax",
                    "mse",
                    "diversity",
                ),
            ),
        ),
        Reproduction(
            "tau",
            "Temperature of the embedding",
            "The softmax equals the discrete lookup as its temperature goes to 0, so training may "
            "begin there and raise it; the paper trains at 1. How other temperatures do: "
            f"{UNKNOWN}.",
            "Temperatures are in squared units of the features, which have unit variance here, so "
            "1 is sharper or softer than the 7B's: the entropy tells. Bundled models are trained "
            "at 16. Gradient norms are those of posttraining; the temperature is raised before it, "
            "in build-base.",
            TAUS,
            (
                *("answers", "text loss", "image loss", "gradient", "jump"),
                *("entropy before", "entropy", "distance"),
            ),
            (
                Claim(
                    "After raising the temperature from 0, posttraining is as stable as at 1 "
                    "throughout (largest gradient norm, larger by less than its median).",
                    UNKNOWN,
                    "tau-annealed",
                    "softmax",
                    "jump",
                    margin=-1.0,
                ),
                Claim(
                    "Raising the temperature from 0 answers as well as 1 throughout (within 2 "
                    "points).",
                    UNKNOWN,
                    "tau-annealed",
                    "softmax",
                    "answers",
                    margin=-0.02,
                ),
            ),
        ),
        Reproduction(
            "noise",
            "Noise in the backbone",
            "Models that diffuse in the backbone (Transfusion, Show-o) read noisy pictures in "
            "training, which hurts understanding: the paper cites a drop of about 15% in "
            "captioning. Orthus keeps noise in its head.",
            "The same model, whose backbone reads sqrt(a_t) v + sqrt(1 - a_t) eps in training, t "
            "over its full range; both are asked about clean pictures.",
            ("softmax", "noised"),
            ("answers", "presence", "pictures"),
            (
                Claim(
                    "Reading clean pictures in training understands better than reading noisy "
                    "ones.",
                    "about 15% of captioning, cited",
                    "softmax",
                    "noised",
                    "answers",
                ),
                Claim(
                    "Reading clean pictures in training names fewer absent things.",
                    UNKNOWN,
                    "softmax",
                    "noised",
                    "presence",
                ),
            ),
        ),
        Reproduction(
            "diversity",
            "The head's steps, its noise levels, and the model's size",
            "Two questions that the paper leaves open: the head's many passes make drawing slow "
            "(100 steps a patch), and only the 7B was trained.",
            "One trained model drawn with 5, 10, 25 and 100 steps; two other ways to draw noise "
            "levels in training; and a wider and deeper model, with a start of its own.",
            (
                *("steps-5", "steps-10", "softmax", "steps-100"),
                *("logit-normal", "uniform-angle", "large"),
            ),
            ("pictures", "diversity"),
            (
                Claim(
                    "Ten steps a patch draw as well as a hundred (open question 1; within 3 "
                    "points).",
                    "100 steps are used",
                    "steps-10",
                    "steps-100",
                    "pictures",
                    margin=-0.03,
                ),
                Claim(
                    "Ten steps a patch differ by seed as much as a hundred (within 5 points).",
                    "100 steps are used",
                    "steps-10",
                    "steps-100",
                    "diversity",
                    margin=-0.05,
                ),
                Claim(
                    "Uniform noise levels draw as well as mostly middle ones (within 3 points).",
                    "uniform in the release",
                    "softmax",
                    "logit-normal",
                    "pictures",
                    margin=-0.03,
                ),
                Claim(
                    "A larger model draws better (open question 2).",
                    "one size",
                    "large",
                    "softmax",
                    "pictures",
                ),
                Claim(
                    "A larger model answers better (open question 2).",
                    "one size",
                    "large",
                    "softmax",
                    "answers",
                ),
            ),
        ),
    )
}


def reproductions(name: str) -> list[Reproduction]:
    """The reproductions of a name on the command line.

    Raises:
        RecipeError: When there is none of that name.
    """
    if name == ALL:
        return [*REPRODUCTIONS.values()]
    if name in REPRODUCTIONS:
        return [REPRODUCTIONS[name]]
    titles = {each.title.lower(): key for key, each in REPRODUCTIONS.items()}
    if name.lower() in titles:
        return [REPRODUCTIONS[titles[name.lower()]]]
    close = difflib.get_close_matches(name.lower(), [*REPRODUCTIONS, ALL, *titles], n=1)
    meant = f", did you mean {titles.get(close[0], close[0])!r}?" if close else ""
    raise RecipeError(
        f"there is nothing of the paper called {name!r}{meant}",
        hint=f"one of {', '.join([*REPRODUCTIONS, ALL])}, or an arm such as paper/linear",
    )


def needed_measures(chosen: Iterable[Reproduction]) -> dict[str, list[str]]:
    """What is measured of each arm for these reproductions, in order."""
    needed: dict[str, list[str]] = {}
    for each in chosen:
        for arm in each.arms:
            needed.setdefault(arm, []).extend(each.measures_of(arm))
    return {arm: [*dict.fromkeys(names)] for arm, names in needed.items()}


def with_arm(chosen: Sequence[Reproduction], arm: str) -> list[Reproduction]:
    """Those of the reproductions that have an arm."""
    return [each for each in chosen if arm in each.arms]
