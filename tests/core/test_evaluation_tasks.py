"""Whole tasks, with a subject that does everything right and one that never moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from orthus_core.data.pictures import Picture
from orthus_core.errors import OrthusError, RecipeError
from orthus_core.evaluation import efficientnet
from orthus_core.events import Progress
from orthus_core.world.benchmark import (
    caption_task,
    diversity_task,
    edit_task,
    mini_geneval,
    place_task,
    question_task,
    sprite_metric,
    sprite_recall,
    story_task,
)
from orthus_core.world.benchmark.context import EvalContext, TaskResult, Tile
from orthus_core.world.benchmark.mini import TASKS, select_tasks
from orthus_core.world.benchmark.model_under_test import GeneratedStory
from orthus_core.world.benchmark.report import report_files, tile_grid, with_frame
from orthus_core.world.benchmark.sprite_metric import unit_range_of_bytes
from orthus_core.world.scene import LARGE, Scene, SceneImage, Thing
from orthus_core.world.story_rows import make_story
from orthus_core.world.wording import describe_in_places
from orthus_core.world.world import World


class Oracle:
    """Answers with what it was told to; its autoencoder loses nothing."""

    seed = 1

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = given

    def _hand_out(self, asked, stage):
        yield Progress(stage, len(asked), len(asked))
        assert len(self.given) == len(asked)
        return list(self.given)

    draw = edit = answer = _hand_out

    def continue_stories(self, openings, panels, stage):
        return self._hand_out(openings, stage)

    def load_pictures(self, pictures: Sequence[Picture]) -> list[Tensor]:
        return [unit_range_of_bytes(picture.load(128)) for picture in pictures]

    reconstruct = load_pictures


@pytest.fixture(scope="module")
def bench() -> EvalContext:
    return EvalContext(cast(Any, Oracle([])), limit=12)


@pytest.fixture(scope="module", autouse=True)
def pictures_seen_before():
    """The judge sees many pictures several times: drawn, true and decoded are the same here."""
    vectors, known = sprite_metric.window_vectors, {}

    def remembered(pictures_M3HW: Tensor, size: int) -> Tensor:
        key = (pictures_M3HW.numpy().tobytes(), size)
        if key not in known:
            known[key] = vectors(pictures_M3HW, size)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sprite_metric, "window_vectors", remembered)
        yield known


def run(task, bench: EvalContext, given: Sequence[Any]) -> TaskResult:
    bench.subject = cast(Any, Oracle(given))
    work = task(bench)
    try:
        while True:
            assert isinstance(next(work), Progress)
    except StopIteration as stop:
        return stop.value


def seen(bench: EvalContext, scene) -> Tensor:
    return unit_range_of_bytes(bench.world.scene_image(scene).load(128))


def test_drawing_every_true_scene_scores_one_and_another_one_zero(bench):
    items = mini_geneval.items_of(bench, mini_geneval.PROMPTS)
    firsts = [mini_geneval._of_tag(items, tag)[0] for tag in mini_geneval.TAGS]
    pictures = [seen(bench, item.scene) for item in firsts for _ in range(mini_geneval.SAMPLES)]
    right = run(mini_geneval.run, bench, pictures)
    assert [score.value for score in right.scores] == [1.0] * 7
    assert right.scores[0].chance is not None and right.scores[0].chance < 0.1
    assert right.scores[0].truth == right.scores[0].ceiling == 1.0
    wrong = run(mini_geneval.run, bench, pictures[2:] + pictures[:2])
    assert wrong.scores[0].value < 0.2
    assert all(sample["why"] for sample in wrong.samples if not sample["right"])


def test_a_thing_at_its_place_is_right_and_elsewhere_or_beside_another_is_not(bench):
    items = place_task.items_of(bench)
    assert len(items) == bench.limit // place_task.SAMPLES
    pictures = [seen(bench, item.scene) for item in items for _ in range(place_task.SAMPLES)]
    both, thing, place = run(place_task.run, bench, pictures).scores
    assert both.value == thing.value == place.value == both.truth == both.ceiling == 1.0
    assert both.chance is not None and both.chance < 0.2

    white = [seen(bench, Scene("white", item.scene.things)) for item in items]
    twice = [white[number // place_task.SAMPLES] for number in range(len(pictures))]
    both, thing, place = run(place_task.run, bench, twice).scores
    assert (both.value, thing.value, place.value) == (0.0, 1.0, 0.0)

    others = pictures[place_task.SAMPLES :] + pictures[: place_task.SAMPLES]
    assert run(place_task.run, bench, others).scores[0].value == 0.0
    crowded = []
    for item in items:
        (it,) = item.scene.things
        more = Scene(
            item.scene.backdrop, (Thing(it.sprite, 0, 32, 32), Thing(it.sprite, 32, 32, 32))
        )
        crowded += [seen(bench, more)] * place_task.SAMPLES
    both, thing, place = run(place_task.run, bench, crowded).scores
    assert (both.value, thing.value, place.value) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("backdrop", "place", "shown"),
    [
        ("meadow night", ("meadow", "night"), True),
        ("meadow day", ("meadow", "night"), False),
        ("meadow day", ("meadow",), True),  # no time of day is by day
        ("meadow night", ("meadow",), False),
        ("city night", ("night",), True),  # a time of day alone leaves the place open
        ("city day", ("night",), False),
        ("space", ("space",), True),
        ("sea", ("space",), False),
        ("blue", ("blue",), True),
    ],
)
def test_a_backdrop_shows_the_place_that_words_name(backdrop, place, shown):
    assert place_task.shows_place(backdrop, place) == shown


def test_other_wordings_ask_for_the_same(bench):
    """In words that training never uses; what a correct picture shows stays."""
    new = EvalContext(
        cast(Any, Oracle([])), World.open(testing=True, wordings="held out"), limit=12
    )
    for things_and_texts in (of_places, of_geneval):
        (old_things, old), (new_things, others) = things_and_texts(bench), things_and_texts(new)
        assert old_things == new_things
        assert sum(a != b for a, b in zip(old, others, strict=True)) > 0.9 * len(old)


def of_places(context: EvalContext) -> tuple[list, list[str]]:
    items = place_task.items_of(context)
    return [item.scene for item in items], [item.prompt.text for item in items]


def of_geneval(context: EvalContext) -> tuple[list, list[str]]:
    items = mini_geneval.items_of(context, mini_geneval.PROMPTS)
    looks = [
        [(i["class"], i["count"], i.get("color")) for i in m.request["include"]] for m in items
    ]
    return looks, [item.request["prompt"] for item in items]


def test_recall_is_one_for_the_sprites_themselves_and_zero_for_others(bench, monkeypatch):
    some = sprite_recall.askable(bench.world)[::8]
    monkeypatch.setattr(sprite_recall, "askable", lambda world: some)
    wanted = sprite_recall.sample_sprites(bench)
    pictures = [seen(bench, Scene("white", (Thing(w.key, 8, 16, LARGE),))) for w in wanted]
    (score,) = run(sprite_recall.run, bench, pictures).scores
    assert (score.name, score.value, score.n) == (sprite_recall.PART, 1.0, 12)
    assert score.truth == score.ceiling == 1.0 and score.chance == 1 / len(some)
    (score,) = run(sprite_recall.run, bench, pictures[1:] + pictures[:1]).scores
    assert score.value == 0.0


def test_recall_asks_for_nearly_every_thing_of_the_vocabulary_once(world):
    whole = EvalContext(cast(Any, Oracle([])), world)
    nouns = {world.noun(sprite.key) for sprite in sprite_recall.sample_sprites(whole)}
    assert len(nouns) == sprite_recall.SPRITES > 0.95 * len(world.things)
    assert not nouns & {"circle", "square"}


def test_edits_that_were_made_score_one_and_pictures_left_alone_chance(bench):
    made = []
    for kind in edit_task.KINDS:
        rng = bench.rng(f"{edit_task.NAME}/{kind}")
        made += [edit_task.make_edit(rng, bench.world, kind) for _ in range(2)]

    def drawn(scene: Scene, words: str = "") -> GeneratedStory:
        return GeneratedStory([words], [seen(bench, scene)])

    done = run(edit_task.run, bench, [drawn(edit.after) for edit in made])
    assert done.scores[0].value == 1.0
    assert (done.scores[-1].name, done.scores[-1].value) == (
        "untouched, dB",
        edit_task.MOST_DECIBELS,
    )
    idle = run(edit_task.run, bench, [drawn(edit.before) for edit in made])
    assert idle.scores[0].value == idle.scores[0].chance == 0.0
    assert idle.scores[-1].value == edit_task.MOST_DECIBELS


def test_seeds_that_draw_one_picture_have_no_diversity_and_true_scenes_one(bench):
    items = mini_geneval.items_of(bench, 1)
    rng = bench.rng(f"{diversity_task.NAME}/true")
    requests = [item.request for item in items for _ in range(diversity_task.SEEDS)]
    true = [seen(bench, diversity_task.true_scene(rng, bench.world, r)) for r in requests]
    (score,) = run(diversity_task.run, bench, true).scores
    assert score.value == pytest.approx(1.0) and score.n == len(items)
    same = [true[n - n % diversity_task.SEEDS] for n in range(len(true))]
    (score,) = run(diversity_task.run, bench, same).scores
    assert score.value == pytest.approx(0.0, abs=1e-3)


def test_nothing_is_drawn_where_the_judges_weights_are_missing(pictures_seen_before, monkeypatch):
    pictures_seen_before.clear()
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_anywhere")
    monkeypatch.setattr(sprite_metric, "_metrics", {})
    efficientnet.efficientnet.cache_clear()
    probe = EvalContext(cast(Any, Recorder()), limit=12)
    for task in (mini_geneval, sprite_recall, edit_task, story_task, diversity_task):
        with pytest.raises(OrthusError, match="not installed") as caught:
            next(task.run(probe))
        assert "orthus-kit[features]" in caught.value.hint
    efficientnet.efficientnet.cache_clear()


def test_what_is_said_before_an_edit_is_judged_where_something_is(bench):
    rngs = {kind: bench.rng(f"{edit_task.NAME}/{kind}") for kind in edit_task.KINDS}
    made = [
        edit_task.make_edit(rngs[kind], bench.world, kind) for kind in edit_task.KINDS for _ in "ab"
    ]
    said = [describe_in_places(edit.after, bench.world.nouns(edit.after)) for edit in made]
    said[0] = "nothing"
    given = [GeneratedStory([w], [seen(bench, e.after)]) for w, e in zip(said, made, strict=True)]
    done = run(edit_task.run, bench, given)
    assert done.scores[-1].name == "said right"
    assert done.scores[-1].value == pytest.approx(11 / 12)
    assert [sample["said"] for sample in done.samples] == said


def test_stories_as_they_are_told_score_one_and_missing_panels_count_as_wrong(bench):
    bench = EvalContext(bench.subject, limit=3)
    rng = bench.rng(story_task.NAME)
    true = [make_story(rng, bench.world, story_task.PANELS + 1) for _ in range(3)]
    told = [
        GeneratedStory([p.text for p in s.panels[1:]], [seen(bench, p.scene) for p in s.panels[1:]])
        for s in true
    ]
    result = run(story_task.run, bench, told)
    assert [score.value for score in result.scores] == [1.0] * 3
    shorter = [GeneratedStory(t.texts[:2], t.pictures[:2]) for t in told]
    right, drawn, whole = run(story_task.run, bench, shorter).scores
    assert right.value == drawn.value == pytest.approx(2 / 3) and whole.value == 0


def test_true_answers_score_one_and_none_at_all_scores_nothing(bench, monkeypatch):
    monkeypatch.setattr(question_task, "CHANCE_QUESTIONS", 20)
    for task in (caption_task.run, question_task.vqa, question_task.pope):
        probe = Recorder()
        bench.subject = cast(Any, probe)
        with pytest.raises(Recorder.Asked):
            next(task(bench))
        asked = len(probe.asked)
        silent = run(task, bench, [""] * asked)
        truths = [sample["truth"] for sample in silent.samples]
        assert silent.scores[0].value < 0.4
        perfect = run(task, bench, truths)
        assert perfect.scores[0].value == 1.0
        assert all(sample["answer"] == sample["truth"] for sample in perfect.samples)


class Recorder(Oracle):
    """Notes what is asked and stops there."""

    class Asked(Exception):
        pass

    def __init__(self) -> None:
        super().__init__([])
        self.asked: list[tuple[Picture, str]] = []

    def answer(self, asked, stage):
        self.asked = list(asked)
        raise self.Asked


def test_everything_that_is_asked_about_scenes_was_held_out(bench):
    probe = Recorder()
    bench.subject = cast(Any, probe)
    with pytest.raises(Recorder.Asked):
        next(caption_task.run(bench))
    scenes = [picture.scene for picture, _ in probe.asked if isinstance(picture, SceneImage)]
    assert len(scenes) == 12
    assert all(bench.world.allows(scene) and bench.world.testing for scene in scenes)


def test_tasks_are_run_in_the_benchmarks_order_and_unknown_ones_refused():
    assert select_tasks([]) == list(TASKS)
    assert select_tasks(["story", "recall"]) == ["recall", "story"]
    with pytest.raises(RecipeError, match="no task 'stories'"):
        select_tasks(["stories"])


def test_a_sheet_frames_what_is_right_in_green_and_what_is_not_in_red():
    grey = torch.full((3, 4, 4), 0.5)
    sheet = tile_grid([[Tile(grey, True), Tile(grey, False)], [Tile(grey)]])
    assert sheet.size == (16, 16)
    (red, green, blue) = sheet.getpixel((0, 0))  # type: ignore[misc]
    assert green > red and green > blue
    (red, green, blue) = sheet.getpixel((8, 0))  # type: ignore[misc]
    assert red > green
    assert sheet.getpixel((12, 12)) == (255, 255, 255)
    assert torch.equal(with_frame(Tile(grey))[:, 2:-2, 2:-2], grey)


def test_a_report_of_nothing_measured_is_still_json():
    files = report_files([TaskResult("t", [], [], [])], {"name": "m"}, {"seed": 1})
    assert set(files) == {"result.json", "samples.jsonl", "t.png"}


def test_true_pictures_of_recall_are_as_large_as_training_shows_them(bench, monkeypatch):
    monkeypatch.setattr(sprite_recall, "askable", lambda world: world.sprites[:3])
    taken: list[SceneImage] = []

    def reconstruct(self: Oracle, pictures: Sequence[SceneImage]) -> list[Tensor]:
        taken.extend(pictures)
        return self.load_pictures(pictures)

    monkeypatch.setattr(Oracle, "reconstruct", reconstruct)
    run(sprite_recall.run, bench, [torch.ones(3, 128, 128)] * 3)
    assert len(taken) == 3
    assert all(thing.side == LARGE for picture in taken for thing in picture.scene.things)
