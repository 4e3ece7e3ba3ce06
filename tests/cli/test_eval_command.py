"""eval mini, run as a user runs it, on tiny random models: what it leaves behind and refuses."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.evaluation.reconstruction import reconstruct
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.picture_source import read_pictures
from tests.core.toy_data import pictures_with_words
from tests.discrete import write_tiny_chameleon


@pytest.fixture
def model(tiny_folder) -> list[str]:
    return ["--model", str(tiny_folder), "--device", "cpu"]


def test_eval_mini_leaves_scores_samples_and_sheets(orthus, model, tmp_path):
    out = tmp_path / "report"
    tasks = ["--only", "geneval,caption,edit,recon", "--limit", 2, "--seed", 3]
    done = orthus("eval", "mini", *tasks, "-o", out, *model)
    assert done.exit_code == 0, done.stderr
    names = ["mini-geneval", "mini-caption", "mini-edit", "mini-recon"]
    files = {"result.json", "samples.jsonl", *(f"{name}.png" for name in names)}
    assert {path.name for path in out.iterdir()} == files
    for name in names:
        with Image.open(out / f"{name}.png") as sheet:
            assert sheet.width >= 20  # 16 pixels and a frame

    result = json.loads((out / "result.json").read_text())
    assert list(result["tasks"]) == names
    assert result["run"]["seed"] == 3 and result["run"]["limit"] == 2
    assert len(result["model"]["hash"]) == 64 and result["version"]
    overall, *parts = result["tasks"]["mini-geneval"]
    assert overall["name"] == "overall" and len(parts) == 6
    for score in (overall, *parts):
        low, high = score["interval"]
        assert low <= score["value"] <= high and score["chance"] is not None
        assert 0 <= score["ceiling"] <= 1

    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {sample["task"] for sample in samples} == set(names)
    first = next(sample for sample in samples if sample["task"] == "mini-geneval")
    assert {"tag", "prompt", "include", "seed", "right", "why"} <= first.keys()
    assert "mini-geneval" in done.stdout and "ceiling" in done.stdout


def test_other_wordings_are_asked_in_and_recorded(orthus, model, tmp_path):
    prompts = {}
    for wordings in ("trained", "held-out"):
        out = tmp_path / wordings
        words = ["eval", "mini", "--only", "place", "--limit", 4, "--wordings", wordings]
        done = orthus(*words, "--preset", "turbo", "-o", out, *model)
        assert done.exit_code == 0, done.stderr
        assert json.loads((out / "result.json").read_text())["run"]["wordings"] == wordings
        lines = (out / "samples.jsonl").read_text().splitlines()
        prompts[wordings] = [json.loads(line)["prompt"] for line in lines]
    assert len(prompts["trained"]) == 4
    assert not set(prompts["trained"]) & set(prompts["held-out"])


def test_the_same_seed_asks_and_scores_the_same(orthus, model, tmp_path):
    told = []
    for name in ("one", "two"):
        words = ["eval", "mini", "--only", "story,pope", "--limit", 1, "-o", tmp_path / name]
        done = orthus(*words, "--preset", "turbo", "--format", "json", *model)
        assert done.exit_code == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["sampling"]["preset"] == "turbo"
        told.append(result["scores"])
    assert told[0] == told[1]
    assert [score["name"] for score in told[0]["mini-story"]] == [
        "right entities",
        "panels drawn",
        "whole stories",
    ]


def test_a_discrete_chameleon_is_measured_through_its_codes(orthus, tiny_folder, tmp_path):
    folder = write_tiny_chameleon(tmp_path / "discrete", tiny_folder)
    words = ["eval", "mini", "--only", "geneval,vqa", "--limit", 1, "-o", tmp_path / "report"]
    done = orthus(*words, "--format", "json", "--model", folder, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["scores"]["mini-geneval"][0]["n"] == 12  # six prompts, two pictures of each
    assert told["sampling"]["steps"] == 1


def test_a_task_that_is_not_there_and_a_folder_that_is_taken_are_refused(orthus, model, tmp_path):
    done = orthus("eval", "mini", "--only", "geneva", "-o", tmp_path / "report", *model)
    assert done.exit_code == 1
    assert "there is no task 'geneva'" in done.stderr and "recall" in done.stderr
    (tmp_path / "mine.txt").write_text("mine")
    done = orthus("eval", "mini", "-o", tmp_path, *model)
    assert done.exit_code == 1 and "not empty" in done.stderr
    done = orthus("eval", "mini", "-o", tmp_path, "--overwrite", *model)
    assert done.exit_code == 1 and "holds no result.json" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_benchmarks_are_listed_and_described(orthus):
    listed = orthus("eval", "list", "--format", "json")
    assert listed.exit_code == 0, listed.stderr
    names = [task["name"] for task in json.loads(listed.stdout)["tasks"]]
    assert names[0] == "pope" and {"hps", "edit-clip", "recon", "fid", "mini"} < {*names}
    for name in names:
        told = orthus("eval", "describe", name)
        assert told.exit_code == 0 and "Variants" in told.stdout and "2412.00127" in told.stdout
        assert f"orthus eval {name} " in told.stdout
    unknown = orthus("eval", "describe", "popo")
    assert unknown.exit_code == 1 and "did you mean 'pope'" in unknown.stderr


def test_predictions_of_any_model_are_scored(orthus, tmp_path):
    types = {"structural": "query", "semantic": "obj", "detailed": ""}
    about = {"question": "What?", "imageId": "1", "isBalanced": True, "types": types}
    questions = {"1": {**about, "answer": "red"}, "2": {**about, "answer": "dog"}}
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    said = tmp_path / "said.json"
    said.write_text(json.dumps([{"questionId": "1", "prediction": "Red."}]))
    out = tmp_path / "report"
    words = ["eval", "score", "gqa", "--predictions", said, "--data", tmp_path]
    done = orthus(*words)
    assert done.exit_code == 1 and "--allow-missing" in done.stderr
    done = orthus(*words, "--allow-missing", "-o", out)
    assert done.exit_code == 0, done.stderr
    assert "1 of 2 have no prediction" in done.stderr
    assert "accuracy\t50.00\t" in done.stdout
    result = json.loads((out / "result.json").read_text())
    assert (result["task"], result["variant"], result["n_missing"]) == ("gqa", "llava", 1)
    assert result["metrics"]["accuracy"] == 50 and len(result["data_hash"]) == 64
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [sample["right"] for sample in samples] == [True, False]
    taken = orthus(*words, "--allow-missing", "-o", out)
    assert taken.exit_code == 1 and "--overwrite" in taken.stderr
    strict = orthus(*words, "--allow-missing", "--variant", "strict", "--format", "json")
    assert json.loads(strict.stdout)["metrics"]["accuracy"] == 0


def test_eval_recon_measures_the_pictures_of_a_data_set(orthus, model, tmp_path):
    folder = pictures_with_words(tmp_path / "pictures", 12)
    (folder / "003.png").write_bytes(b"gone bad")

    def told(*options: object) -> dict:
        done = orthus("eval", "recon", folder, *options, *model, "--format", "json")
        assert done.exit_code == 0, done.stderr
        assert "003.png" in done.stderr or "--limit" in options or "--held-out" in options
        return json.loads(done.stdout)

    everything = told()
    assert (everything["pictures"], everything["bad"]) == (11, 1)
    assert told("--limit", 3)["pictures"] == 3

    # What finetune-vae never draws is what is measured, by the same figures.
    events = read_pictures(DataRecipe(source=str(folder), held_out=0.4), 16)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            apart_M3HW = stop.value.held_out_M3HW
            break
    apart = told("--held-out", "--share", 0.4)
    assert 0 < apart["pictures"] == len(apart_M3HW) < 11 and apart["held_out"] == 0.4
    vq = open_orthus(model[1], device="cpu").model.model.vqmodel
    for path, likeness in reconstruct(vq, apart_M3HW)._asdict().items():
        assert apart[path] == pytest.approx(likeness._asdict(), rel=1e-5)
        assert apart[path] != everything[path]
    nothing = orthus("eval", "recon", folder, "--held-out", "--share", 0, *model)
    assert nothing.exit_code == 1 and "there is no picture to measure" in nothing.stderr


def test_eval_recon_draws_pictures_of_the_small_world(orthus, model):
    done = orthus("eval", "recon", "sprites", "--limit", 2, *model)
    assert done.exit_code == 0 and "features" in done.stdout and "PSNR" in done.stdout
