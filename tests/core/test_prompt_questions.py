"""Questions made from a prompt, and how sure a model is of their answers."""

from __future__ import annotations

import math

import pytest
import torch

from orthus_core.data.pictures import BytesPicture
from orthus_core.samplers.answer_scores import answer_probabilities, first_tokens
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.prompt import Branch
from orthus_core.samplers.prompt_questions import MOST_QUESTIONS, PromptQuestion, questions_of
from orthus_core.samplers.seeds import candidate_seeds

YES = ("yes", "no")


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a snowman", {"Is this a snowman?": "yes"}),
        ("A photo of an owl.", {"Is this an owl?": "yes"}),
        (
            "a dog and a cat",
            {"Is there a dog in the picture?": "yes", "Is there a cat in the picture?": "yes"},
        ),
        ("three dogs", {"How many dogs are there?": "three"}),
        ("a blue car", {"Is this a car?": "yes", "What colour is the car?": "blue"}),
        (
            "2 red apples to the right of a dog in a meadow at night",
            {
                "How many apples are there?": "two",
                "What colour are the apples?": "red",
                "Is there a dog in the picture?": "yes",
                "Where are the apples?": "right",
            },
        ),
        (
            "a cat behind some gray rocks on a blue background",
            {
                "Is there a cat in the picture?": "yes",
                "Are there rocks in the picture?": "yes",
                "What colour are the rocks?": "grey",
                "Is the cat behind the rocks?": "yes",
                "What colour is the background?": "blue",
            },
        ),
        ("rain over Paris", {"Does the picture show rain over Paris?": "yes"}),
        (" ", {"Does the picture show ?": "yes"}),
    ],
)
def test_a_prompt_becomes_questions_with_the_answers_of_a_right_picture(prompt, asked):
    found = questions_of(prompt)
    assert {each.text: each.answer for each in found} == asked
    assert all(each.answer in each.choices for each in found)


def test_a_relation_is_of_the_things_on_its_two_sides_alone():
    asked = [each.text for each in questions_of("a dog above in the sky, a cat and an owl")]
    assert not any(text.startswith("Where") for text in asked)


def test_a_long_prompt_is_judged_by_its_first_questions():
    found = questions_of(" and ".join(f"a red thing{number}" for number in range(30)))
    assert len(found) == MOST_QUESTIONS and "thing0" in found[0].text


def test_the_candidates_of_a_seed_begin_with_it_and_a_larger_number_has_those_of_a_smaller():
    assert candidate_seeds(5, 1) == [5]
    # The same command chooses among the same pictures in any version.
    assert candidate_seeds(5, 3) == [5, 3101376431, 111713285]
    assert candidate_seeds(5, 8)[:4] == candidate_seeds(5, 4)
    every = [each for seed in range(100) for each in candidate_seeds(seed, 8)]
    assert len(set(every)) == 800 and all(0 <= each < 2**32 for each in every)


def test_an_answer_is_as_probable_as_its_first_token_among_those_of_all_choices(
    asked_builder, pictures
):
    questions = [
        PromptQuestion("red ?", "fox", ("fox", "snowman", "red")),
        PromptQuestion("a snowman ?", "red", ("red", "fox")),
        PromptQuestion("same ?", "red", ("red", "red")),
    ]
    found = answer_probabilities(asked_builder, pictures, questions)
    assert len(found) == len(pictures) and {len(each) for each in found} == {3}
    backbone, model = Backbone(asked_builder.model), asked_builder.model
    for picture, answers in zip(pictures, found, strict=True):
        assert answers[2] == 0.0  # nothing tells its choices apart
        for question, answer in zip(questions[:2], answers, strict=False):
            context = asked_builder.context(picture, question.text)
            branch = Branch(context.ids, (context.features_MPC,))
            with torch.no_grad():
                logits_V = model.text_logits(backbone.read([branch], len(context.ids))[1])[0]
            chances_V = logits_V.double().softmax(0)
            right, wrong = first_tokens(asked_builder.tokenizer, question)
            a, b = float(chances_V[list(right)].sum()), float(chances_V[list(wrong)].sum())
            assert answer == pytest.approx(math.log(a / (a + b)), abs=1e-4)
    assert found[0][0] != pytest.approx(found[1][0], abs=1e-6)


def test_a_choice_may_begin_with_a_capital_or_a_space_but_not_as_another_does(asked_builder):
    tokenizer = asked_builder.tokenizer
    right, wrong = first_tokens(tokenizer, PromptQuestion("?", "fox", ("fox", "red")))
    for word, ids in (("fox", right), (" fox", right), ("red", wrong), (" Red", wrong)):
        assert tokenizer.encode(word, add_special_tokens=False)[0] in ids | (right ^ wrong)
    assert right and wrong and not right & wrong


@pytest.fixture(scope="module")
def asked_builder(tiny_folder):
    from orthus_core import Orthus

    return Orthus.open(tiny_folder, device="cpu").builder


@pytest.fixture(scope="module")
def pictures() -> list[BytesPicture]:
    import io

    from PIL import Image

    found = []
    for turn in (0, 90):
        file = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").rotate(turn).save(file, "PNG")
        found.append(BytesPicture(file.getvalue()))
    return found
