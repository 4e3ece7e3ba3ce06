"""The task `answers`: questions about scenes of every kind but presence, of which POPE asks.

It asks what the arms are trained on, and more often than mini-vqa does, since a difference of two
arms is smaller than either of them.
"""

from __future__ import annotations

from orthus_core.world.benchmark.context import EvalContext, TaskResult
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.question_task import (
    CHANCE_QUESTIONS,
    SCENE_KINDS,
    majority_share,
    normalise_answer,
)
from orthus_core.world.benchmark.scores import overall, share
from orthus_core.world.scene_questions import ask_scene

NAME = "answers"
QUESTIONS_PER_KIND = 150


def run(context: EvalContext) -> Work[TaskResult]:
    """The share of right answers of each kind, and their mean.

    The score by chance is that of the most common answer of the kind.
    """
    asked, parts, chance = [], [], dict[str, float]()
    wanted = context.count(QUESTIONS_PER_KIND, parts=len(SCENE_KINDS))
    for kind in SCENE_KINDS:
        rng = context.rng(f"{NAME}/{kind}")
        candidates = [ask_scene(rng, context.world, kind) for _ in range(CHANCE_QUESTIONS)]
        chance[kind] = majority_share(candidates)
        asked += candidates[:wanted]
        parts += [kind] * wanted
    answers = yield from context.subject.answer([(q.picture, q.question) for q in asked], NAME)

    right = [
        normalise_answer(words) == normalise_answer(question.answer)
        for words, question in zip(answers, asked, strict=True)
    ]
    scores = [
        share(
            kind,
            [is_right for part, is_right in zip(parts, right, strict=True) if part == kind],
            chance=by_chance,
            truth=1.0,
        )
        for kind, by_chance in chance.items()
    ]
    samples = [
        {"part": part, "question": q.question, "answer": words, "truth": q.answer, "right": is_it}
        for part, q, words, is_it in zip(parts, asked, answers, right, strict=True)
    ]
    return TaskResult(NAME, [overall(scores), *scores], samples, [])
