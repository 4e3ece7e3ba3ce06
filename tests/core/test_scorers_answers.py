"""Scorers of answers against what the official programs do, case by case; numbers are by hand."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest

from orthus_core.errors import ArgumentError, DataError
from orthus_core.evaluation import (
    clip_edit,
    fid,
    geneval,
    gqa,
    hps,
    mme,
    mmmu,
    pictures,
    pope,
    vqav2,
)


def test_scorers_need_no_torch():
    names = "pope mme vqav2 gqa mmmu geneval hps intervals fid clip_edit pictures"
    code = f"""
import importlib, sys
for name in {names.split()!r}:
    importlib.import_module("orthus_core.evaluation." + name)
from orthus_core.evaluation.official import catalogue
assert "torch" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_scorers_are_attributes_of_their_package():
    code = """
import sys
import orthus_core.evaluation as evaluation
assert "orthus_core.evaluation.pope" not in sys.modules
assert evaluation.pope.parse("no") == "no"
assert all(getattr(evaluation, name) for name in evaluation.__all__)
assert not hasattr(evaluation, "bleu") and "torch" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


ANNOTATION = {
    "question_id": 1,
    "question_type": "is",
    "answer_type": "yes/no",
    "answers": [{"answer": "yes", "answer_id": number} for number in range(10)],
}
DOG = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # A text where a list belongs would be read letter by letter, and give a number.
        (lambda: pope.score("no", "no"), "answers: a str, and no list"),
        (lambda: pope.score(["no"], "no"), "labels: a str, and no list"),
        (lambda: vqav2.accuracy("yes", "yes"), "answers of annotators: a str, and no list"),
        (lambda: mmmu.open_is_right("a", "cat"), "as parse_open gives them: a str, and no list"),
        (lambda: geneval.judge(DOG, {"dog": [0, 0, 9, 9, 0.9]}), "'dog' that is a single number"),
        (lambda: pope.parse(None), "the answer is no text: None"),
        (lambda: pope.score(["no", None], ["no", "no"]), "answer 2 is no text: None"),
        (lambda: pope.score(["no"], [0]), "label 1 is no text: 0"),
        (lambda: mme.parse(1), "the answer is no text: 1"),
        (lambda: vqav2.normalise(1), "the answer is no text: 1"),
        (lambda: vqav2.accuracy(1, ["1"]), "the prediction is no text: 1"),
        (lambda: vqav2.accuracy("1", [{"text": "1"}]), "answer 1 of the annotators has no answer"),
        (lambda: vqav2.accuracy("1", [1]), "answer 1 of the annotators is a int, and no record"),
        (lambda: vqav2.score({1: "yes"}, [ANNOTATION]), "results: a dict, and no list"),
        (lambda: vqav2.score([{"id": 1}], [ANNOTATION]), "1 of results has no question_id, answer"),
        (lambda: vqav2.score([], {"questions": []}), "file of annotations has no annotations"),
        (lambda: gqa.score([], []), "the file of questions is a list, and no record"),
        (lambda: gqa.score({"1": {}}, {"1": "yes"}), "question 1 has no answer"),
        (lambda: gqa.score({"1": {"answer": "a"}}, ["a"]), "prediction 1 is a str, and no record"),
        (lambda: gqa.score({"1": {"answer": "a"}}, {"1": None}), "of question 1 is no text: None"),
        (lambda: mmmu.parse_choice(None, "AB", ["1", "2"]), "the response is no text: None"),
        (lambda: mmmu.parse_open(3), "the response is no text: 3"),
        (lambda: mmmu.score({}), "rows: a dict, and no list"),
        (lambda: mmmu.score([{"id": "validation_Art_1"}]), "row 1 has no question_type, answer"),
        (lambda: geneval.judge("a dog", {}), "the record of a prompt is a str, and no record"),
        (
            lambda: geneval.judge({"include": [{"class": "dog"}]}, {}),
            "entry 1 of include has no co",
        ),
        (lambda: geneval.judge(DOG, None), "detections: a NoneType, and no list"),
        (lambda: geneval.relative_position([0, 1], [0, 0, 1, 1]), "fewer than four numbers"),
        (lambda: geneval.summary([{"tag": "colors"}]), "row 1 has no correct"),
        (lambda: clip_edit.similarities("a", "b", "c", "d"), "no array of numbers"),
        (lambda: fid.frechet_distance([[1.0], [1.0, 2.0]], [[1.0]]), "no array of numbers"),
        (lambda: pictures.psnr("a", "b", 1), "no array of numbers"),
        (lambda: hps.aggregate([0.2]), "the scores by style is a list, and no record"),
        (lambda: hps.aggregate({"anime": [math.nan]}), "scores that are not finite"),
    ],
)
def test_scorers_say_what_is_wrong_with_what_they_are_given(call, message):
    with pytest.raises(DataError, match=message):
        call()
    with pytest.raises(ArgumentError, match="chunks of 0 pictures"):
        hps.aggregate({"anime": [0.2]}, chunk=0)


def test_scorers_take_arrays_and_iterators():
    answers = np.array(["no", "Yes"])
    assert pope.score(answers, iter(["no", "yes"]))["accuracy"] == 1
    assert vqav2.accuracy("yes", np.array(["yes"] * 10)) == 100
    boxes = np.array([[0, 0, 9, 9, 0.2], [0, 0, 9, 9, 0.9]], dtype=np.float32)
    assert geneval.judge(DOG, {"dog": boxes}).right
    assert not geneval.judge(DOG, {"dog": boxes[:1]}).right
    assert not geneval.judge(DOG, {"dog": np.zeros((0, 5))}).right


# POPE


@pytest.mark.parametrize(
    "answer",
    ["no", "No", "No, there is not.", "There is no dog. Yes", "It is not here", "I,say,no no"],
)
def test_pope_takes_no_for_no(answer):
    assert pope.parse(answer) == "no"


@pytest.mark.parametrize(
    "answer",
    ["NO", "Not", "No!", "no\n", "There isn't", "None", "", "Yes. No.", "nope", "Not,no", "no-one"],
)
def test_pope_takes_everything_else_for_yes(answer):
    assert pope.parse(answer) == "yes"


def test_pope_scores_by_hand():
    # yes yes, yes no, no yes, no no, and an empty answer (yes) to a question labelled no:
    # TP 1, FP 2, FN 1, TN 1; precision 1/3, recall 1/2, F1 2/5.
    found = pope.score(["Yes", "Yes", "No", "no.", ""], ["yes", "no", "yes", "no", "no"])
    assert (found["tp"], found["fp"], found["fn"], found["tn"]) == (1, 2, 1, 1)
    assert found["accuracy"] == 2 / 5 and found["yes_ratio"] == 3 / 5
    assert found["precision"] == 1 / 3 and found["recall"] == 1 / 2
    assert found["f1"] == pytest.approx(0.4)


def test_pope_where_the_official_program_divides_by_zero():
    found = pope.score(["no", "no"], ["yes", "no"])
    assert found["precision"] == found["recall"] == found["f1"] == 0 and found["accuracy"] == 0.5


def test_pope_labels_are_positive_unless_no_and_lmms_needs_the_exact_word():
    assert pope.score(["yes"], ["No"])["tp"] == 1
    answers, labels = ["Yes ", "Yes.", "NO", "No, none"], ["yes", "yes", "no", "no"]
    found = pope.score(answers, labels, "lmms")
    assert (found["tp"], found["tn"], found["accuracy"]) == (1, 1, 0.5)
    assert found["yes_ratio"] == 0.5  # of the labels
    assert pope.score(["yes", "yes"], ["yes", "no"], "lmms")["yes_ratio"] == 0.5


def test_pope_refuses_what_cannot_be_joined():
    with pytest.raises(DataError, match="2 answers for 1 labels"):
        pope.score(["yes", "no"], ["yes"])
    with pytest.raises(ArgumentError, match="no variant 'llama'"):
        pope.score(["yes"], ["yes"], "llama")


# MME


@pytest.mark.parametrize(
    ("answer", "official", "lmms"),
    [
        ("Yes", "yes", "yes"),
        ("no.", "no", "no"),
        ("Yeah", "other", "other"),
        ("y", "other", "yes"),
        ("N.", "other", "no"),
        ("The answer is yes", "other", "other"),
        ("Eyes", "yes", "yes"),
        ("None", "no", "no"),
        ("uno", "no", "no"),
        ("", "other", "other"),
        ("\n\nyes", "other", "yes"),
        ("...yes", "other", "yes"),
        ("yes, no", "yes", "yes"),
        ("no yes", "no", "no"),
    ],
)
def test_mme_reads_four_characters(answer, official, lmms):
    assert mme.parse(answer) == official
    assert mme.parse(answer, "lmms") == lmms


def write_mme(folder, **tasks):
    folder.mkdir(exist_ok=True)
    for name, rows in tasks.items():
        lines = [f"{picture}\tIs it?\t{gold}\t{said}\n" for picture, gold, said in rows]
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


ROWS = [
    ("a.jpg", "Yes", "Yes"),
    ("a.jpg", "No", "no"),
    ("b.jpg", "Yes", "y"),
    ("b.jpg", "No", " No"),
]


def test_mme_scores_by_hand(tmp_path):
    # existence: 3 of 4 questions, 1 of 2 pictures: 75 + 50. count: 2 of 2: 200.
    folder = write_mme(tmp_path, existence=ROWS, count=ROWS[:2], code_reasoning=ROWS[2:])
    found = mme.score(folder)
    assert found["tasks"]["existence"] == {"acc": 0.75, "acc_plus": 0.5, "score": 125, "other": 1}
    assert found["perception"] == 325 and found["cognition"] == 50
    assert "position" in found["missing"]
    # lmms-eval reads "y": everything is right.
    lmms = mme.score(folder, "lmms")
    assert (lmms["perception"], lmms["cognition"]) == (400, 200)


def test_mme_accepts_perception_alone(tmp_path):
    assert mme.score(write_mme(tmp_path, OCR=ROWS))["cognition"] is None


def test_mme_pairs_lines_and_leaves_out_broken_ones(tmp_path):
    folder = write_mme(tmp_path, count=ROWS)
    text = (folder / "count.txt").read_text().splitlines(keepends=True)
    # The second line gets a tab too many: 1 of the first picture's 1 known answers is right, but
    # not both; 3 known answers, 2 right; no picture of 2 has both.
    text[1] = text[1].replace("Is it?", "Is\tit?")
    (folder / "count.txt").write_text("".join(text))
    found = mme.score(folder)["tasks"]["count"]
    assert found["acc"] == 2 / 3 and found["acc_plus"] == 0
    (folder / "count.txt").write_text("".join(text[:3]))
    with pytest.raises(DataError, match="odd number of lines"):
        mme.score(folder)


def test_mme_refuses_other_folders(tmp_path):
    with pytest.raises(DataError, match="no results file of MME"):
        mme.score(tmp_path)
    with pytest.raises(DataError, match="neither Yes nor No"):
        mme.score(write_mme(tmp_path, scene=[("a.jpg", "Maybe", "yes")] * 2))


# VQAv2


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Dog", "dog"),
        ("an apple a day", "apple day"),
        ("Two", "2"),
        ("none", "0"),
        ("ten cats", "10 cats"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("red/blue", "red blue"),  # no space beside it: a space
        ("red / blue", "red blue"),  # a space beside it: nothing
        ("a-b, c-d", "b c d"),  # the comma touches a space, the hyphens do not
        ("1,000-2", "10002"),  # a comma between digits removes all marks
        ("$5", "$5"),
        ("10:30", "10:30"),
        ("50%", "50%"),
        ("3.5", "3.5"),
        ("st. james.", "st james"),
        (".5", ".5"),
        ("no\nway\t", "no way"),
        ("men's", "men's"),
        ("." * 40, "." * 8),  # only the first 32 full stops
    ],
)
def test_vqav2_normalises_as_officially(text, normal):
    assert vqav2.normalise(text) == normal


def test_vqav2_contractions_are_those_of_the_official_table():
    # Without those that cannot match (Id've, I'dve, Im, Ive) or change nothing (let's, she's).
    assert len(vqav2.CONTRACTIONS) == 114
    assert vqav2.CONTRACTIONS["twas"] == "'twas"
    assert vqav2.CONTRACTIONS["ow's'at"] == vqav2.CONTRACTIONS["'ow'sat"] == "'ow's'at"
    assert not {"ill", "well", "shell", "were", "its", "lets", "somebodyd"} & {*vqav2.CONTRACTIONS}
    assert all(
        sorted(key.replace("'", "")) == sorted(right.replace("'", ""))
        for key, right in vqav2.CONTRACTIONS.items()
    )


def test_vqav2_submissions_are_prepared_by_another_processor():
    assert vqav2.submission_answer("Men's, red,blue?") == "men 's redblue"
    assert vqav2.submission_answer("1,000-2") == "1000 2"
    assert vqav2.submission_answer("The Two\n") == "2"


def people(*answers):
    return [{"answer": each, "answer_id": n} for n, each in enumerate(answers, start=1)]


def test_vqav2_agreement_by_hand():
    # Two of ten say cat: leaving one of them out leaves 1/3, else 2/3: (2/3 + 16/3) / 10.
    answers = ["cat"] * 2 + ["dog"] * 8
    assert vqav2.accuracy("cat", answers) == pytest.approx(60)
    assert vqav2.accuracy("dog", people(*answers)) == 100
    # Three of ten: 3 x 2/3 + 7 x 1.
    assert vqav2.accuracy("The cat.", ["cat"] * 3 + ["dog"] * 7) == pytest.approx(90)
    assert vqav2.accuracy("cat", ["cat"] + ["dog"] * 9) == pytest.approx(30)
    assert vqav2.accuracy("bird", answers) == 0


def test_vqav2_normalises_only_where_the_annotators_disagree():
    assert vqav2.accuracy("Yes", ["yes"] * 10) == 0
    assert vqav2.accuracy("Yes", ["yes"] * 9 + ["no"]) == 100
    assert vqav2.accuracy("two", ["two"] * 10) == 100
    assert vqav2.accuracy("Yes", ["yes"] * 10, "submission") == 100
    # EvalAI's processor makes "2" of it, and the annotators' "two" stays.
    assert vqav2.accuracy("two", ["two"] * 10, "submission") == 0
    assert vqav2.accuracy(" yes\n", ["yes "] * 10) == 100  # spaces are stripped everywhere


def test_vqav2_lmms_normalises_both_sides_everywhere_and_reads_commas_its_own_way():
    answers = ["1,,0-2"] * 9 + ["x"]  # officially no comma between two digits
    assert vqav2.accuracy("1 0 2", answers) == 100
    assert vqav2.accuracy("1 0 2", answers, "lmms") == 0
    assert vqav2.accuracy("102", answers, "lmms") == 100
    # Where all agree, too; and 's stays, which only a submission splits off.
    assert vqav2.accuracy("The Two", ["two"] * 10, "lmms") == 100
    assert vqav2.accuracy("men's", ["men's"] * 10, "lmms") == 100
    assert vqav2.accuracy("men's", ["men's"] * 10, "llava") == 0
    assert vqav2.read_answer("Men's, a 1", "lmms") == "men's 1"
    assert vqav2.read_answer("Men's, a 1", "llava") == "men 's 1"


def test_vqav2_accuracy_is_rounded_as_it_is_printed():
    # Three annotators, one says cat: (0 + 1/3 + 1/3) / 3.
    assert vqav2.accuracy("cat", ["cat", "dog", "dog"]) == 22.22
    assert vqav2.agreement("cat", ["cat", "dog", "dog"]) == pytest.approx(2 / 9)


def test_vqav2_annotators_leave_out_all_equal_records():
    same = [{"answer": "yes"}] * 10  # without answer_id, nobody is left
    assert vqav2.accuracy("yes", same) == 0
    records = people("Yes", *["yes"] * 9)
    vqav2.accuracy("yes", records)
    assert records[0]["answer"] == "Yes", "the annotations are not changed"


def vqa_files():
    said = [["yes"] * 10, ["2"] * 3 + ["3"] * 7, ["red"] * 2 + ["blue"] * 8]
    kinds = [("yes/no", "is"), ("number", "how many"), ("other", "what color")]
    annotations = [
        {
            "question_id": n,
            "image_id": 1,
            "answers": people(*answers),
            "answer_type": kind,
            "question_type": question,
        }
        for n, (answers, (kind, question)) in enumerate(zip(said, kinds, strict=True), start=1)
    ]
    questions = [{"question_id": n, "image_id": 1, "question": "?"} for n in (1, 2, 3)]
    return annotations, questions


def test_vqav2_without_annotations_says_so():
    with pytest.raises(DataError, match="no annotations"):
        vqav2.score([], {"annotations": []}, {"questions": []})


def test_vqav2_scores_by_hand_and_refuses_other_sets():
    annotations, questions = vqa_files()
    results = [{"question_id": n, "answer": a} for n, a in ((1, "Yes"), (2, "two"), (3, "red"))]
    # 0 (all ten say yes), 90 and 60.
    found = vqav2.score(results, annotations, {"questions": questions})
    assert found["overall"] == 50.0
    assert found["per_answer_type"] == {"yes/no": 0.0, "number": 90.0, "other": 60.0}
    assert found["per_question_type"]["how many"] == 90.0
    submission = vqav2.score(results, {"annotations": annotations}, questions, "submission")
    assert submission["overall"] == 83.33
    with pytest.raises(DataError, match="not in this set, such as 9"):
        vqav2.score([*results, {"question_id": 9, "answer": ""}], annotations, questions)
    with pytest.raises(DataError, match="1 of 3 questions have no predictions, such as 3"):
        vqav2.score(results[:2], annotations, questions)


# GQA


def gqa_questions():
    def question(answer, structural, semantic, steps=(), balanced=True, group=None, detailed="x"):
        return {
            "question": "What is it ?",
            "imageId": "1",
            "answer": answer,
            "isBalanced": balanced,
            "types": {"structural": structural, "semantic": semantic, "detailed": detailed},
            "semantic": [{"operation": o, "argument": a} for o, a in steps],
            "groups": {"global": group, "local": None},
        }

    select = ("select", "dog (1)")
    return {
        "1": question("yes", "verify", "obj", [select, ("exist", "?")]),
        "2": question("t-shirt", "query", "cat", [select, ("query", "name")], group="clothing"),
        "3": question("left", "choose", "rel", [select, ("relate", "x"), ("query", "hposition")]),
        "4": question("no", "verify", "obj", balanced=False),
        "5": question("red", "query", "attr", group="clothing"),
    }


def test_gqa_scores_by_hand():
    predictions = [
        {"questionId": "1", "prediction": "yes"},
        {"questionId": "2", "prediction": "T-shirt."},
        {"questionId": "3", "prediction": "right"},
        {"questionId": "5", "prediction": "no"},
        {"questionId": "5", "prediction": "red"},  # the last one counts
    ]
    found = gqa.score(gqa_questions(), predictions)
    assert (found["accuracy"], found["binary"], found["open"], found["n"]) == (50, 50, 50, 4)
    assert found["per_structural"] == {"verify": 100, "query": 50, "choose": 0}
    assert found["per_semantic"] == {"obj": 100, "cat": 0, "rel": 0, "attr": 100}
    # exist and "query: name" do not count as steps, "query: hposition" does.
    assert found["per_steps"] == {1: 50, 3: 0, 0: 100} and found["per_words"] == {4: 50}
    # clothing: t-shirt expected once and said never (1), red as expected (0); 2 x 1 / 2 / 100.
    assert found["distribution"] == pytest.approx(0.01)
    assert found["validity"] is None
    assert gqa.score(gqa_questions(), predictions, "llava")["accuracy"] == 75
    choices = {key: {"valid": ["yes", "red"], "plausible": []} for key in "1235"}
    assert gqa.score(gqa_questions(), predictions, choices=choices)["validity"] == 50


def test_gqa_validity_of_common_attributes():
    questions = {"1": {**gqa_questions()["5"], "answer": "color"}}
    questions["1"]["types"] = {"structural": "query", "semantic": "attr", "detailed": "twoCommon"}
    choices = {"1": {"valid": ["red"], "plausible": ["red"]}}
    found = gqa.score(questions, {"1": "color"}, choices=choices)
    assert found["validity"] == found["plausibility"] == 100


@pytest.mark.parametrize(
    ("prediction", "strict", "llava", "lmms"),
    [
        ("t-shirt", True, True, True),
        ("T-shirt.", False, True, True),
        ("tshirt", False, False, True),
        ("t-shirt ", False, False, False),
        ("t-shirt...", False, True, True),
        ("T-Shirt!", False, False, True),
    ],
)
def test_gqa_variants(prediction, strict, llava, lmms):
    verdicts = [gqa.is_right(prediction, "t-shirt", each) for each in ("strict", "llava", "lmms")]
    assert verdicts == [strict, llava, lmms]


def test_gqa_strict_is_the_official_program():
    assert gqa.is_right("dog", "dog", "official") and not gqa.is_right("Dog", "dog", "official")
    assert gqa.score(gqa_questions(), dict.fromkeys("1235", "yes"), "official")["accuracy"] == 25


def test_gqa_ids_are_numbers_or_text_and_questions_may_lack_what_is_not_scored():
    asked = {201: {"answer": "yes", "isBalanced": True}, "202": {"answer": "no"}}
    said = [{"questionId": "201", "prediction": "yes"}, {"questionId": 202, "prediction": "yes"}]
    for predictions in (said, {201: "yes", "202": "yes"}):
        found = gqa.score(asked, predictions)
        assert (found["accuracy"], found["binary"], found["per_words"]) == (50, 50, {})
    choices = {201: {"valid": ["yes"], "plausible": []}, "202": {"valid": [], "plausible": []}}
    assert gqa.score(asked, said, choices=choices)["validity"] == 50


def test_gqa_llava_takes_a_full_stop_from_predictions_alone():
    assert gqa.is_right("dog.", "dog", "llava") and not gqa.is_right("dog.", "dog.", "llava")


def test_gqa_needs_all_balanced_questions():
    with pytest.raises(DataError, match="3 of 4 balanced questions have no prediction"):
        gqa.score(gqa_questions(), {"1": "yes"})


# MMMU

OPTIONS = ["75 volts", "95 volts", "45 volts", "None of the above"]


@pytest.mark.parametrize(
    ("response", "official", "lmms"),
    [
        ("B", "B", "B"),
        ("(B)", "B", "B"),
        ("B.", "B", "B"),  # marks around it are dropped
        ("'C'!", "C", "C"),
        ("'C.'", None, "C"),  # each mark is dropped once, the full stop before the apostrophe
        ("B. ", None, "B"),  # but not behind a space
        ("The answer is B", "B", "B"),
        ("(A) is wrong, it is (C)", "C", "C"),
        ("A or B", "B", "B"),
        ("(D), because A", "D", "D"),
        ("A. 75 volts", None, "A"),
        ("(b)", None, None),
        ("**B**", None, None),
        ("Answer:B", None, "B"),
        ("D. None of the above", None, "D"),
        ("It must be the 45 Volts one", "C", "C"),  # six words: option texts are searched
        ("It is the 45 volts", None, None),  # five are too few
        ("it is 75 volts and surely not 95 volts", "B", "B"),  # the last one
        ("", None, None),
    ],
)
def test_mmmu_letters(response, official, lmms):
    assert mmmu.parse_choice(response, "ABCD", OPTIONS) == official
    assert mmmu.parse_choice(response, "ABCD", dict(zip("ABCD", OPTIONS, strict=True))) == official
    assert mmmu.parse_choice(response, "ABCD", OPTIONS, "lmms") == lmms


def test_mmmu_of_equal_options_the_first_counts():
    response = "I would say that it is red here"
    assert mmmu.parse_choice(response, "ABC", ["blue", "red", "red"]) == "B"


@pytest.mark.parametrize(
    ("response", "parsed"),
    [
        ("5", {5.0}),
        # The phrase itself, and its parts: 1,234 with a comma, 234.567 without.
        ("The answer is 1,234.567.", {1234.57, 1234.0, 234.57}),
        ("x = 3", {3.0}),  # "=" counts in the last line
        ("x = 3\ny", {"x = 3\ny", 3.0}),  # and only there; without key words, all is a phrase
        ("so y = 2.50", {2.5}),  # the shortest tail
        ("Green", {"green"}),
        ("A", {" a", "a "}),
        ("1.2e3", {1200.0, 1.0, 3.0}),  # the pattern of plain numbers finds its ends
        ("It is red\nThe answer is blue", {"red", "blue"}),
        ("It is. Thus Red", {"red"}),  # sentences are not split: capitals are gone by then
        ("the answer is !", {"the answer is !"}),  # a mark alone is no phrase
    ],
)
def test_mmmu_open_readings(response, parsed):
    found = mmmu.parse_open(response)
    assert set(found) == parsed and len(found) == len(parsed)


def test_mmmu_open_answers():
    parsed = mmmu.parse_open
    assert mmmu.open_is_right("24", parsed("The final answer is 24 apples"))
    assert mmmu.open_is_right("1,000.004", parsed("about 1000"))
    assert mmmu.open_is_right(["24/7", "3.429"], parsed("it is 3.43"))
    assert mmmu.open_is_right("red", parsed("a bored cat"))  # contained in a word
    assert not mmmu.open_is_right("a", parsed("cat"))  # a single letter needs a space
    assert mmmu.open_is_right("a", parsed("vitamin a c"))
    assert not mmmu.open_is_right("24", parsed("twenty-four"))
    # A right answer may be a number.
    assert mmmu.open_is_right(24, parsed("24.001")) and mmmu.open_is_right([0.5], [0.5])


def mmmu_row(key, response, answer="A", kind="multiple-choice"):
    choices = {"all_choices": [*"ABCD"], "index2ans": dict(zip("ABCD", OPTIONS, strict=True))}
    about = {"id": key, "question_type": kind, "answer": answer, "response": response}
    return about | (choices if kind == "multiple-choice" else {})


def test_mmmu_scores_by_hand_and_guesses_with_seed_42():
    rows = [
        mmmu_row("validation_Art_Theory_1", "A"),
        mmmu_row("validation_Art_Theory_2", "(b)", answer="B"),
        mmmu_row("validation_Math_1", "it is 12", "12", "open"),
        mmmu_row("validation_Math_2", "**A**", answer="A"),
    ]
    guesses = random.Random(42)  # the official program seeds once, for the whole run
    drawn = [guesses.choice("ABCD") for _ in range(2)]
    assert drawn == ["A", "A"]
    found = mmmu.score(rows)
    # A right; B against the drawn A wrong; 12 right; A against the drawn A right.
    assert found["right"] == [True, False, True, True]
    assert found["overall"] == 0.75 and found["fallbacks"] == 2
    assert found["per_subject"] == {"Art_Theory": 0.5, "Math": 1.0}
    assert found["per_domain"] == {"Art and Design": 0.5, "Science": 1.0}
    wrong = mmmu.score(rows, fallback="wrong")
    assert wrong["right"] == [True, False, True, False] and wrong["fallbacks"] == 2
    given = [{**rows[1], "parsed_pred": "B"}, {**rows[2], "parsed_pred": [12.0, "about"]}]
    for row in given:
        del row["response"]
    # What is parsed already is not parsed again: a list of readings, too.
    assert mmmu.score(given)["right"] == [True, True]
    assert mmmu.score([{**given[1], "answer": "12.0, 'about'"}])["right"] == [False]
    hub = {"id": "validation_Art_1", "question_type": "multiple-choice", "answer": "B"}
    assert mmmu.score([{**hub, "options": "['red', 'a b']", "response": "B"}])["fallbacks"] == 0
    # The official parsed_output.json has the options by letter, and no list of letters.
    parsed = {**hub, "index2ans": {"A": "red", "B": "a b"}, "response": "(B)", "parsed_pred": "B"}
    assert mmmu.score([parsed])["overall"] == 1


def test_mmmu_options_may_be_the_text_of_a_list():
    response = "I would say that it is 45 volts here"
    assert mmmu.parse_choice(response, "ABCD", str(OPTIONS)) == "C"


def test_mmmu_reads_numbers_as_python_does():
    assert mmmu.normalise("1_000") == [1000.0] and mmmu.normalise(" 2.345 ") == [2.35]
    assert math.isinf(mmmu.normalise("Infinity")[0])
