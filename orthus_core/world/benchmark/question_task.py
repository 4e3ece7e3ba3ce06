"""mini-vqa and mini-pope: questions with one right answer, about sprites and scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orthus_core.world import scene_questions, sprite_questions
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import F1, Score, bootstrap, overall, share
from orthus_core.world.scene_questions import SPLITS, ask_scene, pope_questions
from orthus_core.world.scenes import sample_scene
from orthus_core.world.sprite_questions import PictureQuestion, ask_single

VQA, POPE = "mini-vqa", "mini-pope"
SINGLE_KINDS = tuple(sprite_questions.KINDS)
# mini-caption asks for descriptions, and mini-pope for presence.
SCENE_KINDS = tuple(
    kind for kind in scene_questions.KINDS if kind != "description" and not kind.startswith("pope_")
)
QUESTIONS_PER_KIND = 30
CHANCE_QUESTIONS = 200
"""Questions of each kind that the score by chance is estimated from."""
POPE_SCENES = 75
"""Scenes of each split; each has one question with the answer "yes" and one with "no"."""
SHEET_PICTURES = 20


def vqa(context: EvalContext) -> Work[TaskResult]:
    """The share of correct answers for each kind of question, and their mean.

    The score by chance is that of the most common answer of the kind.
    """
    single = {f"sprite {kind}": (ask_single, kind) for kind in SINGLE_KINDS}
    of_scenes = {f"scene {kind}": (ask_scene, kind) for kind in SCENE_KINDS}
    questions: list[PictureQuestion] = []
    parts: list[str] = []
    chance: dict[str, float] = {}
    for part, (ask, kind) in (single | of_scenes).items():
        rng = context.rng(f"{VQA}/{part}")
        wanted = context.count(QUESTIONS_PER_KIND, parts=len(single) + len(of_scenes))
        candidates = [ask(rng, context.world, kind) for _ in range(CHANCE_QUESTIONS)]
        chance[part] = majority_share(candidates)
        questions += candidates[:wanted]
        parts += [part] * wanted
    answers = yield from context.subject.answer([(q.picture, q.question) for q in questions], VQA)

    right = [
        normalise_answer(words) == normalise_answer(q.answer)
        for words, q in zip(answers, questions, strict=True)
    ]
    groups = {part: [i for i, each in enumerate(parts) if each == part] for part in chance}
    outcomes = [[right[i] for i in of_part] for of_part in groups.values()]
    scores = [
        share(part, of_part, chance=chance[part], truth=1.0)
        for part, of_part in zip(groups, outcomes, strict=True)
    ]
    return TaskResult(
        VQA,
        [overall(scores), *scores],
        _samples(parts, questions, answers, right),
        _sheet(context, list(groups.values()), questions, right),
    )


def pope(context: EvalContext) -> Work[TaskResult]:
    """Accuracy over all questions; then accuracy, F1 and share of "yes" by split (2305.10355)."""
    questions: list[PictureQuestion] = []
    parts: list[str] = []
    for split in SPLITS:
        rng = context.rng(f"{POPE}/{split}")
        for _ in range(context.count(POPE_SCENES, parts=2 * len(SPLITS))):
            scene, _ = sample_scene(rng, context.world)
            questions += pope_questions(rng, context.world, scene, split)
            parts += [split] * (len(questions) - len(parts))
    answers = yield from context.subject.answer([(q.picture, q.question) for q in questions], POPE)

    right = [
        normalise_answer(words) == normalise_answer(q.answer)
        for words, q in zip(answers, questions, strict=True)
    ]
    groups = {split: [i for i, each in enumerate(parts) if each == split] for split in SPLITS}
    scores = [share("accuracy", right, chance=0.5, truth=1.0)]
    for split, of_split in groups.items():
        yes = [normalise_answer(answers[i]) == "yes" for i in of_split]
        true = [questions[i].answer == "yes" for i in of_split]
        pairs = list(zip(yes, true, strict=True))
        accuracy = share(split, [right[i] for i in of_split], chance=0.5, truth=1.0)
        # A model that always says yes has a precision of 1/2 and a recall of 1.
        scores += [
            accuracy,
            Score(f"{split}, F1", _f1(pairs), len(pairs), bootstrap(pairs, _f1), 2 / 3, 1.0),
            share(f"{split}, says yes", yes, truth=0.5),
        ]
    return TaskResult(
        POPE,
        scores,
        _samples(parts, questions, answers, right),
        _sheet(context, list(groups.values()), questions, right),
    )


def normalise_answer(answer: str) -> str:
    """An answer in lower case, without outer spaces and a full stop at the end."""
    return answer.lower().strip().rstrip(".")


def majority_share(questions: Sequence[PictureQuestion]) -> float:
    """The share of questions with the most common answer."""
    return Counter(q.answer for q in questions).most_common(1)[0][1] / len(questions)


def _f1(pairs: Sequence[tuple[bool, bool]]) -> float:
    """F1 of the answer "yes"."""
    hits = sum(claimed and true for claimed, true in pairs)
    return F1(hits, sum(claimed for claimed, _ in pairs), sum(true for _, true in pairs)).value


def _samples(
    parts: Sequence[str],
    questions: Sequence[PictureQuestion],
    answers: Sequence[str],
    right: Sequence[bool],
) -> list[dict]:
    return [
        {"part": part, "question": q.question, "answer": words, "truth": q.answer, "right": is_it}
        for part, q, words, is_it in zip(parts, questions, answers, right, strict=True)
    ]


def _sheet(
    context: EvalContext,
    groups: Sequence[Sequence[int]],
    questions: Sequence[PictureQuestion],
    right: Sequence[bool],
) -> list[list[Tile]]:
    """Tiles of the first pictures of each part."""
    return [
        [
            Tile(picture, right[index])
            for index, picture in zip(
                group[:SHEET_PICTURES],
                context.subject.load_pictures(
                    [questions[index].picture for index in group[:SHEET_PICTURES]]
                ),
                strict=True,
            )
        ]
        for group in groups
    ]
