"""Benchmarks in their official layouts: what is read, what is scored, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orthus_core.errors import ArgumentError, DataError
from orthus_core.evaluation.official.catalogue import TASKS, task_named
from orthus_core.evaluation.official.read_files import missing_pictures
from orthus_core.evaluation.official.score_report import (
    report_files,
    result_table,
    score_predictions,
    table_rows,
)
from orthus_core.evaluation.official.task import ScoringRequest


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def dump(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def scored(name, predictions, data=None, variant="", allow_missing=False):
    task = TASKS[name]
    request = ScoringRequest(predictions, data, variant or next(iter(task.variants)), allow_missing)
    found = score_predictions(task, request)
    table = result_table(task, request, found)
    assert json.loads(report_files(table, found)["result.json"]) == table
    assert [*table_rows(table)]
    for key, (low, high) in table["intervals"].items():
        assert low <= high, key
    return found


# POPE

LABELS = {"random": ["yes", "no"], "popular": ["yes", "no"], "adversarial": ["no", "no"]}


@pytest.fixture
def pope_set(tmp_path: Path) -> tuple[Path, Path]:
    data, answers = tmp_path / "pope", tmp_path / "answers"
    data.mkdir()
    answers.mkdir()
    for split, labels in LABELS.items():
        questions = [
            {"question_id": n, "image": f"{n}.jpg", "text": f"Is there {n}?", "label": label}
            for n, label in enumerate(labels, start=1)
        ]
        lines(data / f"coco_pope_{split}.json", questions)
        said = [{"question": each["text"], "answer": "Yes"} for each in questions]
        lines(answers / f"{split}.jsonl", said)
    return data, answers


def test_pope_by_hand(pope_set):
    data, answers = pope_set
    # "Yes" always: random and popular 1 of 2, F1 2/3; adversarial 0 of 2, F1 0.
    found = scored("pope", answers, data)
    assert found.metrics["accuracy"] == pytest.approx(1 / 3)
    assert found.metrics["f1"] == pytest.approx(4 / 9)
    assert found.per_category["random"]["accuracy"] == 0.5 and found.n == 6
    low, high = found.intervals["accuracy"]
    assert low <= 1 / 3 <= high
    one = scored("pope", answers / "random.jsonl", data / "coco_pope_random.json")
    assert one.metrics["accuracy"] == 0.5 and one.n == 2
    assert found.samples[0] == {
        "id": "random/1",
        "prompt": "Is there 1?",
        "answer": "Yes",
        "parsed": "yes",
        "gold": "yes",
        "right": True,
    }


def test_pope_counts_what_is_empty_and_what_is_missing(pope_set):
    data, answers = pope_set
    said = [{"question_id": 2, "text": ""}]  # LLaVA's form of answers
    lines(answers / "random.jsonl", said)
    with pytest.raises(DataError, match="1 of 2 questions have no prediction, such as 1"):
        scored("pope", answers, data)
    found = scored("pope", answers, data, allow_missing=True)
    assert (found.n_missing, found.n_unparsed) == (1, 1)
    # The empty answer is a "yes"; the missing one is wrong, though an empty one would be right.
    assert found.per_category["random"]["accuracy"] == 0
    lines(answers / "random.jsonl", [{"question_id": 1, "answer": "no"}])
    found = scored("pope", answers, data, allow_missing=True)
    assert found.per_category["random"]["accuracy"] == 0


def test_pope_samples_and_numbers_read_labels_alike(pope_set):
    data, answers = pope_set
    questions = data / "coco_pope_random.json"
    records = [json.loads(line) for line in questions.read_text().splitlines()]
    lines(questions, [{**each, "label": each["label"].capitalize()} for each in records])
    lines(answers / "random.jsonl", [{"question_id": 2, "answer": "no"}])
    found = scored("pope", answers / "random.jsonl", questions, "lmms", allow_missing=True)
    # lmms-eval reads "No" as "no", so question 2 is right, and question 1 has no answer.
    assert found.metrics["accuracy"] == 0.5
    assert [sample["right"] for sample in found.samples] == [False, True]
    lines(answers / "random.jsonl", [{"question_id": 2, "answer": "No, none"}])
    found = scored("pope", answers / "random.jsonl", questions, "lmms", allow_missing=True)
    assert found.metrics["accuracy"] == 0  # lmms-eval reads whole answers
    assert [sample["right"] for sample in found.samples] == [False, False]


def test_pope_refuses_answers_that_do_not_belong(pope_set):
    data, answers = pope_set
    lines(answers / "random.jsonl", [{"answer": "Yes"}])
    with pytest.raises(DataError, match="1 answers for 2 questions"):
        scored("pope", answers, data)
    asked = [f"<image>\nis there  {number}? Answer yes or no." for number in (1, 2)]
    lines(answers / "random.jsonl", [{"question": each, "answer": "Yes"} for each in asked])
    assert scored("pope", answers, data).per_category["random"]["accuracy"] == 0.5
    lines(answers / "random.jsonl", [{"question": "Is it?", "answer": "Yes"}] * 2)
    with pytest.raises(DataError, match="line 1 answers another question"):
        scored("pope", answers, data)
    lines(answers / "random.jsonl", [{"question_id": 1, "answer": "Yes"}] * 2)
    with pytest.raises(DataError, match="1 ids occur more than once, such as 1"):
        scored("pope", answers, data)
    lines(answers / "random.jsonl", [{"question_id": n, "answer": "Yes"} for n in (1, 7)])
    with pytest.raises(DataError, match="not in this set, such as 7"):
        scored("pope", answers, data)
    lines(answers / "random.jsonl", [{"said": "Yes"}] * 2)
    with pytest.raises(DataError, match="record 1 has no text 'answer' or 'text'") as refused:
        scored("pope", answers, data)
    assert refused.value.hint == (
        "give each record 'answer' or 'text' as text; the keys of this one are 'said'"
    )
    (answers / "random.jsonl").unlink()
    with pytest.raises(DataError, match="no answers for random"):
        scored("pope", answers, data)
    with pytest.raises(DataError, match="one answers file for 3 splits"):
        scored("pope", answers / "popular.jsonl", data)
    (answers / "random.jsonl").write_text('{"answer": "Yes"}\nYes\n')
    with pytest.raises(DataError, match="line 2 is no JSON"):
        scored("pope", answers, data)


def test_pope_takes_one_file_of_each_split_and_says_where_there_are_two(pope_set):
    data, answers = pope_set
    found = scored("pope", answers, data).metrics
    backup = answers / "random.jsonl.bak"
    backup.write_bytes(b"something else")
    assert scored("pope", answers, data).metrics == found
    for folder, name, other in (
        (answers, "random.jsonl", "random_old.jsonl"),
        (data, "coco_pope_random.json", "coco_pope_random_old.json"),
    ):
        (folder / other).write_bytes((folder / name).read_bytes())
        with pytest.raises(DataError, match=f"2 files could be meant for random: .*{other}"):
            scored("pope", answers, data)
        (folder / other).unlink()


def test_pope_items_and_missing_pictures(pope_set):
    data, _ = pope_set
    (data / "val2014").mkdir()
    (data / "val2014" / "1.jpg").write_bytes(b"")
    items = TASKS["pope"].items
    assert items is not None
    asked = items(data, "official")
    assert len(asked) == 6 and asked[0].gold == "yes" and asked[0].part == "random"
    assert asked[0].prompt == "Is there 1?\nAnswer the question using a single word or phrase."
    assert missing_pictures(asked) == [data / "val2014" / "2.jpg"]


# MME


@pytest.fixture
def mme_set(tmp_path: Path) -> tuple[Path, Path]:
    data, results = tmp_path / "mme", tmp_path / "results"
    (data / "count").mkdir(parents=True)
    results.mkdir()
    rows = []
    for name in ("a", "b"):
        questions = [f"Is it {name}? Please answer yes or no.\t{gold}" for gold in ("Yes", "No")]
        (data / "count" / f"{name}.txt").write_text("\n".join(questions))
        (data / "count" / f"{name}.jpg").write_bytes(b"")
        rows += [f"{name}.jpg\t{question}\tYes" for question in questions]
    (results / "count.txt").write_text("\n".join(rows) + "\n")
    return data, results


def test_mme_by_hand(mme_set):
    data, results = mme_set
    found = scored("mme", results, data)  # always "Yes": 50 + 0
    assert found.metrics == {"perception": 50, "cognition": None}
    assert found.intervals["perception"] == (50, 50)
    assert (found.n, found.n_missing, found.n_unparsed) == (4, 0, 0)
    assert "sums are of the others" in found.notes[0]
    assert scored("mme", results).metrics["perception"] == 50
    # lmms-eval takes "y": the numbers and the samples say so alike.
    text = (results / "count.txt").read_text()
    (results / "count.txt").write_text(text.replace("\tYes\n", "\ty\n"))
    for variant, each in (("official", [False] * 4), ("lmms", [True, False] * 2)):
        assert [row["right"] for row in scored("mme", results, data, variant).samples] == each


def test_mme_pictures_without_results_are_wrong_if_allowed(mme_set):
    data, results = mme_set
    text = (results / "count.txt").read_text().splitlines(keepends=True)
    text[1] = text[1].replace("\tYes\n", "\tNo\n")
    (results / "count.txt").write_text("".join(text[:2]))
    with pytest.raises(DataError, match="1 of 2 questions have no prediction, such as count/b"):
        scored("mme", results, data)
    # 2 of 4 answers and 1 of 2 pictures.
    found = scored("mme", results, data, allow_missing=True)
    assert found.metrics["perception"] == 100
    assert (found.n, found.n_missing, found.n_unparsed) == (4, 2, 0)
    assert scored("mme", results).metrics["perception"] == 200
    (results / "count.txt").write_text("".join(text[:2]).replace("a.jpg", "z.jpg"))
    with pytest.raises(DataError, match="not in this set, such as count/z"):
        scored("mme", results, data)


def test_mme_counts_the_answers_of_each_picture(mme_set):
    data, results = mme_set
    text = (results / "count.txt").read_text().splitlines(keepends=True)
    halves = "".join(text[::2])  # the question of each picture that "Yes" is right for
    (results / "count.txt").write_text(halves)
    with pytest.raises(DataError, match="2 pictures have not as many answers as questions, such"):
        scored("mme", results, data)
    for content, message in (
        (halves + halves, "2 ids occur more than once, such as count/a"),
        ("".join(text) + text[0].replace("Is it a?", "Is it?"), "such as count/a: 3 of 2"),
    ):
        (results / "count.txt").write_text(content)
        for allowed in (False, True):
            with pytest.raises(DataError, match=message):
                scored("mme", results, data, allow_missing=allowed)
    # Where it is allowed, the other one is wrong: half of the answers, and no whole picture.
    for few, lacking in ((halves, 2), ("".join(text[1:]), 1), ("".join(text[:1] + text[2:]), 1)):
        (results / "count.txt").write_text(few)
        found = scored("mme", results, data, allow_missing=True)
        assert found.metrics["perception"] == 50 - 25 * (text[0] not in few)
        assert (found.n, found.n_missing, found.n_unparsed) == (4, lacking, 0)
    # A line without four columns is left out, as officially.
    (results / "count.txt").write_text("".join(text[:3]) + "b.jpg\tYes\n")
    assert scored("mme", results, data).notes[1].startswith("1 lines have not four columns")


def test_mme_items(mme_set):
    items = TASKS["mme"].items
    assert items is not None
    asked = items(mme_set[0], "official")
    assert [each.gold for each in asked] == ["Yes", "No"] * 2
    assert asked[0].prompt.startswith("Is it a?\nAnswer") and missing_pictures(asked) == []


# VQAv2


@pytest.fixture
def vqa_set(tmp_path: Path) -> tuple[Path, Path]:
    def people(*answers):
        return [{"answer": each, "answer_id": n} for n, each in enumerate(answers)]

    data = tmp_path / "vqa"
    about = {"image_id": 7, "question_type": "is"}
    annotations = [
        {**about, "question_id": 1, "answer_type": "yes/no", "answers": people(*["yes"] * 10)},
        {
            **about,
            "question_id": 2,
            "answer_type": "other",
            "answers": people(*["red"] * 3, *["blue"] * 7),
        },
    ]
    questions = [{"question_id": n, "image_id": 7, "question": "What?"} for n in (1, 2)]
    dump(data / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    dump(data / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    said = [{"question_id": 1, "answer": "Yes"}, {"question_id": 2, "answer": "Red."}]
    return data, dump(tmp_path / "results.json", said)


def test_vqav2_by_hand(vqa_set):
    data, results = vqa_set
    # "Yes" is normalised before: 100; red: (3 x 2/3 + 7) / 10 = 90.
    found = scored("vqav2", results, data)
    assert found.metrics == {"overall": 95.0}
    assert found.per_category["answer_type"] == {"yes/no": 100.0, "other": 90.0}
    assert found.per_category["question_type"] == {"is": 95.0}
    assert json.loads(found.extra_files["evalai_submission.json"])[1]["answer"] == "red"
    assert scored("vqav2", results, data, "official").metrics == {"overall": 45.0}
    items = TASKS["vqav2"].items
    assert items is not None
    asked = items(data, "submission")
    assert asked[0].picture == data / "val2014" / "COCO_val2014_000000000007.jpg"
    assert len(asked[0].gold) == 10


def test_vqav2_refuses_and_counts(vqa_set):
    data, results = vqa_set
    dump(results, [{"question_id": 2, "answer": ""}])
    with pytest.raises(DataError, match="1 of 2 questions have no prediction"):
        scored("vqav2", results, data)
    found = scored("vqav2", results, data, allow_missing=True)
    assert (found.metrics["overall"], found.n_missing, found.n_unparsed) == (0, 1, 1)
    dump(results, [{"question_id": 1, "answer": "a"}] * 2)
    with pytest.raises(DataError, match="more than once"):
        scored("vqav2", results, data)
    dump(results, [{"question_id": 9, "answer": "a"}])
    with pytest.raises(DataError, match="another set"):
        scored("vqav2", results, data)
    dump(results, {"1": "yes"})
    with pytest.raises(DataError, match="JSON of another layout"):
        scored("vqav2", results, data)
    with pytest.raises(DataError, match="needs its annotations"):
        scored("vqav2", results)
    with pytest.raises(DataError, match=r"there is no \*annotations.json"):
        scored("vqav2", results, results.parent)
    dump(data / "v2_mscoco_val2014_annotations.json", {"annotations": [1]})
    with pytest.raises(DataError, match="record 1 of annotations has no question_id"):
        scored("vqav2", results, data)


# GQA


def test_gqa_by_hand_and_its_refusals(tmp_path):
    def question(answer, structural):
        types = {"structural": structural, "semantic": "obj", "detailed": ""}
        about = {"question": "Is it?", "imageId": "5", "isBalanced": True, "types": types}
        return {**about, "answer": answer}

    questions = {"1": question("yes", "verify"), "2": question("red", "query")}
    dump(tmp_path / "testdev_balanced_questions.json", questions)
    said = [{"questionId": "1", "prediction": "Yes."}, {"questionId": "2", "prediction": ""}]
    path = dump(tmp_path / "said.json", said)
    found = scored("gqa", path, tmp_path)
    assert (found.metrics["accuracy"], found.metrics["open"], found.n_unparsed) == (50, 0, 1)
    assert found.intervals["binary"].high == 100
    strict = scored("gqa", path, tmp_path, "strict")
    assert strict.metrics["accuracy"] == 0
    assert [each.samples[0]["parsed"] for each in (found, strict)] == ["yes", "Yes."]
    dump(path, said[:1])
    with pytest.raises(DataError, match="1 of 2 questions have no prediction"):
        scored("gqa", path, tmp_path)
    assert scored("gqa", path, tmp_path, allow_missing=True).n_missing == 1
    dump(path, [*said, said[0]])
    with pytest.raises(DataError, match="more than once"):
        scored("gqa", path, tmp_path)
    dump(path, [{"questionId": "x", "prediction": ""}])
    with pytest.raises(DataError, match="another set"):
        scored("gqa", path, tmp_path)
    dump(path, [*said, 1])
    with pytest.raises(DataError, match="record 3 is no object"):
        scored("gqa", path, tmp_path)
    dump(tmp_path / "testdev_balanced_questions.json", {"1": {"question": "?"}})
    with pytest.raises(DataError, match="question 1 has no answer, imageId"):
        scored("gqa", path, tmp_path)
    dump(tmp_path / "testdev_balanced_questions.json", {"1": 1})
    with pytest.raises(DataError, match="question 1 has no question"):
        scored("gqa", path, tmp_path)


def test_gqa_leaves_out_answers_to_questions_that_are_not_balanced(tmp_path):
    about = {"question": "Is it?", "answer": "yes", "imageId": "5", "types": {}}
    questions = {"1": {**about, "isBalanced": True}, "2": {**about, "isBalanced": False}}
    dump(tmp_path / "testdev_all_questions.json", questions)
    said = [{"questionId": key, "prediction": "yes"} for key in "12"]
    found = scored("gqa", dump(tmp_path / "said.json", said), tmp_path)
    assert (found.n, found.metrics["accuracy"]) == (1, 100)


# MMMU


def mmmu_row(number, response, answer="B"):
    return {
        "id": f"validation_Art_{number}",
        "question_type": "multiple-choice",
        "answer": answer,
        "all_choices": ["A", "B"],
        "index2ans": {"A": "red", "B": "blue"},
        "response": response,
    }


def test_mmmu_folder_of_subjects(tmp_path):
    rows = [mmmu_row(1, "B"), mmmu_row(2, "(b)", "A")]
    dump(tmp_path / "out" / "Art" / "output.json", rows)
    found = scored("mmmu", tmp_path / "out")
    # Seed 42 draws A of two letters: right by luck.
    assert found.metrics == {"overall": 1.0, "overall_without_guesses": 0.5, "fallbacks": 1}
    assert found.n_unparsed == 1 and "guessed" in found.notes[0]
    assert found.per_category["per_domain"] == {"Art and Design": 1.0}
    dump(tmp_path / "out" / "Art" / "output.json", [*rows, rows[0]])
    with pytest.raises(DataError, match="more than once"):
        scored("mmmu", tmp_path / "out")
    dump(tmp_path / "out" / "Art" / "output.json", [{"id": "validation_Art_1"}])
    with pytest.raises(DataError, match="has no question_type, answer, response"):
        scored("mmmu", tmp_path / "out")
    dump(tmp_path / "out" / "Art" / "output.json", [mmmu_row(1, 1)])
    with pytest.raises(DataError, match="in record 1, response is of another kind"):
        scored("mmmu", tmp_path / "out")


def test_mmmu_one_file_beside_the_official_answers(tmp_path):
    truth = {
        "validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "B"},
        "validation_Math_2": {"question_type": "short-answer", "ground_truth": ["12", "twelve"]},
        "validation_Math_3": {"question_type": "multiple-choice", "ground_truth": "A"},
    }
    data = dump(tmp_path / "answer_dict_val.json", truth)
    said = {"validation_Art_1": "B", "validation_Math_2": "it is 12"}
    path = dump(tmp_path / "said.json", said)
    with pytest.raises(DataError, match="1 of 3 questions have no prediction"):
        scored("mmmu", path, data)
    found = scored("mmmu", path, data, allow_missing=True)
    assert found.metrics["overall"] == pytest.approx(2 / 3) and found.n_missing == 1
    # Letters are compared as they are: "(A)" is none.
    dump(path, {**said, "validation_Math_3": "(A)"})
    found = scored("mmmu", path, data)
    assert found.metrics["overall"] == pytest.approx(2 / 3) and found.n_unparsed == 1
    with pytest.raises(DataError, match="no right answers"):
        scored("mmmu", path)
    dump(path, {**said, "validation_Math_9": "A"})
    with pytest.raises(DataError, match="another set"):
        scored("mmmu", path, data)


def test_mmmu_items_from_the_hubs_tables(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {
        "id": ["validation_Art_1", "validation_Art_2"],
        "question": ["Which <image 1>?", "How many?"],
        "options": ["['<image 2>', 'it\\'s blue']", "[]"],
        "answer": ["B", "['24/7', '3.4']"],
        "question_type": ["multiple-choice", "open"],
    }
    (tmp_path / "Art").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "Art" / "validation-00000-of-00001.parquet")
    items = TASKS["mmmu"].items
    assert items is not None
    first, second = items(tmp_path, "official")
    assert first.prompt == (
        "Which <image 1>?\n\n(A) <image 2>\n(B) it's blue\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert second.gold == ["24/7", "3.4"] and second.part == "Art"


# GenEval

SINGLE = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
RED = {
    "tag": "colors",
    "include": [{"class": "dog", "count": 1, "color": "red"}],
    "prompt": "a red dog",
}


def test_geneval_by_hand(tmp_path):
    data = lines(tmp_path / "evaluation_metadata.jsonl", [SINGLE, RED])
    box = [0, 0, 9, 9]
    drawn = [
        {"filename": "out/00000/samples/0000.png", "detections": {"dog": [[*box, 0.9]]}},
        {"filename": "out/00000/samples/0001.png", "detections": {"dog": [[*box, 0.2]]}},
        {
            "filename": "out/00001/samples/0000.png",
            "detections": [{"class": "dog", "box": box, "score": 0.9, "color": "red"}],
        },
    ]
    path = lines(tmp_path / "detections.jsonl", drawn)
    found = scored("geneval", path, tmp_path)
    # single_object 1 of 2, colors 1 of 1.
    assert found.metrics == {"overall": 0.75, "per_image": pytest.approx(2 / 3), "per_prompt": 1.0}
    assert found.per_category == {"single_object": 0.5, "colors": 1.0}
    assert found.samples[1]["why"] == ["expected dog>=1, found 0"]
    lines(path, drawn[:2])
    with pytest.raises(DataError, match="1 of 2 prompts have no picture, such as 'a red dog'"):
        scored("geneval", path, data)
    assert scored("geneval", path, data, allow_missing=True).metrics["overall"] == 0.25
    lines(path, [drawn[0], drawn[0]])
    with pytest.raises(DataError, match="more than once"):
        scored("geneval", path, data)
    lines(path, [{**drawn[0], "filename": "out/00009/samples/0000.png"}])
    with pytest.raises(DataError, match="prompt of .* is not known"):
        scored("geneval", path, data)
    lines(path, [{**drawn[0], "metadata": {**SINGLE, "prompt": "a cat"}}])
    with pytest.raises(DataError, match="'a cat' is not in this set"):
        scored("geneval", path, data)


def test_geneval_reads_the_official_results(tmp_path):
    details = json.dumps({"dog": [[0, 0, 9, 9, 0.9]]})
    rows = [
        {"filename": "0.png", "metadata": json.dumps(SINGLE), "details": details, "correct": False},
        {"filename": "1.png", "metadata": json.dumps(RED), "details": details, "correct": False},
    ]
    found = scored("geneval", lines(tmp_path / "results.jsonl", rows))
    # The official summary counts the file's verdicts, whatever its boxes say.
    assert found.per_category == {"single_object": 0.0, "colors": 0.0}
    assert found.notes == [
        "2 verdicts are those of the file, as in the official summary",
        "1 of them are not what the rule says of the file's boxes",
    ]
    found = scored("geneval", lines(tmp_path / "results.jsonl", [{**rows[0], "correct": True}]))
    assert found.per_category == {"single_object": 1.0} and len(found.notes) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detections": "{"}, "out/00000/0.png is no JSON"),
        ({"detections": 5}, "detections of out/00000/0.png are of another layout"),
        ({"detections": [5]}, "detections of out/00000/0.png are of another layout"),
        ({"detections": {"dog": [[0, 0]]}}, "a detection of 'dog' without a box"),
        ({"metadata": "{"}, "the prompt is no JSON"),
        ({"metadata": {**SINGLE, "tag": None}}, "record of the prompt of out/00000/0.png is of"),
        ({"metadata": {**SINGLE, "include": [{"class": "dog"}]}}, "record of the prompt of"),
        (
            {"metadata": {**SINGLE, "include": [{"class": "dog", "count": 1, "position": 5}]}},
            "record of the prompt of",
        ),
    ],
)
def test_geneval_says_which_line_is_of_another_layout(tmp_path, change, message):
    line = {"filename": "out/00000/0.png", "metadata": SINGLE, "detections": {}}
    with pytest.raises(DataError, match=message):
        scored("geneval", lines(tmp_path / "detections.jsonl", [{**line, **change}]))


# All


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": None}, "record 1 of annotations is of another layout"),
        ({"answers": ["red"] * 10}, "record 1 of annotations is of another layout"),
        ({"answers": [{"answer": 1}]}, "record 1 of annotations is of another layout"),
        ({"answer_type": []}, "record 1 of annotations is of another layout"),
        ({"question_id": [1]}, r"the id of record 1 is \[1\]"),
    ],
)
def test_vqav2_says_which_annotation_is_of_another_layout(vqa_set, change, message):
    data, results = vqa_set
    place = data / "v2_mscoco_val2014_annotations.json"
    first, second = json.loads(place.read_text())["annotations"]
    dump(place, {"annotations": [{**first, **change}, second]})
    with pytest.raises(DataError, match=message):
        scored("vqav2", results, data)


def test_vqav2_ids_may_be_text_and_have_to_be_there(vqa_set):
    data, results = vqa_set
    said = json.loads(results.read_text())
    found = scored("vqav2", results, data)
    dump(results, [{**each, "question_id": str(each["question_id"])} for each in said])
    again = scored("vqav2", results, data)
    assert again.samples == found.samples and again.extra_files == found.extra_files
    dump(results, [{"answer": "red"}])
    with pytest.raises(DataError, match="the id of record 1 is missing"):
        scored("vqav2", results, data)


def test_vqav2_ids_may_be_text_in_some_files(vqa_set):
    data, results = vqa_set
    before = scored("vqav2", results, data)
    place = data / "v2_mscoco_val2014_annotations.json"
    annotations = json.loads(place.read_text())["annotations"]
    for each in annotations:
        each["question_id"] = str(each["question_id"])
    dump(place, {"annotations": annotations})
    assert scored("vqav2", results, data).metrics == before.metrics
    questions = data / "v2_OpenEnded_mscoco_val2014_questions.json"
    asked = json.loads(questions.read_text())["questions"]
    dump(questions, {"questions": [{**each, "image_id": "7"} for each in asked]})
    items = TASKS["vqav2"].items
    assert items is not None
    found = items(data, "official")
    assert [each.picture.name for each in found] == ["COCO_val2014_000000000007.jpg"] * 2
    assert [len(each.gold) for each in found] == [10, 10]
    dump(questions, {"questions": [{**each, "image_id": "seven"} for each in asked]})
    with pytest.raises(DataError, match="record 1 of questions is of another layout"):
        items(data, "official")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 1}, "in record 1, id is of another kind"),
        ({"answer": 5}, "in record 1, answer is of another kind"),
        ({"all_choices": []}, "in record 1, all_choices is of another kind"),
        ({"index2ans": ["x"]}, "in record 1, index2ans is of another kind"),
        (None, "results without answers"),
    ],
)
def test_mmmu_says_which_record_is_of_another_layout(tmp_path, change, message):
    rows = [] if change is None else [{**mmmu_row(1, "B"), **change}]
    dump(tmp_path / "Art" / "output.json", rows)
    with pytest.raises(DataError, match=message):
        scored("mmmu", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00", r"archive \(gzip\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"", "a file without records"),
        (b'{"answer": "caf\xe9"}', "not UTF-8 text, from byte 15"),
        (b"[" * 100_000, "no JSON"),
        (b'{"answer": null}\n', "record 1 has no text 'answer'"),
    ],
)
def test_files_of_something_else_say_what_they_are(pope_set, content, message):
    data, answers = pope_set
    (answers / "random.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        scored("pope", answers, data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_and_ends_of_lines_of_windows_change_nothing(pope_set, encoding):
    data, answers = pope_set
    before = scored("pope", answers, data)
    for path in [*answers.iterdir(), *data.glob("*.json")]:
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    after = scored("pope", answers, data)
    assert (after.metrics, after.samples) == (before.metrics, before.samples)


def test_benchmarks_say_what_they_need():
    assert list(TASKS)[:6] == ["pope", "mme", "vqav2", "gqa", "mmmu", "geneval"]
    with pytest.raises(ArgumentError, match="no benchmark 'vqa2', did you mean 'vqav2'"):
        task_named("vqa2")
    request = ScoringRequest(Path("x"), None, "official")
    gone = request._replace(predictions=Path(__file__), data=Path("gone"))
    for name in ("pope", "mme", "vqav2", "gqa", "mmmu", "geneval"):
        task, variant = TASKS[name], next(iter(TASKS[name].variants))
        for wrong, where in ((request, "x"), (gone, "gone")):
            with pytest.raises(DataError, match="no such file or folder") as refused:
                score_predictions(task, wrong._replace(variant=variant))
            expected = task.files[0] if wrong is gone else task.predictions
            assert refused.value.where == where and expected in str(refused.value.hint)
    with pytest.raises(ArgumentError, match="fid cannot be scored from files"):
        score_predictions(TASKS["fid"], request)
    with pytest.raises(ArgumentError, match="no variant 'llama'"):
        score_predictions(TASKS["pope"], request._replace(variant="llama"))


def test_the_hash_of_the_data_is_that_of_its_content(vqa_set, tmp_path):
    data, results = vqa_set
    task = TASKS["vqav2"]
    request = ScoringRequest(results, data, "submission")

    def hashes():
        table = result_table(task, request, score_predictions(task, request))
        return table["data_hash"], table["predictions_hash"]

    before = hashes()
    assert hashes() == before and len(before[0]) == 64
    text = results.read_text()
    results.write_text(text.replace("Red.", "blue"))
    after = hashes()
    assert after[0] == before[0] and after[1] != before[1]
