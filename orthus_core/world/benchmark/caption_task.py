"""mini-caption: does a caption describe the scene completely and correctly?"""

from __future__ import annotations

from itertools import pairwise

from orthus_core.world.benchmark.caption_slots import KINDS, Slot, slot_f1, slots, slots_of_kind
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.question_task import normalise_answer
from orthus_core.world.benchmark.scores import Score, bootstrap, share
from orthus_core.world.scene_questions import ask_scene

NAME = "mini-caption"
CAPTIONS = 200
SHEET_PICTURES = 40

Claims = list[frozenset[Slot]]
Pairs = list[tuple[frozenset[Slot], frozenset[Slot]]]


def run(context: EvalContext) -> Work[TaskResult]:
    """F1 over all slots and over each kind of slot, and the share of exactly correct captions.

    The score by chance is that of true captions of other scenes.
    """
    rng = context.rng(NAME)
    all_questions = [ask_scene(rng, context.world, "description") for _ in range(CAPTIONS + 1)]
    questions = all_questions[: context.count(CAPTIONS)]
    captions = yield from context.subject.answer([(a.picture, a.question) for a in questions], NAME)

    nouns = list(context.world.cast)
    claims = [slots(words, nouns) for words in captions]
    all_true = [slots(a.answer, nouns) for a in all_questions]
    true, by_chance = all_true[: len(questions)], list(pairwise(all_true))
    exact = [
        normalise_answer(words) == normalise_answer(a.answer)
        for words, a in zip(captions, questions, strict=True)
    ]
    scores = [_score("slot F1", claims, true, by_chance)]
    for kind in KINDS:
        of_kind = slots_of_kind(kind, true)
        if any(of_kind):
            others = [
                (slots_of_kind(kind, [a])[0], slots_of_kind(kind, [b])[0]) for a, b in by_chance
            ]
            scores.append(_score(kind, slots_of_kind(kind, claims), of_kind, others))
    scores.append(share("exact", exact, truth=1.0))

    samples = [
        {"question": a.question, "answer": words, "truth": a.answer, "exact": is_exact}
        for a, words, is_exact in zip(questions, captions, exact, strict=True)
    ]
    shown = context.subject.load_pictures([a.picture for a in questions[:SHEET_PICTURES]])
    tiles = [Tile(picture, is_exact) for picture, is_exact in zip(shown, exact, strict=False)]
    return TaskResult(NAME, scores, samples, [tiles])


def _score(name: str, claims: Claims, true: Claims, by_chance: Pairs) -> Score:
    pairs = list(zip(claims, true, strict=True))
    interval = bootstrap(pairs, slot_f1)
    return Score(name, slot_f1(pairs), len(pairs), interval, slot_f1(by_chance), truth=1.0)
