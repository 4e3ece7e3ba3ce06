"""The judges of the benchmark, on detections and words made by hand."""

from __future__ import annotations

import random

import pytest
import torch

from orthus_core.evaluation.geneval import relative_position
from orthus_core.world.backdrops import BACKDROPS
from orthus_core.world.benchmark.caption_slots import Slot, slot_f1, slots
from orthus_core.world.benchmark.detector import Detection
from orthus_core.world.benchmark.edit_task import unchanged_mask
from orthus_core.world.benchmark.geneval_rule import judge, relations, scene_of
from orthus_core.world.benchmark.question_task import normalise_answer
from orthus_core.world.benchmark.scores import F1, average, bootstrap, mean, overall, share, wilson
from orthus_core.world.benchmark.story_task import hero_after, nouns_in, shows_cast
from orthus_core.world.geneval_prompts import geneval_prompts
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.wording import describe


def found(noun: str, x: int = 0, y: int = 0, colour: str = "", score: float = 0.9) -> Detection:
    return Detection(noun, colour, x, y, 32, score)


# GenEval


def test_a_counted_thing_is_there_so_often_and_not_more():
    request = {
        "include": [{"class": "dog", "count": 2}],
        "exclude": [{"class": "dog", "count": 3}],
    }
    dogs = [found("dog", 0), found("dog", 32), found("dog", 0, 32)]
    assert judge(request, dogs[:2]).right
    assert judge(request, dogs[:1]).reasons == ("expected dog>=2, found 1",)
    assert judge(request, dogs).reasons == ("expected dog<3, found 3",)


def test_of_each_class_only_as_many_as_asked_are_looked_at():
    request = {"include": [{"class": "car", "count": 1, "color": "blue"}]}
    assert judge(request, [found("car", colour="blue"), found("car", 32, colour="red")]).right
    wrong = judge(request, [found("car", colour="red"), found("car", 32, colour="blue")])
    assert wrong.reasons == ("expected blue car>=1, found 0",)
    request["include"][0]["count"] = 2
    one_of_two = judge(request, [found("car", colour="blue"), found("car", 32, colour="red")])
    assert one_of_two.reasons == ("expected blue car>=2, found 1",)


def test_a_position_is_that_of_the_second_entry_to_its_target():
    request = {
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": ["left of", 0]},
        ]
    }
    assert judge(request, [found("dog", 0), found("cat", 32)]).right
    assert judge(request, [found("cat", 0), found("dog", 32)]).reasons == (
        "expected dog left of cat",
    )
    assert not judge(request, [found("dog", 0)]).right
    request["include"][1]["position"] = ["beside", 0]
    assert judge(request, [found("cat", 0), found("dog", 32)]).right
    assert not judge(request, [found("cat", 0), found("dog", 0, 32)]).right


def test_boxes_that_nearly_coincide_have_no_relation_and_diagonals_have_two():
    assert relations(found("dog", 0), found("cat", 6)) == set()
    assert relations(found("dog", 0), found("cat", 32)) == {"left of"}
    assert relations(found("dog", 32, 32), found("cat", 0, 0)) == {"right of", "below"}
    # 1.6 is left of an offset of 8: enough here, and officially too little.
    assert relations(found("dog", 0), found("cat", 8)) == {"left of"}
    assert relative_position((0, 0, 32, 32), (8, 0, 40, 32)) == set()


def test_the_true_scene_of_every_request_is_judged_right_and_part_of_it_wrong(world):
    rng = random.Random(0)
    for prompt in geneval_prompts(world, 20, seed=1):
        request = prompt.record()
        scene = scene_of(rng, world, request)
        named = zip(world.nouns(scene), scene.things, strict=True)
        detections = [Detection(n, t.colour, t.x, t.y, t.side, 1.0) for n, t in named]
        assert judge(request, detections).right, request
        assert not judge(request, detections[:-1]).right, request


# Captions


def test_a_caption_reads_back_as_its_scene(world):
    caption = "two blue cars and a dog on a red background"
    assert slots(caption, world.cast) == {
        Slot("entity", "car"),
        Slot("count", "car", "two"),
        Slot("colour", "car", "blue"),
        Slot("entity", "dog"),
        Slot("count", "dog", "one"),
        Slot("backdrop", "", "red"),
    }


def test_a_relation_said_the_other_way_round_is_the_same(world):
    one, other = "a dog left of a cat", "a cat right of a dog"
    assert slots(one, world.cast) == slots(other, world.cast)
    assert Slot("relation", "cat, dog", "right of") in slots(one, world.cast)


def test_every_noun_and_backdrop_of_the_world_reads_back(world):
    for noun in world.cast:
        scene = Scene("white", (Thing(world.cast[noun].key),) * 3)
        assert Slot("entity", noun) in slots(describe(scene, [noun] * 3), world.cast)
        single = Scene("white", scene.things[:1])
        assert slots(describe(single, [noun]), world.cast) >= {
            Slot("entity", noun),
            Slot("count", noun, "one"),
        }
    for backdrop in BACKDROPS:
        scene = Scene(backdrop, (Thing(world.cast["dog"].key),))
        assert Slot("backdrop", "", backdrop) in slots(describe(scene, ["dog"]), world.cast)


def test_words_that_no_scene_has_are_claims_that_fail(world):
    true = slots("a dog in a meadow by day", world.cast)
    said = slots("a purple thing in a meadow by day", world.cast)
    # Said: thing, one, purple and the meadow; true: dog, one and the meadow; both: the meadow.
    assert slot_f1([(said, true)]) == pytest.approx(2 * 1 / (4 + 3))
    assert slot_f1([(true, true)]) == 1.0
    assert slots("", world.cast) == {Slot("backdrop", "", "white")}


# Questions, stories, edits


def test_case_and_a_full_stop_make_no_answer_wrong():
    assert normalise_answer(" Yes. ") == "yes"


def test_a_story_names_one_or_several_of_a_noun(world):
    assert nouns_in("The fox meets two mice, and eats an ice cream.", world.cast) == {
        "fox",
        "mouse",
        "ice cream",
    }
    assert "car" not in nouns_in("a carrot", world.cast)


def test_a_hero_who_turns_into_another_is_that_one_from_then_on(world):
    assert hero_after("The fox turns into an owl.", "fox", world.cast) == "owl"
    assert hero_after("the fox meets an owl.", "fox", world.cast) == "fox"
    assert hero_after("the fox turns into a zebra.", "fox", world.cast) == "fox"


def test_a_panel_shows_the_hero_and_none_whom_nobody_named():
    named = {"fox", "owl"}
    assert shows_cast([found("fox")], "fox", named)
    assert shows_cast([found("fox"), found("owl", 32)], "fox", named)
    assert not shows_cast([found("owl")], "fox", named)
    assert not shows_cast([found("fox"), found("cat", 32)], "fox", named)


def test_what_an_edit_leaves_alone_is_where_the_true_pictures_agree():
    before, after = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    after[1, :, :4] = 1
    mask = unchanged_mask(before, after)
    assert mask is not None and mask[:, 4:].all() and not mask[:, :4].any()
    assert unchanged_mask(before, torch.ones(3, 8, 8)) is None


# Scores


def test_wilsons_interval_is_the_published_one():
    # Newcombe 1998, table I: 81 of 263 without continuity correction.
    interval = wilson(81, 263)
    assert interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_bootstrap_holds_the_mean_and_narrows_with_samples():
    rng = random.Random(1)
    few, many = ([rng.random() for _ in range(n)] for n in (20, 2000))
    for values in (few, many):
        low, high = bootstrap(values, mean)
        assert low < mean(values) < high
    assert bootstrap(few, mean) == bootstrap(few, mean)
    wide, narrow = bootstrap(few, mean), bootstrap(many, mean)
    assert narrow.high - narrow.low < wide.high - wide.low


def test_overall_weighs_parts_alike_whatever_their_size():
    parts = [share("a", [True] * 10, chance=0.2), share("b", [False] * 90, chance=0.4)]
    score = overall(parts)
    assert score.value == 0.5 and score.n == 100
    assert score.chance == pytest.approx(0.3) and score.truth is None
    # All or nothing in both: only one side of each is in doubt.
    assert score.interval.low == pytest.approx((1 - 0.7225 + 0) / -2 + 0.5, abs=1e-4)
    assert score.interval.high == pytest.approx(wilson(0, 90).high / 2 + 0.5, abs=1e-9)


def test_an_average_and_an_f1_are_what_they_are_called():
    assert average("x", [1.0, 2.0, 6.0]).value == 3.0
    assert F1(hits=2, claimed=4, true=2).value == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert F1(0, 0, 0).value == 1.0
