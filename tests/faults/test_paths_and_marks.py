"""Paths that begin with `~`, texts with byte order marks, and names in bytes that are no UTF-8."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core import Orthus
from orthus_core.data.formats.sniff import read
from orthus_core.recipe import PosttrainRecipe, load
from orthus_core.results.answer_file import read_answers
from orthus_core.results.record import read_made
from orthus_core.user_files import user_path

LATIN = os.fsdecode(b"caf\xe9.png")
BOM = b"\xef\xbb\xbf"


def draw(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(path)
    return path


def orthus(*words: object, stdin: bytes | None = None):
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin, prog_name="orthus")


def done(*words: object, stdin: bytes | None = None) -> str:
    """What a command prints, after it went well."""
    result = orthus(*words, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder; the working folder is another, and stays empty unless a test writes there."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def model(tiny_folder: Path) -> tuple[object, ...]:
    return ("--model", tiny_folder, "--device", "cpu", "--seed", 1)


STEP = ("--steps", 1)
TINY = [
    f"--set={key}"
    for key in ("optim.steps=1", "optim.batch_size=1", "data.held_out=0", "log.sample_every=0")
]


def test_outputs_go_to_the_home_folder(home: Path, model):
    drawing = ("generate", "a cup", *model, *STEP, "--metadata")
    done(*drawing, "--output=~/made/cup.png", "--grid=~/made/sheet.png")
    done(*drawing, "-o", "~/made/{prompt}_{seed}.png")
    done("replay", "~/made/cup.png", "-o", "~/made/again.png")
    assert "a cup" in done("info", "~/made/cup.json")
    done("generate", "-C", "~/made/cup.json", "-o", "~/made/c.png", *model[2:])
    done("generate", "--continue", "~/made/cup.png", "-o", "~/made/d.png", *model[:4])
    written = "a_cup_1.json a_cup_1.png again.png c.png cup.json cup.png d.png sheet.png"
    assert sorted(os.listdir(home / "made")) == written.split()
    assert os.listdir() == []


def test_inputs_are_read_from_the_home_folder(home: Path, model):
    draw(home / "pics" / "cup.png").with_suffix(".txt").write_text("a cup")
    assert "1 usable" in done("data", "check", "~/pics")
    done("caption", "~/pics", "-o", "~/answers.jsonl", *model)
    assert read_answers(home / "answers.jsonl")[0].image == str(home / "pics" / "cup.png")
    cup = "~/pics/cup.png"
    done("edit", "~/pics", "add a hat", "-o", "~/e/", *model, *STEP)
    done("edit", cup, "--example", cup, cup, "-o", "~/e/x.png", *model, *STEP)
    shutil.copytree(str(model[1]), home / "m")
    story = ("-m", "~/m", "--device", "cpu", "--seed", 1, *STEP)
    done("story", "--image", cup, "-o", "~/s", *story, "--panels", 1)
    done("story", "--from-story", "~/s", "-o", "~/t", *story, "--panels", 2)
    assert "orthus" in done("info", "~/m").lower()
    (home / "prompts.txt").write_text("a cup")
    done("generate", "--prompt-file=~/prompts.txt", "-o", "~/p.png", *model, *STEP)
    assert {"answers.jsonl", "e", "m", "p.png", "s", "t"} <= {*os.listdir(home)}
    assert os.listdir() == []


def test_keys_of_recipes_that_are_paths_begin_at_home(home: Path, tiny_folder: Path):
    draw(home / "pics" / "cup.png").with_suffix(".txt").write_text("a cup")
    (home / "train.toml").write_text('command = "posttrain"\n[data]\nsource = "~/pics"\n')
    shutil.copytree(tiny_folder, home / "m")
    done("posttrain", "~/train.toml", "--init-from", "~/m", "-o", "~/out", *TINY)
    done("recipes", "cp", "~/train.toml", "~/copy.toml")
    done("recipes", "validate", "~/copy.toml")
    assert {"copy.toml", "out"} <= {*os.listdir(home)} and os.listdir() == []


def test_python_takes_home_folders(home: Path, tiny_folder: Path):
    shutil.copytree(tiny_folder, home / "m")
    made = Orthus.open("~/m", device="cpu").generate("a cup", steps=1, seed=1)
    assert made.save("~/cup.png") == [home / "cup.png"]
    story = Orthus.open("~/m", device="cpu").story("a cup", images="~/cup.png", panels=1, steps=1)
    story.save("~/s")
    assert read_made("~/s").command == "story"
    assert os.listdir() == []


def test_a_folder_called_tilde_is_reached_as_shells_reach_it(home: Path, model):
    done("generate", "a cup", *model, *STEP, "-o", "./~/cup.png")
    done("caption", "./~/cup.png", *model)
    assert os.listdir() == ["~"] and not os.listdir(home)
    assert user_path(user_path("./~/x")) == Path.cwd() / "~" / "x"


@pytest.mark.parametrize("command", [("info",), ("data", "check"), ("caption",), ("plan",)])
def test_a_home_that_does_not_exist_is_a_missing_file(home: Path, command):
    result = orthus(*command, "~nobody-here/x.png")
    assert result.exit_code == 1 and "RuntimeError" not in result.stderr


MARKED = {
    "utf-8": BOM + "a réd cup\r\n".encode(),
    "utf-16-le": b"\xff\xfe" + "a réd cup\r\n".encode("utf-16-le"),
    "utf-16-be": b"\xfe\xff" + "a réd cup\r\n".encode("utf-16-be"),
}


@pytest.mark.parametrize("content", MARKED.values(), ids=MARKED)
def test_captions_are_read_without_a_mark(tmp_path: Path, content: bytes):
    draw(tmp_path / "cup.png").with_suffix(".txt").write_bytes(content)
    assert read(tmp_path).documents[0].user[0].value == "a réd cup"


def encoded(text: str, name: str) -> bytes:
    return MARKED[name][: 3 if name == "utf-8" else 2] + text.encode(name)


@pytest.mark.parametrize("name", MARKED)
def test_rows_recipes_and_prompts_are_read_without_a_mark(home: Path, model, name: str):
    draw(home / "set" / "cup.png")
    row = {"file_name": "cup.png", "text": "a r\u2028d\x0c cup"}
    lines = "\r\n".join([json.dumps(row, ensure_ascii=False).replace("\f", "\\f")] * 2)
    (home / "set" / "metadata.jsonl").write_bytes(encoded(lines, name))
    reading = read(home / "set")
    assert [each.user[0].value for each in reading.documents] == [row["text"]] * 2
    (home / "r.toml").write_bytes(encoded('command = "posttrain"\n[optim]\nsteps = 7\n', name))
    assert load(PosttrainRecipe, home / "r.toml").optim.steps == 7
    assert not done("recipes", "cat", home / "r.toml").startswith("\ufeff")
    prompts = encoded("a cup\u2028and a saucer\r\n\r\na cat\r\n", name)
    words = ("generate", "-", *model, *STEP, "-o", "out", "--format", "json")
    drawn = json.loads(done(*words, stdin=prompts))["pictures"]
    assert [each["prompt"] for each in drawn] == ["a cup\u2028and a saucer", "a cat"]
    (home / "out.json").write_bytes(
        encoded(json.dumps(read_made(drawn[0]["path"]).info.recipe), name)
    )
    assert "lacks" in orthus("info", home / "out.json").stderr  # it is JSON, if of no picture


def test_joined_files_have_no_mark_within(tmp_path: Path):
    draw(tmp_path / "cup.png").with_suffix(".txt").write_bytes(BOM + b"a cup\n" + BOM + b"is red")
    assert read(tmp_path).documents[0].user[0].value == "a cup\nis red"


def test_what_is_no_utf8_is_named_with_its_line_and_what_to_do(home: Path, model):
    latin = "a cup\na réd cup\n".encode("latin-1")
    draw(home / "pairs" / "cup.png").with_suffix(".txt").write_bytes(latin)
    draw(home / "wide" / "cup.png").with_suffix(".txt").write_bytes("a cup".encode("utf-16-le"))
    draw(home / "rows" / "cup.png")
    row = json.dumps({"file_name": "cup.png", "text": "réd"}, ensure_ascii=False)
    (home / "rows" / "metadata.jsonl").write_bytes(b"\n" + row.encode("latin-1"))
    (home / "r.toml").write_bytes(latin)
    for place, line in (("pairs", "(line 2)"), ("rows", "(line 2)"), ("wide", "UTF-16 without")):
        problem = orthus("data", "check", home / place)
        assert problem.exit_code == 1 and line in problem.stderr
        assert "save it as UTF-8" in problem.stderr
    for words in (("posttrain", home / "r.toml", "--init-from", "mini", "-o", "x"),):
        assert "line 2" in orthus(*words).stderr
    for prompts in (("--prompt-file", home / "r.toml"), ("-",)):
        told = orthus("generate", *prompts, *model, stdin=latin).stderr
        assert "not UTF-8 text, from byte 9 on (line 2)" in told


def test_answers_about_names_that_are_no_utf8_are_not_asked_again(home: Path, model):
    draw(home / "pics" / LATIN)
    for colour, name in (("blue", "cafe\u0301.png"), ("green", "caf\u00e9.png")):
        draw(home / "pics" / name, colour)
    words = ("caption", "~/pics", "-o", "a.jsonl", *model)
    assert "3 of them new" in done(*words)
    first = Path("a.jsonl").read_bytes()
    assert "0 of them new" in done(*words) and Path("a.jsonl").read_bytes() == first
    assert json.loads(first.splitlines()[0]) and first.decode()
    assert {Path(each.image) for each in read_answers(Path("a.jsonl"))} == {
        *(home / "pics").iterdir()
    }
    assert "identical" in done("replay", "a.jsonl")


def test_results_lead_back_to_names_that_are_no_utf8(home: Path, model):
    file = draw(home / "pics" / LATIN)
    words = ("edit", file, file, "add a hat", "--each", *model, *STEP, "--metadata")
    made = json.loads(done(*words, "-o", "out", "--format", "json"))["pictures"]
    assert [Path(each["images"][0]) for each in made] == [file, file]
    for name in (made[0]["path"], made[0]["metadata"]):
        assert read_made(name).info.files == (str(file),)
        done("replay", name)
    done("story", "--image", file, "-o", "s", *model, *STEP, "--panels", 1)
    assert read_made("s").info.files == (str(file),)
    told = json.loads(done("caption", file, *model, "--format", "json"))
    assert Path(told["answers"][0]["image"]) == file


def test_a_record_with_half_a_character_in_its_words_stays_refused(home: Path, model):
    done("generate", "a cup", *model, *STEP, "-o", "cup.png", "--metadata")
    record = json.loads(Path("cup.json").read_text())
    Path("cup.json").write_text(json.dumps({**record, "prompt": "a \udce9"}))
    assert "broken text" in orthus("info", "cup.json").stderr


def test_a_data_set_with_such_names_is_read_and_trained_on(home: Path, tiny_folder: Path):
    file = draw(home / "pics" / LATIN)
    file.with_suffix(".txt").write_text("a cup")
    file.with_name("broken" + LATIN).write_text("no picture")
    file.with_name("broken" + LATIN).with_suffix(".txt").write_text("x")
    result = orthus("data", "check", home / "pics")
    assert result.exit_code == 1 and "1 usable, 1 bad" in result.stdout
    words = ("posttrain", "--init-from", tiny_folder, "-o", "out")
    done(*words, f"--set=data.source={home / 'pics'}", *TINY)
    record = {"file_name": os.fsdecode(b"pics/caf\xe9.png"), "text": "a cup"}
    (home / "metadata.jsonl").write_text(json.dumps(record))  # the name's byte as an escape
    assert len(read(home).documents) == 1


NAMES = ["-x.png", "a\nb.png", 'it\'s "x".png', "[a]*?.png", "{prompt}%d.png", "cup.png.", " .png"]


def test_names_that_shells_and_patterns_read_otherwise(home: Path, model):
    folder = home / "[set] {seed}"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name, format="PNG")
        (folder / f"{name.removesuffix('.png')}.txt").write_text("a cup")
    assert [each.id for each in read(folder).documents] == sorted(NAMES)
    done("caption", folder, "-o", "a.jsonl", *model)
    assert [Path(each.image).name for each in read_answers(Path("a.jsonl"))] == sorted(NAMES)
    out = home / "{x} %d"
    done("edit", folder, "add a hat", "-o", f"{out}/", *model, *STEP)
    made = {Path(read_made(result).info.files[0]).name for result in out.iterdir()}
    assert made == {*NAMES}
    os.chdir(folder)
    done("caption", *model, "--", *NAMES)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_files_of_a_model_are_read_without_marks(home: Path, tiny_folder: Path, encoding: str):
    folder = home / "m"
    shutil.copytree(tiny_folder, folder)
    (folder / "vocabulary.txt").write_text("cup\n", encoding=encoding)
    sharded = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(sharded, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for file in folder.glob("*.json"):
        file.write_text(file.read_text(), encoding=encoding)
    for how in ([], ["--low-memory"]):
        words = ("generate", "a cup", "-m", folder, "--device", "cpu", *STEP, *how)
        result = orthus(*words, "-o", home / f"cup{len(how)}.png")
        assert result.exit_code == 0 and '"cup"' not in result.stderr, result.stderr
    done("info", folder)
    done("convert", folder, "-o", home / "again")
    done("caption", home / "cup0.png", "-m", home / "again", "--device", "cpu")


def test_answers_in_utf_16_are_read_and_not_added_to(home: Path, model):
    for name in ("a.png", "b.png"):
        draw(home / name, "red" if name == "a.png" else "blue")
    done("caption", home / "a.png", home / "b.png", "-o", "a.jsonl", *model)
    text = Path("a.jsonl").read_text()
    Path("a.jsonl").write_text(text, encoding="utf-16")
    before = Path("a.jsonl").read_bytes()
    assert len(read_answers(Path("a.jsonl"))) == 2
    told = orthus("caption", draw(home / "c.png", "green"), "-o", "a.jsonl", *model)
    assert told.exit_code == 1 and "save it as UTF-8" in told.stderr
    assert Path("a.jsonl").read_bytes() == before


def test_a_model_in_a_folder_whose_name_is_no_utf8_is_refused_before_work(
    home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    latin = home / os.fsdecode(b"caf\xe9")
    draw(home / "pics" / "cup.png").with_suffix(".txt").write_text("a cup")
    shutil.copytree(tiny_folder, latin)
    training = ("posttrain", f"--set=data.source={home / 'pics'}", *TINY, "--init-from")
    monkeypatch.chdir(latin)
    for words in (
        (*training, tiny_folder, "-o", home / os.fsdecode(b"\xe9")),
        (*training, tiny_folder, "-o", "out"),
        (*training, latin, "-o", home / "out"),
        ("generate", "a cup", "-m", latin, "--device", "cpu", *STEP),
        ("convert", latin, "-o", home / "out"),
        ("convert", tiny_folder, "-o", home / os.fsdecode(b"\xe9")),
    ):
        told = orthus(*words)
        assert told.exit_code == 1 and "no UTF-8" in told.stderr, words
    assert {path.name for path in home.iterdir()} == {"pics", latin.name}


def test_data_in_a_folder_whose_name_is_no_utf8_is_refused_before_work(
    home: Path, tiny_folder: Path
):
    """The recipe is written beside the model, when the training is through."""
    latin = home / os.fsdecode(b"caf\xe9")
    draw(latin / "cup.png").with_suffix(".txt").write_text("a cup")
    words = ("posttrain", "--init-from", tiny_folder, "-o", "out", *TINY)
    for key in ("data.source", "data.sources.0.path", "data.cache"):
        told = orthus(*words, f"--set={key}={latin}")
        assert told.exit_code == 1 and f"{key} holds bytes that are no UTF-8" in told.stderr
    assert os.listdir() == []
    (home / "plain").symlink_to(latin)
    done(*words, f"--set=data.source={home / 'plain'}")


def test_a_story_from_a_folder_whose_name_is_no_utf8_is_drawn_again(home: Path, model):
    latin = home / os.fsdecode(b"caf\xe9")
    done("story", "a cup", "-o", latin, *model, *STEP, "--panels", 1)
    done("story", "--from-story", latin, "-o", "s", *model, *STEP, "--panels", 2)
    assert "identical" in done("replay", "s")
