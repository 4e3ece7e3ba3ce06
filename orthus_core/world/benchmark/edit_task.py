"""mini-edit: does the picture change as the instruction says, and stay the same elsewhere?"""

from __future__ import annotations

from torch import Tensor

from orthus_core.evaluation.reconstruction import psnr
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.detector import Detection, nearest_backdrop
from orthus_core.world.benchmark.model_under_test import Work
from orthus_core.world.benchmark.scores import average, mean, overall, share
from orthus_core.world.scene_edits import KINDS, SceneEdit, make_edit
from orthus_core.world.wording import describe_in_places

NAME = "mini-edit"
EDITS_PER_KIND = 30
# Maximum distance of a thing from its position, in 64ths of the picture's side.
MOST_OFFSET = 8.0
# If an edit leaves a smaller share of the pixels unchanged, the rest is not measured.
LEAST_UNTOUCHED = 0.05
# Largest PSNR reported, also for equal pictures: rounding to bytes already limits it to about this.
MOST_DECIBELS = 60.0


def run(context: EvalContext) -> Work[TaskResult]:
    """The share of correct edits of each kind and their mean; then the PSNR of unchanged pixels.

    The score by chance is that of the unedited picture.
    """
    world, subject = context.world, context.subject
    context.detector()  # before anything is drawn, as its package may be missing
    edits: list[SceneEdit] = []
    for kind in KINDS:
        rng = context.rng(f"{NAME}/{kind}")
        wanted = context.count(EDITS_PER_KIND, parts=len(KINDS))
        edits += [make_edit(rng, world, kind) for _ in range(wanted)]
    befores = [world.scene_image(edit.before) for edit in edits]
    afters = [world.scene_image(edit.after) for edit in edits]
    requests = [(before, edit.instruction) for before, edit in zip(befores, edits, strict=True)]
    outputs = yield from subject.edit(requests, NAME)
    drawn, texts = [each.pictures[0] for each in outputs], [each.texts[0] for each in outputs]

    # 1. Judge the things.
    def verdict(edit: SceneEdit, picture_3HW: Tensor) -> bool:
        return edit_succeeded(context, edit, picture_3HW)

    before_M, after_M = subject.load_pictures(befores), subject.load_pictures(afters)
    decoded_M = subject.reconstruct(afters)
    right = yield from context.judge_all(verdict, edits, drawn, NAME)
    left = yield from context.judge_all(verdict, edits, before_M, f"{NAME} by chance")
    truth = yield from context.judge_all(verdict, edits, after_M, f"{NAME} on truth")
    ceiling = yield from context.judge_all(verdict, edits, decoded_M, f"{NAME}, ceiling")

    def of_kind(outcomes: list[bool], kind: str) -> list[bool]:
        return [done for done, edit in zip(outcomes, edits, strict=True) if edit.kind == kind]

    groups = [of_kind(right, kind) for kind in KINDS]
    parts = [
        share(
            kind,
            group,
            chance=mean(of_kind(left, kind)),
            truth=mean(of_kind(truth, kind)),
            ceiling=mean(of_kind(ceiling, kind)),
        )
        for kind, group in zip(KINDS, groups, strict=True)
    ]

    # 2. Compare the pixels that should stay the same.
    kept = [unchanged_mask(b, a) for b, a in zip(before_M, after_M, strict=True)]
    with_rest = [index for index, mask_HW in enumerate(kept) if mask_HW is not None]

    def likeness(pictures: list[Tensor]) -> list[float]:
        return [_psnr_within(pictures[i], before_M[i], kept[i]) for i in with_rest]

    # 3. Compare the text that the model wrote before its picture, if any.
    true_texts = [describe_in_places(edit.after, world.nouns(edit.after)) for edit in edits]
    exact = [words == true for words, true in zip(texts, true_texts, strict=True)]
    words = [share("said right", exact, ceiling=1.0)] if any(texts) else []

    rest = average("untouched, dB", likeness(drawn), ceiling=mean(likeness(decoded_M)))
    decibels = dict(zip(with_rest, likeness(drawn), strict=True))
    samples = [
        {
            "seed": subject.seed + index,
            "kind": edit.kind,
            "before": edit.before.record(),
            "instruction": edit.instruction,
            "after": edit.after.record(),
            "said": texts[index],
            "right": right[index],
            "untouched_psnr": decibels.get(index),
        }
        for index, edit in enumerate(edits)
    ]
    rows = [
        [Tile(before_M[i]) for i in _numbers(edits, kind)]
        + [Tile(drawn[i], right[i]) for i in _numbers(edits, kind)]
        for kind in KINDS
    ]
    return TaskResult(NAME, [overall(parts), *parts, rest, *words], samples, rows)


def edit_succeeded(context: EvalContext, edit: SceneEdit, picture_3HW: Tensor) -> bool:
    """Whether a picture shows the result of an edit.

    It must show all things of the edited scene, each in its position and colour, and no others.
    After an edit of the background, the backdrop must be correct too.
    """
    scene = edit.after
    if edit.kind == "background" and nearest_backdrop(picture_3HW) != scene.backdrop:
        return False
    detector = context.detector()
    found = detector.find(picture_3HW)
    wanted = detector.truth(context.world, scene)
    for thing in wanted:
        match = next((each for each in found if _same(each, thing)), None)
        if match is None:
            return False
        found.remove(match)
    return not found


def _same(found: Detection, wanted: Detection) -> bool:
    off = max(abs(m - n) for m, n in zip(found.centre, wanted.centre, strict=True))
    return (found.noun, found.colour) == (wanted.noun, wanted.colour) and off <= MOST_OFFSET


def unchanged_mask(before_3HW: Tensor, after_3HW: Tensor) -> Tensor | None:
    """Mask of the pixels that are equal in both true pictures: bool [H, W]; None if too few are."""
    same_HW = (before_3HW == after_3HW).all(0)
    return same_HW if same_HW.float().mean() >= LEAST_UNTOUCHED else None


def _psnr_within(picture_3HW: Tensor, true_3HW: Tensor, mask_HW: Tensor | None) -> float:
    assert mask_HW is not None
    inside = (picture_3HW[:, mask_HW][None], true_3HW[:, mask_HW][None])
    return float(psnr(*inside, data_range=1.0).clamp_max(MOST_DECIBELS))


def _numbers(edits: list[SceneEdit], kind: str) -> list[int]:
    return [index for index, edit in enumerate(edits) if edit.kind == kind]
