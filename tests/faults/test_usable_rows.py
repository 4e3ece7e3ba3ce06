"""`orthus data check` and the trainings agree on which rows can be used, and name the others."""

from __future__ import annotations

import json
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from orthus_cli.app import app
from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.data.document import Document, turn
from orthus_core.data.formats.reading import ReadResult
from orthus_core.data.formats.sniff import open_rows
from orthus_core.data.order import is_held_out
from orthus_core.data.pictures import FilePicture
from orthus_core.errors import DataError
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.batches import orthus_batch_builder, row_encoder
from orthus_core.train.features import feature_cache

HALF = "\ud83d"


def drained(generator):
    """What a generator of events returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def text(value: object, role: str = "user") -> dict:
    return {"type": "text", "role": role, "value": value}


def image(path: str = "cup.png", role: str = "model") -> dict:
    return {"type": "image", "role": role, "path": path}


def line(*segments: object, **more: object) -> str:
    return json.dumps({"segments": segments, **more})


GOOD = line(text("a red cup"), image())


def write(folder: Path, lines: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (24, 20), "red").save(folder / "cup.png")
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "records.jsonl"


def orthus(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


SHORT = ("optim.steps=1", "optim.batch_size=2", "data.held_out=0", "log.sample_every=0")
SHORT += ("log.save_every=0", "log.validate_every=0")


def check(source: Path, model: Path | None, *words: object) -> tuple[Result, dict]:
    start = () if model is None else ("-m", model)
    done = orthus("data", "check", source, *start, *words, "--format", "json")
    return done, json.loads(done.stdout) if done.stdout else {}


def train(command: str, source: Path, model: Path, *sets: str) -> Result:
    changes = [f"--set={one}" for one in (*SHORT, f"data.source={source}", *sets)]
    output = source.parent / f"trained-{command}"
    return orthus(command, "--init-from", model, "-o", output, *changes, "--overwrite")


def bad_lines(told: dict) -> list[int]:
    return sorted(fault["line"] for fault in told["first_bad"])


def test_half_a_surrogate_pair_is_left_out_by_name_in_both(tmp_path, tiny_folder):
    source = write(tmp_path, [GOOD, line(text(f"a red cup {HALF}"), image()), GOOD])
    done, told = check(source, tiny_folder)
    assert done.exit_code == 1 and (told["usable"], told["bad"]) == (2, 1)
    assert bad_lines(told) == [2] and "surrogate" in told["first_bad"][0]["problem"]
    trained = train("posttrain", source, tiny_folder)
    assert trained.exit_code == 0 and f"{source}:2: the text is no Unicode" in trained.stderr
    for strict in (
        check(source, tiny_folder, "--strict")[0],
        check(source, tiny_folder, "--set", "data.strict=true")[0],
        train("posttrain", source, tiny_folder, "data.strict=true"),
    ):
        assert strict.exit_code == 1 and f"where: {source}:2\n" in strict.stderr


def test_a_training_with_nothing_to_learn_ends_before_its_first_step(tmp_path, tiny_folder):
    source = write(tmp_path, [line(text(f"question {number}")) for number in range(4)])
    done, told = check(source, tiny_folder)
    assert done.exit_code == 1 and (told["usable"], told["bad"]) == (0, 4)
    trained = train("posttrain", source, tiny_folder)
    assert trained.exit_code == 1 and "no documents to train on" in trained.stderr
    assert f"{source}:3: there is nothing to learn in it" in trained.stderr
    assert not list(tmp_path.glob("trained*/config.json"))


def test_an_empty_data_set_is_no_success(tmp_path, tiny_folder):
    source = write(tmp_path, ["", "  "])
    done, told = check(source, tiny_folder)
    assert done.exit_code == 1 and (told["usable"], told["bad"]) == (0, 0)
    assert "nothing to train on" in orthus("data", "check", source, "-m", tiny_folder).stdout


def test_held_out_rows_are_none_to_train_on(tmp_path, tiny_folder):
    """Of two readable rows one is held out; the check says so where it is the one of use."""
    source = write(tmp_path, [GOOD, line(text("q"))])
    keys_2 = drained(open_rows(source)).keys()
    splits = {seed: is_held_out(keys_2, 0.5, seed).tolist() for seed in range(20)}
    for apart in ([True, False], [False, True]):
        seed = next(seed for seed, split in splits.items() if split == apart)
        sets = "data.held_out=0.5", f"data.seed={seed}"
        trained = train("posttrain", source, tiny_folder, *sets)
        checked = orthus(
            *("data", "check", source, "-m", tiny_folder), *(f"--set={each}" for each in sets)
        )
        for said in (trained.stderr, checked.stderr):
            assert ("all that can be used are held out" in said) == apart[0]
        assert trained.exit_code == apart[0]
        assert f"{source}:2: there is nothing to learn" in checked.stderr
        assert checked.exit_code == 1


def test_words_alone_are_nothing_to_pretrain_an_autoencoder_on(tmp_path, tiny_folder):
    source = write(tmp_path, [line(text("q"), text("an answer", "model"))] * 3)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('command = "pretrain"\n[tokenizer]\nrows = 40\n')
    checked, _ = check(source, None, "--recipe", recipe)
    changes = [f"--set={one}" for one in (*SHORT, "tokenizer.rows=40", f"data.source={source}")]
    trained = orthus("pretrain", "-o", tmp_path / "trained", *changes)
    for done in (checked, trained):
        assert done.exit_code == 1 and "there are no pictures to train on" in done.stderr
        assert str(source) in done.stderr and "add rows with pictures" in done.stderr
    assert check(source, tiny_folder)[0].exit_code == 0, "posttrain learns the words"
    recipe.write_text('command = "pretrain"\n[autoencoder]\ntaken_from = "mini"\n')
    assert check(source, None, "--recipe", recipe)[0].exit_code == 0


ROWS = {
    "half a prompt": (line(text(HALF), image()), "no Unicode"),
    "half an answer": (line(text("q"), text("\udc00 a", "model")), "no Unicode"),
    "half a path": (line(image(f"{HALF}.png")), "the path is no Unicode"),
    "half an id": (line(text("a"), image(), id=HALF), "the id is no Unicode"),
    "half a source": (line(text("a"), image(), source=HALF), "the source is no Unicode"),
    "a whole pair": (line(text("\U0001f642"), image()), None),
    "NUL in a text": (line(text("a\0b"), image()), None),
    "NUL in a path": (line(image("a\0.png")), "NUL"),
    "special tokens": (line(text("<image> <racm3:break> </s>"), image()), None),
    "only the user's": (line(text("q")), "nothing to learn"),
    "an empty answer": (line(text("q"), text("", "model")), "nothing to learn"),
    "a blank answer": (line(text("q"), text(" \t\u200b\ufeff\u00a0", "model")), "nothing to learn"),
    "an emoji for an answer": (line(text("q"), text("\U0001f642", "model")), None),
    "no prompt": (line(image()), None),
    "an empty prompt": (line(text(""), image()), None),
    "too long": (line(text("cup " * 400), image()), "the context"),
    "a number": (line(text(5), image()), "int, not text"),
    "NaN": (line(text(float("nan")), image()), "float, not text"),
    "nothing": (line(text(None), image()), "NoneType, not text"),
    "a list": (line(text(["a"]), image()), "list, not text"),
    "no segments": (line(), "at least one segment"),
    "a key twice": ('{"segments": [], ' + GOOD[1:], "'segments' is there twice"),
    "a huge number": ('{"id": ' + "9" * 5000 + ", " + GOOD[1:], "no JSON"),
    "model first": (line(image(), text("a")), None),
    "records in a record": (line({"segments": [text("a")]}), "segment type None"),
    "no object": ('["a"]', "not an object"),
    "base64 beyond ASCII": (
        line({"type": "image", "role": "model", "bytes": "\u00e9"}),
        "no base64",
    ),
    "a truncated picture": (line(image("cut.png")), "cut.png"),
    "an empty picture": (line(image("empty.png")), "empty.png"),
    "a bomb": (line(image("bomb.png")), "bomb.png"),
    "no such picture": (line(image("gone.png")), "gone.png"),
    "a picture without rows": (line(image("zero.png")), "zero.png"),
    "a picture of the user's": (line(image(role="user"), text("q")), None),
}
NAMES = list(ROWS)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A record of each kind, a line each."""
    source = write(tmp_path_factory.mktemp("many"), [row for row, _ in ROWS.values()])
    whole = (source.parent / "cup.png").read_bytes()
    broken = {"cut": whole[:-30], "empty": b"", "bomb": png(60000, 60000), "zero": png(0, 5)}
    for name, content in broken.items():
        (source.parent / f"{name}.png").write_bytes(content)
    return source


@pytest.fixture(scope="module")
def verdicts(many, tiny_folder, request) -> dict[str, str | None]:
    """What the check finds wrong with each."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setattr("orthus_core.data.formats.reading.FAULTS_KEPT", 100)
    _, told = check(many, tiny_folder)
    found = {fault["line"]: fault["problem"] for fault in told["first_bad"]}
    assert told["usable"] + told["bad"] == len(ROWS) == told["usable"] + len(found)
    return {name: found.get(number) for number, name in enumerate(NAMES, start=1)}


@pytest.mark.parametrize("name", NAMES)
def test_each_kind_of_row_is_used_or_named(verdicts, name):
    wanted, found = ROWS[name][1], verdicts[name]
    assert (found is None) if wanted is None else (found is not None and wanted in found)


@pytest.mark.parametrize(
    ("command", "sets"),
    [
        ("posttrain", ()),
        ("posttrain", ("objective=understanding",)),
        ("posttrain", ("objective=generation", "data.own_pictures=true")),
        ("posttrain", ("lambda_image=0.0",)),
        ("build-base", ()),
        ("finetune-vae", ()),
    ],
)
def test_a_training_leaves_out_what_the_check_names(
    many, tiny_folder, tmp_path, monkeypatch, command, sets
):
    monkeypatch.setattr("orthus_core.data.formats.reading.FAULTS_KEPT", 100)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'command = "{command}"\n')
    words = [word for one in sets for word in ("--set", one)]
    _, told = check(many, tiny_folder, "--recipe", recipe, *words)
    trained = train(command, many, tiny_folder, *sets)
    assert trained.exit_code == 0, trained.output
    prefix = f"  {many}:"
    left_out = [row for row in trained.stderr.splitlines() if row.startswith(prefix)]
    numbers = sorted(int(row.removeprefix(prefix).partition(":")[0]) for row in left_out)
    assert numbers == bad_lines(told)
    # And these are what the training has no use for.
    names = {NAMES[number - 1] for number in numbers}
    learned = {
        "no prompt": "objective=understanding" not in sets and "lambda_image=0.0" not in sets,
        "an emoji for an answer": command == "posttrain" and "objective=generation" not in sets,
        "a picture of the user's": command != "posttrain" or not sets,
    }
    assert {name: name not in names for name in learned} == learned


def test_pretrain_checks_with_the_tokenizer_that_it_trains(tmp_path):
    strange = "".join(random.Random(0).choices("abcdefghijklmnop", k=2000))
    source = write(tmp_path, [GOOD, line(text("q")), line(text(strange), image())])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'command = "pretrain"\n[tokenizer]\nvocab_size = 300\nrows = 40\n'
        "[autoencoder]\nresolution = 16\nchannel_multiplier = [1, 1]\nnum_embeddings = 16\n"
    )
    done, told = check(source, None, "--recipe", recipe)
    assert bad_lines(told) == [2, 3] and told["training"] == "pretrain"
    told = check(source, None, "--recipe", recipe, "--set", "tokenizer.vocab_size=3000")[1]
    assert bad_lines(told) == [2], "the tokenizer has learned the pairs"


def test_a_recipe_of_no_training_is_refused(tmp_path):
    (tmp_path / "recipe.toml").write_text('command = "generate"\n')
    done = orthus("data", "check", write(tmp_path, [GOOD]), "--recipe", tmp_path / "recipe.toml")
    assert done.exit_code == 1 and "generate is no training" in done.stderr


def test_pictures_are_checked_at_the_size_that_they_are_trained_at(tmp_path):
    Image.new("RGB", (1, 2000)).save(tmp_path / "thin.png")
    thin = Document(turn("model", FilePicture(tmp_path / "thin.png")))

    def bad(side: int) -> int:
        reading = ReadResult(documents=[thin])
        list(reading.check_pictures(side))
        return reading.fault_count

    assert (bad(64), bad(512)) == (0, 1)


def test_metadata_with_what_no_tokenizer_or_disk_takes_is_named(tmp_path, tiny_folder):
    source = write(tmp_path / "set", [])
    source.unlink()
    rows = [
        {"file_name": "cup.png", "text": "a cup"},
        {"file_name": "cup.png", "text": f"a cup {HALF}"},
        {"file_name": f"{HALF}.png", "text": "a cup"},
        {"file_name": "cup\0.png", "text": "a cup"},
        {"file_name": "c" * 300 + ".png", "text": "a cup"},
    ]
    (source.parent / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done, told = check(source.parent, tiny_folder)
    assert done.exit_code == 1 and bad_lines(told) == [2, 3, 4, 5] and told["usable"] == 1


def test_a_row_that_the_tokenizer_cannot_read_is_named_and_never_a_bare_error(tiny_folder):
    opened = open_orthus(tiny_folder, device="cpu")
    encode = row_encoder(opened.processor.tokenizer, opened.model.config)  # type: ignore[union-attr]
    document = Document(turn("user", "a cup") + turn("model", "yes"))
    reading = ReadResult(documents=[document], where=Path("set"))

    def breaks(*_, **__):
        raise TypeError("TextEncodeInput must be Union")

    encode.keywords["tokenizer"] = breaks  # type: ignore[attr-defined]
    list(reading.check(encode, "rows"))
    assert reading.fault_count == 1 and "TextEncodeInput" in reading.faults[0].problem

    class Careless:
        """Reads special tokens in a text as such, as slow tokenizers do."""

        def __call__(self, text, **_):
            return type("Ids", (), {"input_ids": [opened.model.config.image_token_id]})

        def convert_ids_to_tokens(self, token_id):
            return "<image>"

    encode.keywords["tokenizer"] = Careless()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="'<image>' in the text as a special token"):
        encode(document)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_after_the_check_is_named_with_its_record(
    tmp_path, tiny_folder, workers
):
    from orthus_core.data.formats.sniff import read

    documents = read(write(tmp_path, [GOOD])).documents
    opened = open_orthus(tiny_folder, device="cpu")
    vq, tokenizer = opened.model.model.vqmodel, opened.processor.tokenizer  # type: ignore[union-attr]
    cache = feature_cache(vq, opened.model.encode_images, tmp_path)
    builder = orthus_batch_builder(DataRecipe(), opened.model.config, tokenizer, cache)
    rows = [builder.encode(documents[0])]
    (tmp_path / "cup.png").write_bytes(b"gone bad")
    with pytest.raises(DataError) as told:
        (builder.loaded if workers else builder.collate)(rows)
    assert told.value.where == f"{tmp_path / 'records.jsonl'}:1, {tmp_path / 'cup.png'}"
