"""`orthus caption` as a user runs it, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

SHORT = ["--max-new-tokens", 5]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pictures, one in a folder below, and a file that only says it is one."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for shade, name in enumerate(["a.png", "b.jpg", "c.png", "more/d.png"]):
        Image.new("RGB", (20, 30), (60 * shade, 200, 40)).save(folder / name)
    (folder / "broken.png").write_text("no picture")
    (folder / "notes.txt").write_text("not to be read")
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_caption_says_what_it_sees(orthus, model, start, tmp_path):
    done = orthus("caption", start, *SHORT, *model)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 5
    many = orthus("caption", start, start, "--question", "a fox?", "--format", "json", *model)
    told = json.loads(many.stdout)
    assert told["question"] == "a fox?"
    assert [answer["image"] for answer in told["answers"]] == [str(start)] * 2
    assert told["answers"][0]["text"] == told["answers"][1]["text"]


def test_a_folder_is_read_and_what_is_broken_is_named(orthus, model, folder):
    done = orthus("caption", folder, *SHORT, "--format", "json", *model)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    found = [Path(answer["image"]).relative_to(folder).as_posix() for answer in told["answers"]]
    assert found == ["a.png", "b.jpg", "c.png", "more/d.png"]
    assert [Path(one["image"]).name for one in told["left_out"]] == ["broken.png"]
    assert f"{folder / 'broken.png'} is left out: this is no picture" in done.stderr


def test_strict_stops_at_what_is_broken(orthus, model, folder, tmp_path):
    done = orthus("caption", folder, "--strict", "-o", tmp_path / "x.jsonl", *SHORT, *model)
    assert done.exit_code == 1 and "this is no picture" in done.stderr


def test_a_second_run_does_what_is_missing(orthus, model, folder, tmp_path, monkeypatch):
    out = tmp_path / "captions.jsonl"
    asked = ["caption", folder, "-o", out, *SHORT, *model]
    done = orthus(*asked)
    assert done.stdout == f"{out}: 4 pictures, 4 of them new, 1 left out\n"
    first = out.read_text()
    Image.new("RGB", (9, 9), "red").save(folder / "new.png")
    (folder / "c.png").rename(folder / "moved.png")
    again = orthus(*asked)
    assert again.stdout == f"{out}: 5 pictures, 1 of them new, 1 left out\n"
    assert out.read_text().startswith(first)
    added = [Path(line["image"]).name for line in lines(out)[4:]]
    assert sorted(added) == ["moved.png", "new.png"], "a moved picture is known by its content"
    orthus(*asked)
    assert len(lines(out)) == 6


def test_another_question_is_asked_anew_in_the_same_file(orthus, model, folder, tmp_path):
    out = tmp_path / "captions.jsonl"
    orthus("caption", folder, "-o", out, *SHORT, *model)
    orthus("caption", folder, "-o", out, "--question", "a fox?", *SHORT, *model)
    orthus("caption", folder, "-o", out, "--max-new-tokens", 3, *model)
    assert len(lines(out)) == 12
    assert {line["question"] for line in lines(out)} == {"What is this?", "a fox?"}


def test_a_run_that_was_killed_goes_on(orthus, model, folder, tmp_path):
    out = tmp_path / "captions.jsonl"
    asked = ["caption", folder, "-o", out, *SHORT, *model]
    orthus(*asked)
    whole = out.read_text()
    second = whole.splitlines(keepends=True)[1]
    out.write_text(whole.splitlines(keepends=True)[0] + second[: len(second) // 2])
    done = orthus(*asked)
    assert done.exit_code == 0, done.stderr
    assert sorted(line["image"] for line in lines(out)) == sorted(
        json.loads(line)["image"] for line in whole.splitlines()
    )


def test_ctrl_c_keeps_what_was_answered(orthus, model, folder, tmp_path, monkeypatch):
    from orthus_core.api import captions

    whole = captions.answer

    def interrupted(*args, **kwargs):
        for event in whole(*args, **kwargs):
            yield event
            if isinstance(event, captions.AnswerDone):
                raise KeyboardInterrupt

    monkeypatch.setattr(captions, "answer", interrupted)
    out = tmp_path / "captions.jsonl"
    done = orthus("caption", folder, "-o", out, *SHORT, *model)
    assert done.exit_code == 130 and "the same command goes on with it" in done.stderr
    assert len(lines(out)) == 1


@pytest.mark.parametrize("content", ["precious", "precious\n", '{"image": "a.png"}\n'])
def test_another_kind_of_file_is_left_alone(orthus, model, start, tmp_path, content):
    out = tmp_path / "notes.jsonl"
    out.write_text(content)
    done = orthus("caption", start, "-o", out, *SHORT, *model)
    assert done.exit_code == 1 and "--overwrite" in done.stderr
    assert out.read_text() == content
    assert orthus("caption", start, "-o", out, "--overwrite", *SHORT, *model).exit_code == 0
    assert len(lines(out)) == 1


def test_many_parts_are_the_same_as_one(orthus, model, folder, tmp_path, monkeypatch):
    from orthus_core.api import captions

    one, many = tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    orthus("caption", folder, "-o", one, "--seed", 1, *SHORT, *model)
    monkeypatch.setattr(captions, "AT_ONCE", 2)
    orthus("caption", folder, "-o", many, "--seed", 1, "--batch-size", 1, *SHORT, *model)
    assert lines(one) == lines(many)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["caption", "missing.png"], "no such picture"),
        (["caption", "broken.png", "missing.png"], "none of 2 pictures reads"),
        (["caption", "a.png", "-o", "more"], "this is a folder"),
        (["caption", "a.png", "--question", " "], "the question is empty"),
    ],
)
def test_a_mistake_is_one_message(orthus, model, folder, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    done = orthus(*words, *model)
    assert done.exit_code == 1 and message in done.stderr and "Traceback" not in done.stderr
