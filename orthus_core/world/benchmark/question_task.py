"""mini-vqa and mini-pope: questions with one right answer, about sprites and scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orthus_core.world import scene_questions, sprite_questions
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import F1, Score, bootstrap, overall, share
from orthus_core.world.scene_questions import SPLITS, ask_scene, pope_questions
from orthus_core.world.scenes import a_scene
from orthus_core.world.sprite_questions import Asked, ask_single

VQA, POPE = "mini-vqa", "mini-pope"
SINGLE_KINDS = tuple(sprite_questions.KINDS)
# Descriptions are mini-caption's, what is there or not mini-pope's.
SCENE_KINDS = tuple(
    kind for kind in scene_questions.KINDS if kind != "description" and not kind.startswith("pope_")
)
OF_A_KIND = 30
FOR_CHANCE = 200
"""Questions of a kind whose commonest answer is counted."""
POPE_SCENES = 75
"""Of each split; a scene is asked about twice, once for what is there and once for what is not."""
SHOWN = 20


def vqa(bench: EvalContext) -> Work[TaskResult]:
    """A share for each kind of question and their mean. Chance is the kind's commonest answer."""
    single = {f"sprite {kind}": (ask_single, kind) for kind in SINGLE_KINDS}
    of_scenes = {f"scene {kind}": (ask_scene, kind) for kind in SCENE_KINDS}
    asked: list[Asked] = []
    parts: list[str] = []
    chance: dict[str, float] = {}
    for part, (ask, kind) in (single | of_scenes).items():
        rng = bench.rng(f"{VQA}/{part}")
        wanted = bench.count(OF_A_KIND, parts=len(single) + len(of_scenes))
        usual = [ask(rng, bench.world, kind) for _ in range(FOR_CHANCE)]
        chance[part] = commonest(usual)
        asked += usual[:wanted]
        parts += [part] * wanted
    said = yield from bench.subject.answer([(a.picture, a.question) for a in asked], VQA)

    right = [plain(words) == plain(a.answer) for words, a in zip(said, asked, strict=True)]
    groups = {part: [i for i, each in enumerate(parts) if each == part] for part in chance}
    outcomes = [[right[i] for i in of_part] for of_part in groups.values()]
    scores = [
        share(part, of_part, chance=chance[part], truth=1.0)
        for part, of_part in zip(groups, outcomes, strict=True)
    ]
    return TaskResult(
        VQA,
        [overall(scores), *scores],
        _samples(parts, asked, said, right),
        _sheet(bench, list(groups.values()), asked, right),
    )


def pope(bench: EvalContext) -> Work[TaskResult]:
    """Accuracy over all, then accuracy, F1 and share of yes in each split (2305.10355)."""
    asked: list[Asked] = []
    parts: list[str] = []
    for split in SPLITS:
        rng = bench.rng(f"{POPE}/{split}")
        for _ in range(bench.count(POPE_SCENES, parts=2 * len(SPLITS))):
            scene, _ = a_scene(rng, bench.world)
            asked += pope_questions(rng, bench.world, scene, split)
            parts += [split] * (len(asked) - len(parts))
    said = yield from bench.subject.answer([(a.picture, a.question) for a in asked], POPE)

    right = [plain(words) == plain(a.answer) for words, a in zip(said, asked, strict=True)]
    groups = {split: [i for i, each in enumerate(parts) if each == split] for split in SPLITS}
    scores = [share("accuracy", right, chance=0.5, truth=1.0)]
    for split, of_split in groups.items():
        yes = [plain(said[i]) == "yes" for i in of_split]
        true = [asked[i].answer == "yes" for i in of_split]
        pairs = list(zip(yes, true, strict=True))
        accuracy = share(split, [right[i] for i in of_split], chance=0.5, truth=1.0)
        # Who always says yes has a precision of 1/2 and a recall of 1.
        scores += [
            accuracy,
            Score(f"{split}, F1", _f1(pairs), len(pairs), bootstrap(pairs, _f1), 2 / 3, 1.0),
            share(f"{split}, says yes", yes, truth=0.5),
        ]
    return TaskResult(
        POPE,
        scores,
        _samples(parts, asked, said, right),
        _sheet(bench, list(groups.values()), asked, right),
    )


def plain(answer: str) -> str:
    """An answer without what does not matter: case, spaces and a full stop."""
    return answer.lower().strip().rstrip(".")


def commonest(asked: Sequence[Asked]) -> float:
    """How often the commonest answer is right."""
    return Counter(a.answer for a in asked).most_common(1)[0][1] / len(asked)


def _f1(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Of what was said to be there against what is."""
    hits = sum(said and true for said, true in pairs)
    return F1(hits, sum(said for said, _ in pairs), sum(true for _, true in pairs)).value


def _samples(
    parts: Sequence[str], asked: Sequence[Asked], said: Sequence[str], right: Sequence[bool]
) -> list[dict]:
    return [
        {"part": part, "question": a.question, "answer": words, "truth": a.answer, "right": is_it}
        for part, a, words, is_it in zip(parts, asked, said, right, strict=True)
    ]


def _sheet(
    bench: EvalContext,
    groups: Sequence[Sequence[int]],
    asked: Sequence[Asked],
    right: Sequence[bool],
) -> list[list[Tile]]:
    """The first pictures of each part."""
    return [
        [
            Tile(picture, right[index])
            for index, picture in zip(
                group[:SHOWN],
                bench.subject.seen([asked[index].picture for index in group[:SHOWN]]),
                strict=True,
            )
        ]
        for group in groups
    ]
