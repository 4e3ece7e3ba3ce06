"""mini-caption: how much of a scene does the caption say, and is all that it says so?"""

from __future__ import annotations

from itertools import pairwise

from orthus_core.world.benchmark.caption_slots import KINDS, Slot, only, slot_f1, slots
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.question_task import plain
from orthus_core.world.benchmark.scores import Score, bootstrap, share
from orthus_core.world.scene_questions import ask_scene

NAME = "mini-caption"
CAPTIONS = 200
SHOWN = 40

Said = list[frozenset[Slot]]
Pairs = list[tuple[frozenset[Slot], frozenset[Slot]]]


def run(bench: EvalContext) -> Work[TaskResult]:
    """F1 over all slots, over each kind of slot, and captions that are right to the word. Chance is
    the true caption of another scene.
    """
    rng = bench.rng(NAME)
    usual = [ask_scene(rng, bench.world, "description") for _ in range(CAPTIONS + 1)]
    asked = usual[: bench.count(CAPTIONS)]
    said = yield from bench.subject.answer([(a.picture, a.question) for a in asked], NAME)

    nouns = list(bench.world.cast)
    claims = [slots(words, nouns) for words in said]
    all_true = [slots(a.answer, nouns) for a in usual]
    true, by_chance = all_true[: len(asked)], list(pairwise(all_true))
    exact = [plain(words) == plain(a.answer) for words, a in zip(said, asked, strict=True)]
    scores = [_score("slot F1", claims, true, by_chance)]
    for kind in KINDS:
        of_kind = only(kind, true)
        if any(of_kind):
            others = [(only(kind, [a])[0], only(kind, [b])[0]) for a, b in by_chance]
            scores.append(_score(kind, only(kind, claims), of_kind, others))
    scores.append(share("exact", exact, truth=1.0))

    samples = [
        {"question": a.question, "answer": words, "truth": a.answer, "exact": is_exact}
        for a, words, is_exact in zip(asked, said, exact, strict=True)
    ]
    shown = bench.subject.seen([a.picture for a in asked[:SHOWN]])
    tiles = [Tile(picture, is_exact) for picture, is_exact in zip(shown, exact, strict=False)]
    return TaskResult(NAME, scores, samples, [tiles])


def _score(name: str, claims: Said, true: Said, by_chance: Pairs) -> Score:
    pairs = list(zip(claims, true, strict=True))
    interval = bootstrap(pairs, slot_f1)
    return Score(name, slot_f1(pairs), len(pairs), interval, slot_f1(by_chance), truth=1.0)
