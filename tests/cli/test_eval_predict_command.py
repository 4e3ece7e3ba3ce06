"""eval predict and eval pope: a toy model's answers to tiny sets in the official layouts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orthus_cli import asked_benchmarks
from orthus_cli.drawing import open_model
from orthus_core.api.asked_models import AnsweringModel, DrawingModel
from orthus_core.evaluation.official import prediction
from orthus_core.evaluation.official.catalogue import TASKS
from orthus_core.evaluation.official.hub_tables import TablePicture
from orthus_core.evaluation.official.questions_asked import asks_of
from orthus_core.evaluation.official.read_files import data_hash
from orthus_core.train import distributed

OPEN: dict[str, Any] = {}
FEW = ("--max-new-tokens", 3)


def picture(path: Path | None, shade: int) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").rotate(shade).save(file, "PNG")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    return file.getvalue()


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def pope_set(data: Path) -> None:
    data.mkdir()
    for split in ("random", "popular", "adversarial"):
        lines = [
            # The first question is asked in each split, of the same picture.
            {"question_id": 1, "image": "a.jpg", "text": "Is there a fox?", "label": "yes"},
            {"question_id": 2, "image": "b.jpg", "text": f"Is there a {split}?", "label": "no"},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (data / f"coco_pope_{split}.json").write_text(text)
    for shade, name in enumerate("ab"):
        picture(data / "val2014" / f"{name}.jpg", 90 * shade)


def mme_set(data: Path) -> None:
    for shade, name in enumerate(("x", "y")):
        picture(data / "count" / f"{name}.jpg", 60 * shade)
        asked = [
            f"Is it {n}? Please answer yes or no.\t{gold}" for n, gold in ((1, "Yes"), (2, "No"))
        ]
        (data / "count" / f"{name}.txt").write_text("\n".join(asked))


def vqav2_set(data: Path) -> None:
    people = [{"answer": "red", "answer_id": n} for n in range(10)]
    about = {"question_type": "what", "answer_type": "other", "answers": people}
    ids = [(30, 3), (10, 1), (31, 3)]
    questions = [{"question_id": q, "image_id": i, "question": f"What {q}?"} for q, i in ids]
    annotations = [{"question_id": q, "image_id": i, **about} for q, i in ids]
    dump(data / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    dump(data / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    for image in (1, 3):
        picture(data / "val2014" / f"COCO_val2014_{image:012d}.jpg", 20 * image)


def gqa_set(data: Path) -> None:
    types = {"structural": "query", "semantic": "obj", "detailed": ""}
    about = {"isBalanced": True, "types": types, "answer": "red"}
    questions = {
        key: {"question": f"What is {key}?", "imageId": image, **about}
        for key, image in (("7", "n1"), ("8", "n2"), ("9", "n1"))
    }
    questions["5"] = {**questions["7"], "isBalanced": False}
    dump(data / "testdev_balanced_questions.json", questions)
    for shade, image in enumerate(("n1", "n2")):
        picture(data / "images" / f"{image}.jpg", 70 * shade)


def mmmu_set(data: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    questions = ["Which <image 1>?", "One of <image 1> and <image 2>?", "<image 1> " + "two " * 60]
    rows = {
        "id": [f"validation_Art_{n}" for n in (1, 2, 3)],
        "question": [*questions[:2], questions[2] + "<image 2>"],
        "options": ["['red', 'blue']", "['a', 'b', 'c']", "[]"],
        "answer": ["B", "A", "fox"],
        "question_type": ["multiple-choice", "multiple-choice", "open"],
        "image_1": [{"bytes": picture(None, n), "path": None} for n in (10, 20, 30)],
        "image_2": [None, *({"bytes": picture(None, n), "path": None} for n in (90, 120))],
    }
    (data / "Art").mkdir(parents=True)
    pq.write_table(pa.table(rows), data / "Art" / "validation-00000-of-00001.parquet")


def geneval_set(data: Path) -> None:
    data.mkdir()
    one = {"tag": "single_object", "include": [{"class": "fox", "count": 1}]}
    lines = [{**one, "prompt": "a red fox"}, {**one, "prompt": "a snowman"}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (data / "evaluation_metadata.jsonl").write_text(text)


SETS: dict[str, Callable[[Path], None]] = {
    "pope": pope_set,
    "mme": mme_set,
    "vqav2": vqav2_set,
    "gqa": gqa_set,
    "mmmu": mmmu_set,
    "geneval": geneval_set,
}


def table(path: Path, rows: list[dict[str, Any]], size: int | None = None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=size)


def held(path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes(), "path": path.name}


def pope_tables(data: Path, out: Path) -> None:
    rows = [
        {
            "question_id": str(line["question_id"]),
            "question": line["text"],
            "answer": line["label"],
            "image_source": line["image"][:-4],
            "image": held(data / "val2014" / line["image"]),
            "category": split,
        }
        for split in ("adversarial", "popular", "random")
        for line in map(json.loads, (data / f"coco_pope_{split}.json").read_text().splitlines())
    ]
    table(out / "data" / "test-00000-of-00001.parquet", rows, size=4)


def mme_tables(data: Path, out: Path) -> None:
    rows = []
    for number in (0, 1):  # the questions of a picture do not follow each other
        for path in sorted((data / "count").glob("*.txt")):
            question, gold = path.read_text().splitlines()[number].split("\t")
            about = {"question": question, "answer": gold, "category": "count"}
            picture = held(path.with_suffix(".jpg"))
            rows.append({"question_id": f"count/{path.stem}.jpg", "image": picture, **about})
    table(out / "data" / "test-00000-of-00002.parquet", rows[:3])
    table(out / "data" / "test-00001-of-00002.parquet", rows[3:])


def vqav2_tables(data: Path, out: Path) -> None:
    (questions,) = data.glob("*uestions.json")
    (annotations,) = data.glob("*annotations.json")
    answers = json.loads(annotations.read_text())["annotations"]
    rows = [
        {
            **gold,
            **question,
            "image": held(data / "val2014" / f"COCO_val2014_{question['image_id']:012d}.jpg"),
        }
        for question, gold in zip(
            json.loads(questions.read_text())["questions"], answers, strict=True
        )
    ]
    table(out / "data" / "validation-00000-of-00001.parquet", rows)


def gqa_tables(data: Path, out: Path) -> None:
    questions = json.loads((data / "testdev_balanced_questions.json").read_text())
    rows = [{"id": key, **each} for key, each in questions.items()]
    table(out / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", rows)
    pictures = [{"id": name, "image": held(data / f"images/{name}.jpg")} for name in ("n2", "n1")]
    table(out / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", pictures)


@pytest.mark.parametrize("task", ["pope", "mme", "vqav2", "gqa"])
def test_the_hubs_tables_are_the_official_set(orthus, model, tmp_path, task):
    pytest.importorskip("pyarrow")
    data, hub = tmp_path / "data", tmp_path / "hub"
    SETS[task](data)
    {"pope": pope_tables, "mme": mme_tables, "vqav2": vqav2_tables, "gqa": gqa_tables}[task](
        data, hub
    )
    items = TASKS[task].items
    assert items is not None
    ours, theirs = items(hub, "official"), items(data, "official")
    assert len(asks_of(ours).asks) == len(asks_of(theirs).asks)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.key, one.prompt, one.gold, one.part) == other[:2] + other[3:5]
        assert isinstance(one.picture, TablePicture) and isinstance(other.picture, Path)
        assert one.picture.content == other.picture.read_bytes()
    # What was said of one layout is said of the other, and scored by either.
    assert orthus(*words_of(task, data, tmp_path / "a", model)).exit_code == 0
    done = orthus(*words_of(task, hub, tmp_path / "b", model))
    assert done.exit_code == 0, done.stderr
    scores = ["eval", "score", task, "--format", "json", "--predictions"]
    by_files, by_tables = (
        json.loads(orthus(*scores, tmp_path / "a", "--data", each).stdout) for each in (data, hub)
    )
    assert by_files["metrics"] == by_tables["metrics"] and by_tables["n"] == len(theirs)
    own = json.loads(orthus(*scores, tmp_path / "b", "--data", data).stdout)
    assert own["metrics"] == by_files["metrics"] and own["n_missing"] == 0

    broken = next(path for path in sorted(hub.rglob("*.parquet")) if "images" not in str(path))
    broken.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    failed = orthus(*scores, tmp_path / "a", "--data", hub)
    assert failed.exit_code == 1 and "Git LFS" in failed.stderr
    table(broken, [{"id": "1"}])
    failed = orthus(*words_of(task, hub, tmp_path / "c", model))
    assert failed.exit_code == 1 and "a table without" in failed.stderr, failed.stderr


def files_of(folder: Path) -> dict[str, bytes]:
    """The official files: all but how they were made."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.name != "run.json"
    }


def words_of(task: str, data: Path, answers: Path, model: list[str]) -> list[Any]:
    how = ("--steps", 1, "-n", 2) if task == "geneval" else FEW
    return ["eval", "predict", task, "--data", data, "-o", answers, *how, *model]


@pytest.fixture(autouse=True)
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy is opened once and not for each command, which is most of the time of these tests."""

    def opened(r: Any, recipe: Any) -> Any:
        if recipe.model not in OPEN:
            OPEN[recipe.model] = open_model(r, recipe)
        return OPEN[recipe.model]

    monkeypatch.setattr(asked_benchmarks, "open_model", opened)


@pytest.fixture(params=SETS)
def official(request, tmp_path) -> tuple[str, Path]:
    if request.param == "mmmu":
        pytest.importorskip("pyarrow")
    SETS[request.param](tmp_path / "data")
    return request.param, tmp_path / "data"


def stop_at(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C while this piece is answered, counted from 0."""
    for kind in (AnsweringModel, DrawingModel):
        real, begun = kind.run, []

        def run(self, asks, loaded, real=real, begun=begun) -> Iterator[Any]:
            begun.append(1)
            for each in real(self, asks, loaded):
                yield each
                if len(begun) > piece:
                    raise KeyboardInterrupt

        monkeypatch.setattr(kind, "run", run)


def test_answers_are_official_and_the_same_stopped_or_shared(
    orthus, model, official, tmp_path, monkeypatch
):
    task, data = official
    monkeypatch.setattr(prediction, "TOGETHER", 2)
    if task == "geneval":
        model = [*model, "--batch-size", 2]
    whole = orthus(*words_of(task, data, tmp_path / "whole", model), "--format", "json")
    assert whole.exit_code == 0, whole.stderr
    told, expected = json.loads(whole.stdout), files_of(tmp_path / "whole")
    assert told["asked"]["task"] == task and len(told["model"]["hash"]) == 64
    assert 0 < told["time"]["model_s"] <= told["time"]["all_s"]

    # Stopped in the second piece, and resumed: the first is not asked again.
    words = words_of(task, data, tmp_path / "stopped", model)
    with monkeypatch.context() as patch:
        stop_at(1, patch)
        stopped = orthus(*words)
        assert stopped.exit_code == 130 and "the same command goes on" in stopped.stderr
    assert not (tmp_path / "stopped" / "run.json").exists()
    pieces = sorted(path.name for path in (tmp_path / "stopped" / "pieces").iterdir())
    assert pieces == ["000000.json", "asked.json"]
    with monkeypatch.context() as patch:
        asked: list[str] = []
        for kind in (AnsweringModel, DrawingModel):
            real = kind.run
            patch.setattr(
                kind,
                "run",
                lambda self, asks, loaded, real=real: (
                    asked.extend(ask.key for ask in asks) or real(self, asks, loaded)
                ),
            )
        resumed = orthus(*words)
        assert resumed.exit_code == 0, resumed.stderr
        assert 0 < len(asked) < told["n_asked"] + told["n_not_asked"]
    assert files_of(tmp_path / "stopped") == expected

    # Two processes: the first joins when the second has answered, and waits for it.
    words = words_of(task, data, tmp_path / "shared", model)
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "all_reduce_sum", lambda values: values)
        for shard, code in ((0, 1), (1, 0), (0, 0)):
            patch.setattr(
                distributed, "current_rank", lambda shard=shard: distributed.Rank(shard, 2)
            )
            done = orthus(*words)
            assert done.exit_code == code, done.stderr
            assert shard == 0 or not done.stdout + done.stderr
    assert files_of(tmp_path / "shared") == expected

    again = orthus(*words_of(task, data, tmp_path / "whole", model))
    assert again.exit_code == 0 and "nothing is asked" in again.stderr


@pytest.mark.parametrize("official", [task for task in SETS if task != "geneval"], indirect=True)
def test_both_steps_at_once_score_what_the_model_said(orthus, model, official, tmp_path):
    task, data = official
    out = tmp_path / "report"
    words = ["eval", task, "--data", data, "-o", out, *FEW, *model]
    done = orthus(*words, "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert "s in the model" in done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result == json.loads(done.stdout) and result["n_missing"] == 0
    assert result["run"]["asked"]["decoding"]["max_new_tokens"] == 3
    assert result["run"]["asked"]["prompt"] == TASKS[task].prompt
    assert result["intervals"] and result["notes"] is not None
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == result["n"]
    files = [out / "answers" / name for name in result["run"]["files"]]
    assert result["predictions_hash"] == data_hash(files)
    # The same again, from the folder alone.
    score = ["eval", "score", task, "--predictions", out / "answers", "--data", data]
    apart = json.loads(orthus(*score, "--format", "json").stdout)
    assert apart == result
    taken = orthus(*words)
    assert taken.exit_code == 1 and "--overwrite" in taken.stderr

    # The first question of each part, and of MME the first picture's two.
    few = [*words[:5], tmp_path / "few", *words[6:], "--limit", 1, "--format", "json"]
    done = orthus(*few)
    assert done.exit_code == 0, done.stderr
    limited = json.loads((tmp_path / "few/result.json").read_text())
    assert limited["n"] == {"pope": 3, "mme": 2}.get(task, 1) and limited["n_missing"] == 0
    assert limited["run"]["asked"]["limit"] == 1 and "--limit" in done.stderr
    first = [json.loads(line) for line in (tmp_path / "few/samples.jsonl").read_text().splitlines()]
    assert [each for each in samples if each["id"] in {sample["id"] for sample in first}] == first
    score[score.index("--predictions") + 1] = tmp_path / "few" / "answers"
    apart = json.loads(orthus(*score, "--format", "json").stdout)
    assert apart["metrics"] == limited["metrics"] and apart["n"] == limited["n"]
    other = orthus(*few[:-4], "--limit", 2, "--overwrite")
    assert other.exit_code == 0, other.stderr


def test_an_answer_is_that_of_its_question_and_picture_asked_alone(orthus, model, tmp_path):
    data, answers = tmp_path / "gqa", tmp_path / "answers"
    gqa_set(data)
    assert orthus(*words_of("gqa", data, answers, model)).exit_code == 0
    said = json.loads((answers / "predictions.json").read_text())
    items = TASKS["gqa"].items
    assert items is not None
    alone = []
    for item in items(data, "llava"):
        words = ["caption", item.picture, "--question", item.prompt, *FEW, *model]
        alone.append(orthus(*words, "--format", "json"))
    texts = [json.loads(done.stdout)["answers"][0]["text"] for done in alone]
    assert [each["prediction"] for each in said] == texts and len(set(texts)) == 3


def test_the_same_is_asked_once_and_each_answer_is_in_its_place(
    orthus, model, tmp_path, monkeypatch
):
    pope_set(tmp_path / "pope")
    answers = tmp_path / "answers"
    # What is answered is the question and the picture, so that a swap would show.
    monkeypatch.setattr(
        AnsweringModel,
        "run",
        lambda self, asks, loaded: (
            (n, f"{ask.parts[0].stem}: {ask.parts[1]}") for n, ask in reversed([*enumerate(asks)])
        ),
    )
    done = orthus(*words_of("pope", tmp_path / "pope", answers, model), "--format", "json")
    told = json.loads(done.stdout)
    assert (told["n"], told["n_asked"]) == (6, 4)
    for split in ("random", "popular", "adversarial"):
        lines = (answers / f"answers_{split}.jsonl").read_text().splitlines()
        first, second = map(json.loads, lines)
        assert first == {
            "question_id": 1,
            "question": "Is there a fox?",
            "answer": "a: Is there a fox?\nAnswer the question using a single word or phrase.",
        }
        assert second["answer"].startswith(f"b: Is there a {split}?\n")


def test_mme_lines_have_four_columns_whatever_was_said(orthus, model, tmp_path, monkeypatch):
    mme_set(tmp_path / "mme")
    monkeypatch.setattr(
        AnsweringModel, "run", lambda self, asks, loaded: ((n, "Yes,\n\tit is") for n in range(4))
    )
    done = orthus(*words_of("mme", tmp_path / "mme", tmp_path / "answers", model))
    assert done.exit_code == 0, done.stderr
    lines = (tmp_path / "answers" / "count.txt").read_text().splitlines()
    assert (
        lines[0] == "x.jpg\tIs it 1? Please answer yes or no.\tYes\tYes, it is" and len(lines) == 4
    )


def test_mmmu_pictures_stand_where_the_variant_has_them(orthus, model, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    mmmu_set(tmp_path / "mmmu")
    read: list[tuple[Any, ...]] = []
    real = AnsweringModel.run

    def run(self, asks, loaded):
        read.extend(ask.parts for ask in asks)
        return real(self, asks, loaded)

    monkeypatch.setattr(AnsweringModel, "run", run)
    words = words_of("mmmu", tmp_path / "mmmu", tmp_path / "official", model)
    told = json.loads(orthus(*words, "--format", "json").stdout)
    # The third question has two pictures, and is longer than the toy's context.
    assert told["not_asked"] == ["validation_Art_3"] and told["n_not_asked"] == 1
    rows = json.loads((tmp_path / "official" / "Art" / "output.json").read_text())
    assert rows[2]["response"] == "" and rows[1]["index2ans"]["C"] == "c"
    kinds = [part if isinstance(part, str) else part.column for part in read[1]]
    assert kinds[:2] == ["image_1", "image_2"] and kinds[2].startswith("One of <image 1> and <im")

    read.clear()
    words = words_of("mmmu", tmp_path / "mmmu", tmp_path / "lmms", model)
    assert orthus(*words, "--variant", "lmms").exit_code == 0
    kinds = [part if isinstance(part, str) else part.column for part in read[1]]
    assert kinds[:4] == ["One of ", "image_1", " and ", "image_2"]
    scored = orthus(
        "eval", "score", "mmmu", "--predictions", tmp_path / "lmms", "--data", tmp_path / "mmmu"
    )
    assert "the questions were asked as lmms asks them" in scored.stderr


def test_geneval_pictures_are_in_the_official_folders(orthus, model, tmp_path):
    geneval_set(tmp_path / "data")
    out = tmp_path / "report"
    words = ["eval", "geneval", "--data", tmp_path / "data", "-o", out, "--steps", 1, *model]
    done = orthus(*words)
    assert done.exit_code == 0 and "8 pictures; detect things in them" in done.stdout, done.stderr
    answers = out / "answers"
    metadata = json.loads((answers / "00001" / "metadata.jsonl").read_text())
    assert metadata["prompt"] == "a snowman"
    drawn = sorted(path.relative_to(answers).as_posix() for path in answers.rglob("*.png"))
    assert drawn[0] == "00000/samples/0000.png" and drawn[-1] == "00001/samples/0003.png"
    # Each picture is that of its prompt and seed, drawn alone.
    alone = tmp_path / "alone.png"
    orthus("generate", "a snowman", "--seed", 43, "--steps", 1, "-o", alone, *model)
    with Image.open(alone) as one, Image.open(answers / "00001/samples/0001.png") as other:
        assert one.tobytes() == other.tobytes()

    found = [
        {"filename": f"answers/{name}", "details": {"fox": [[0, 0, 9, 9, 0.9]]}} for name in drawn
    ]
    detections = tmp_path / "results.jsonl"
    detections.write_text("".join(json.dumps(line) + "\n" for line in found))
    scored = orthus(*words, "--detections", detections, "--format", "json")
    assert json.loads(scored.stdout)["metrics"]["overall"] == 1
    assert "nothing is asked" in scored.stderr
    folder = orthus(
        "eval", "score", "geneval", "--predictions", answers, "--data", tmp_path / "data"
    )
    assert folder.exit_code == 1 and "there is no results.jsonl" in folder.stderr
    fewer = words_of("geneval", tmp_path / "data", answers, model)
    assert orthus(*fewer, "--overwrite").exit_code == 0
    assert len([*answers.rglob("*.png")]) == 4  # none of the earlier run is left to be judged


def test_what_cannot_be_asked_is_refused_before_a_model_is_opened(orthus, tmp_path):
    gone = ["--model", tmp_path / "no-model"]

    def refused(task: str, data: Path, *words: Any) -> str:
        done = orthus(*words_of(task, data, tmp_path / "out", gone), *words)
        assert done.exit_code in (1, 2) and not (tmp_path / "out").exists()
        assert "no-model" not in done.stderr
        return done.stderr

    assert "there are no questions of POPE" in refused("pope", tmp_path)
    assert "there is no such file or folder" in refused("mme", tmp_path / "gone")
    for task in ("pope", "gqa", "vqav2", "mme"):
        data = tmp_path / task
        SETS[task](data)
        lost = next(data.rglob("*.jpg"))
        lost.unlink()
        assert f"1 of 2 pictures are missing, such as {lost.name}" in refused(task, data)
        picture(lost, 0)
    questions = tmp_path / "vqav2" / "v2_OpenEnded_mscoco_val2014_questions.json"
    twice = json.loads(questions.read_text())["questions"]
    dump(questions, {"questions": [*twice, twice[0]]})
    assert "1 ids occur more than once, such as 30" in refused("vqav2", tmp_path / "vqav2")
    dump(questions, {"questions": [{"id": 3}]})
    assert "record 1 of questions has no question_id" in refused("vqav2", tmp_path / "vqav2")
    assert "no variant 'llama'" in refused("pope", tmp_path / "pope", "--variant", "llama")
    assert "--steps changes nothing" in refused("gqa", tmp_path / "gqa", "--steps", 3)
    no_task = orthus("eval", "predict", "fid", "--data", tmp_path, "-o", tmp_path / "out", *gone)
    assert "no model can be asked fid" in no_task.stderr
    pytest.importorskip("pyarrow")
    mmmu_set(tmp_path / "mmmu")
    import pyarrow.parquet as pq

    path = tmp_path / "mmmu" / "Art" / "validation-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["image_2"]), path)
    assert "its column image_2 holds none" in refused("mmmu", tmp_path / "mmmu")


def test_answers_of_something_else_are_neither_continued_nor_replaced(orthus, model, tmp_path):
    gqa_set(tmp_path / "gqa")
    pope_set(tmp_path / "pope")
    answers = tmp_path / "answers"
    words = words_of("gqa", tmp_path / "gqa", answers, model)
    assert orthus(*words).exit_code == 0
    for other in (
        words_of("pope", tmp_path / "pope", answers, model),
        [*words, "--max-new-tokens", 4],
    ):
        done = orthus(*other)
        assert done.exit_code == 1 and "made with another" in done.stderr
    wrong = orthus("eval", "score", "pope", "--predictions", answers, "--data", tmp_path / "pope")
    assert wrong.exit_code == 1 and "answers to gqa, not to pope" in wrong.stderr
    anew = orthus(*words_of("pope", tmp_path / "pope", answers, model), "--overwrite")
    assert anew.exit_code == 0, anew.stderr
    assert not (answers / "predictions.json").exists()
    # Answers that were edited are scored, and the report says so.
    path = answers / "answers_random.jsonl"
    path.write_text(path.read_text().replace('"answer": "', '"answer": "No '))
    score = ["eval", "score", "pope", "--predictions", answers, "--data", tmp_path / "pope"]
    assert "answers_random.jsonl: not as the model has written it" in orthus(*score).stderr

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    done = orthus(*words_of("gqa", tmp_path / "gqa", mine, model), "--overwrite")
    assert done.exit_code == 1 and (mine / "thesis.txt").exists()
    # A model's own folder has a run.json, too.
    trained = {"id": "1", "files": {"thesis.txt": ""}}
    dump(mine / "run.json", trained)
    for more in ([], ["--overwrite"]):
        done = orthus(*words_of("gqa", tmp_path / "gqa", mine, model), *more)
        assert done.exit_code == 1 and "not that of answers" in done.stderr
    assert json.loads((mine / "run.json").read_text()) == trained
    assert (mine / "thesis.txt").exists()
    # A record that someone else wrote can take away nothing outside its folder.
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    run = json.loads((answers / "run.json").read_text())
    dump(answers / "run.json", {**run, "files": {"../outside.txt": ""}})
    assert orthus(*words, "--overwrite").exit_code == 0 and outside.exists()


def test_a_damaged_picture_ends_the_run_and_the_answers_before_it_stay(
    orthus, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(prediction, "TOGETHER", 1)
    gqa_set(tmp_path / "gqa")
    lost = tmp_path / "gqa" / "images" / "n2.jpg"
    content = lost.read_bytes()
    lost.write_bytes(b"gone bad")
    words = words_of("gqa", tmp_path / "gqa", tmp_path / "answers", model)
    done = orthus(*words)
    assert done.exit_code == 1 and "n2.jpg" in done.stderr
    # Those of n1 are answered first, though one of them comes last in the set.
    assert (tmp_path / "answers" / "pieces" / "000000.json").exists()
    lost.write_bytes(content)
    assert orthus(*words).exit_code == 0
    said = json.loads((tmp_path / "answers" / "predictions.json").read_text())
    assert [each["questionId"] for each in said] == ["7", "8", "9"]


def test_prompts_are_drawn_and_edits_made_under_the_names_that_scoring_reads(
    orthus, model, tmp_path
):
    for style in ("anime", "photo"):
        dump(tmp_path / "hps" / f"{style}.json", ["a red fox"])
    how = ["--steps", 1, *model]
    drawn = tmp_path / "drawn"
    done = orthus("eval", "predict", "hps", "--data", tmp_path / "hps", "-o", drawn, *how)
    assert done.exit_code == 0, done.stderr
    assert [*files_of(drawn)] == ["anime/00000.png", "photo/00000.png"]
    # The same prompt and seed are the same picture, in each style.
    assert len({*files_of(drawn).values()}) == 1
    assert [path.name for _, path in hps_pictures(drawn, tmp_path / "hps")] == ["00000.png"] * 2

    about = {"input": "a fox", "output": "a red fox", "edit": "make it red"}
    edits = [{"id": name, "image": f"{name}.jpg", **about} for name in "ab"]
    for shade, edit in enumerate(edits):
        picture(tmp_path / edit["image"], 90 * shade)
    own = tmp_path / "edits.jsonl"
    own.write_text("".join(json.dumps(edit) + "\n" for edit in edits))
    words = ["eval", "predict", "edit-clip", "--data", own, "-o", tmp_path / "edited", *how]
    done = orthus(*words)
    assert done.exit_code == 0, done.stderr
    assert [*files_of(tmp_path / "edited")] == ["a.png", "b.png"]
    one = tmp_path / "one.png"
    asked = ["edit", tmp_path / "b.jpg", "make it red", "--seed", 42, "-o", one, *how]
    assert orthus(*asked).exit_code == 0
    with Image.open(one) as alone, Image.open(tmp_path / "edited" / "b.png") as found:
        assert alone.tobytes() == found.tobytes()
    run = json.loads((tmp_path / "edited" / "run.json").read_text())
    assert {*run["files"]} == {"a.png", "b.png"} and run["asked"]["seeds"] == [42]
    more = orthus(*words, "-n", 2)
    assert more.exit_code == 2 and "-n changes nothing" in " ".join(more.stderr.split())

    # The hub's rows: the last twentieth, by number.
    pytest.importorskip("pyarrow")
    columns = {"original_prompt": "a", "edit_prompt": "make it red", "edited_prompt": "b"}
    rows = [{**columns, "original_image": held(tmp_path / f"{'ab'[n % 2]}.jpg")} for n in range(21)]
    table(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", rows, size=5)
    done = orthus(*words[:4], tmp_path / "hub", "-o", tmp_path / "of-hub", *how)
    assert done.exit_code == 0, done.stderr
    assert [*files_of(tmp_path / "of-hub")] == ["0000019.png", "0000020.png"]
    with (
        Image.open(tmp_path / "of-hub" / "0000019.png") as found,
        Image.open(tmp_path / "edited" / "b.png") as other,
    ):
        assert found.tobytes() == other.tobytes()
    own.write_text(json.dumps({**edits[0], "id": "../a"}) + "\n")
    outside = orthus(*words, "--overwrite")
    assert outside.exit_code == 1 and "is no name of a picture" in outside.stderr


def hps_pictures(drawn: Path, data: Path) -> list[tuple[str, Path]]:
    from orthus_core.evaluation.official.hps_files import read_pictures

    return [(each.key, each.path) for each in read_pictures(drawn, data)[1]]
