"""A training on a mixture of data sets: it names broken rows, goes on exactly, and says what it
cannot use.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orthus_cli.app import app
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import read_config
from orthus_core.data.order import is_held_out
from orthus_core.data.sources import Mixture
from orthus_core.errors import OrthusError
from orthus_core.events import Note, StepDone
from orthus_core.recipe import PosttrainRecipe, dump, load
from orthus_core.train import batches as train_batches
from orthus_core.train.batches import read_rows
from orthus_core.train.trainings import posttrain
from tests.core.toy_data import interleaved, picture, pictures_with_words, words

SHORT = ("optim.steps=4", "optim.batch_size=8", "data.held_out=0.1", "log.sample_every=0")
SHORT += ("log.save_every=2", "log.every=1", "log.validate_every=4", "log.validate_rows=8")


def png(number: int) -> bytes:
    content = io.BytesIO()
    picture(number).save(content, "PNG")
    return content.getvalue()


def chats(folder: Path) -> Path:
    """LLaVA's JSON array: a missing picture, and a record without an answer."""
    (folder / "images").mkdir(parents=True)
    records = []
    for number in range(8):
        if number != 2:
            picture(number).save(folder / "images" / f"{number}.png")
        asked = {"from": "human", "value": "<image>\nWhat is it?"}
        told = {"from": "gpt", "value": words(number)}
        records.append(
            {
                "id": number,
                "image": f"images/{number}.png",
                "conversations": [asked, *([told] if number != 5 else [])],
            }
        )
    (folder / "chats.json").write_text(json.dumps(records))
    return folder / "chats.json"


def tar(path: Path) -> Path:
    """WebDataset: a member that is no picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for number in range(8):
            content = png(number) if number != 4 else b"no picture"
            for suffix, data in (("png", content), ("txt", words(number).encode())):
                member = tarfile.TarInfo(f"{number:04}.{suffix}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return path


def metadata(folder: Path) -> Path:
    """A folder with metadata.jsonl: a line that is no JSON."""
    pictures_with_words(folder, 8)
    for text in folder.glob("*.txt"):
        text.unlink()
    lines = [json.dumps({"file_name": f"{n:03}.png", "text": words(n)}) for n in range(8)]
    lines[3] = lines[3][:-9]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[str]:
    """The changes of a recipe that mix five data sets and the small world."""
    folder = tmp_path_factory.mktemp("mixture")
    records = interleaved(folder / "records", 8)
    lines = records.read_text().splitlines()
    records.write_text("\n".join([*lines[:6], '{"segments": []}', *lines[6:]]) + "\n")
    paths = [
        records,
        chats(folder / "llava"),
        tar(folder / "tars" / "00000.tar"),
        metadata(folder / "metadata"),
        pictures_with_words(folder / "captions", 8),
        "sprites",
    ]
    (folder / "captions" / "006.png").write_bytes(png(6)[:90])
    return [
        f"data.sources.{number}.{key}={json.dumps(value)}"
        for number, (path, weight) in enumerate(zip(paths, (3, 3, 3, 3, 4, 1), strict=True))
        for key, value in (("path", str(path)), ("weight", weight))
    ]


BROKEN = ("records.jsonl:7: ", "record 3", "record 6", "0004", "metadata.jsonl:4: ", "006.png")


def trained(
    output: Path, start: Path, sets: Sequence[str], stop_after: int = 0, resume: bool = False
) -> tuple[list[dict], list[str]]:
    """The figures of each step, and the notes."""
    recipe = load(PosttrainRecipe, None, (*SHORT, *sets))
    steps, notes = list[dict](), list[str]()
    for event in posttrain(
        recipe,
        start,
        output,
        resume=resume,
        should_stop=lambda: bool(stop_after) and len(steps) >= stop_after,
    ):
        if isinstance(event, StepDone):
            steps.append(dict(event.metrics))
        elif isinstance(event, Note):
            notes.append(event.message)
    return steps, notes


@pytest.mark.parametrize("whole", [True, False])
def test_a_mixture_trains_resumes_exactly_and_names_its_broken_rows(
    sources, tiny_folder, tmp_path, monkeypatch, whole
):
    """Small data sets are checked before the first step, and large ones on the way."""
    if not whole:
        monkeypatch.setattr(train_batches, "WHOLE", 0)
    sets = (*sources, "optim.steps=8", "optim.batch_size=16") if not whole else sources
    alone, notes = trained(tmp_path / "alone", tiny_folder, sets)
    told = "\n".join(notes)
    for broken in BROKEN:
        assert broken in told, told
    assert [line for line in notes if line.startswith("rows that could not be used: ")] == [
        "rows that could not be used: 00000 1, captions 1, chats 2, metadata 1, records 1; "
        "`orthus data check` says what is wrong with each record"
    ]
    assert any(line.startswith("epochs of each data set: records ") for line in notes)
    lines = (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["unusable/chats"] == 2 and 0 < last["epochs/chats"] < last["epochs/captions"]
    assert "epochs/sprites" not in last

    begun, _ = trained(tmp_path / "parts", tiny_folder, sets, stop_after=2)
    after, later = trained(tmp_path / "parts", tiny_folder, (*sets, "data.workers=2"), resume=True)
    assert begun + after == alone, "with other workers, and to the last bit"
    for broken in BROKEN:
        assert broken in "\n".join(later), "the workers hand over what they met"
    saved = load(PosttrainRecipe, tmp_path / "alone" / "recipe.toml")
    assert saved == load(PosttrainRecipe, None, (*SHORT, *sets))


def test_strict_ends_a_mixture_at_its_first_broken_row(sources, tiny_folder, tmp_path, monkeypatch):
    for whole, workers in ((1000, 0), (0, 0), (0, 2)):
        monkeypatch.setattr(train_batches, "WHOLE", whole)
        sets = (*sources, "data.strict=true", f"data.workers={workers}", "optim.steps=8")
        with pytest.raises(OrthusError) as caught:
            trained(tmp_path / f"{whole}-{workers}", tiny_folder, sets)
        assert any(broken.rstrip(": ") in str(caught.value) for broken in BROKEN)
        assert "Traceback" not in str(caught.value)


def orthus(*said: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in said])


def checked(*said: object) -> tuple[Result, dict]:
    done = orthus("data", "check", *said, "--format", "json")
    return done, json.loads(done.stdout) if done.stdout else {}


def test_data_check_reads_the_sources_of_a_recipe(sources, tiny_folder, tmp_path):
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(dump(load(PosttrainRecipe, None, sources)))
    done, told = checked("--recipe", recipe, "-m", tiny_folder)
    assert done.exit_code == 1 and (told["usable"], told["bad"]) == (8 * 5 - 5, 6)
    bad = {each["name"]: each["bad"] for each in told["sources"]}
    assert bad == {"records": 1, "chats": 2, "00000": 1, "metadata": 1, "captions": 1}
    for broken in BROKEN:
        assert broken in done.stderr


def test_a_large_set_is_sampled_unless_all_of_it_is_asked_for(tiny_folder, tmp_path):
    source = tmp_path / "many.jsonl"
    good = {"segments": [{"type": "text", "role": "model", "value": "a cup"}]}
    lines = [json.dumps(good | {"id": str(number)}) for number in range(2500)]
    lines[7] = lines[1999] = "no JSON"
    source.write_text("\n".join(lines) + "\n")
    done, told = checked(source, "-m", tiny_folder)
    assert (told["rows"], told["read"]) == (2500, 1000) and told["usable"] + told["bad"] == 1000
    assert "--all" in orthus("data", "check", source, "-m", tiny_folder).stdout
    for workers in (0, 2):
        done, told = checked(source, "-m", tiny_folder, "--all", "--workers", workers)
        assert (told["read"], told["usable"], told["bad"]) == (2500, 2498, 2)
        assert [fault["line"] for fault in told["first_bad"]] == [8, 2000] and done.exit_code == 1
    assert orthus("data", "check", source, "-m", tiny_folder, "--all", "--strict").exit_code == 1


def test_a_discrete_training_that_starts_from_a_model_is_checked_with_its_words(tmp_path):
    source = tmp_path / "long.jsonl"
    context = read_config(resolve("chameleon-mini")).max_position_embeddings
    text = {"type": "text", "role": "model", "value": "qzx " * context}
    source.write_text(json.dumps({"segments": [text]}) + "\n")
    of_recipe = f"backbone.max_position_embeddings={20 * context}"
    sets = ("--recipe", "starter/baseline", "--set", of_recipe)
    done, told = checked(source, *sets, "--init-from", "chameleon-mini")
    assert told["model"] == "chameleon-mini" and told["bad"] == 1, done.stderr
    assert "the context" in told["first_bad"][0]["problem"]
    orthus_there, _ = checked(source, *sets, "--init-from", "mini")
    assert orthus_there.exit_code == 1 and "this is an Orthus" in orthus_there.stderr


def test_epochs_and_names_of_sources_follow_from_the_recipe(sources):
    def rows(*sets: str) -> Mixture:
        events = read_rows(load(PosttrainRecipe, None, (*sources, *sets)).data)
        while True:
            try:
                next(events)
            except StopIteration as stop:
                return stop.value.train

    weights = [f"data.sources.{number}.weight={number}" for number in range(6)]
    mixture = rows("data.sources.1.name=llava", *weights)
    assert [part.name for part in mixture.parts] == [
        *("llava", "00000", "metadata", "captions", "sprites"),
    ]
    came = [mixture.order(number)[0] for number in range(2000)]
    assert [came.count(n) for n in range(5)] == [134, 266, 400, 534, 666]


BAD = {
    "no weight": (["data.sources.0.weight=0"], "the weights of the sources sum to 0"),
    "a negative weight": (["data.sources.0.weight=-1"], "data.sources.0.weight must be at least 0"),
    "an endless weight": (["data.sources.0.weight=inf"], "must be a finite number"),
    "no path": (["data.sources.1.weight=1"], "sources.1 names no path"),
    "one name twice": (
        ["data.sources.0.name=a", "data.sources.1={path='HERE', name='a'}"],
        "sources.0 and sources.1 are both named 'a'",
    ),
    "one path twice": (["data.sources.1.path=HERE"], "are both named"),
    "both forms": (["data.source=HERE"], "data.source and data.sources are both set"),
    "a gap": (["data.sources.3.path=HERE"], "there is no data.sources.1"),
    "no number": (["data.sources.one.path=HERE"], "data.sources is a list of tables"),
    "no table": (["data.sources=HERE"], "data.sources is a list of tables"),
    "an unknown key": (["data.sources.0.wieght=2"], "did you mean 'data.sources.0.weight'"),
    "a text for columns": (["data.sources.0.columns=3"], "must be a table of texts"),
    "no such path": (["data.sources.0.path=HERE/gone"], "there is no such file or folder"),
    "no such format": (["data.sources.0.format=tabel"], "there is no data format 'tabel'"),
    "a folder of nothing": (["data.sources.0.path=HERE/empty"], "empty"),
    "nothing usable beside the small world": (
        ["data.sources.0.path=HERE/broken.jsonl", "data.sources.1.path=sprites"],
        "there are no documents to train on",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sources_are_refused_by_name(name, tmp_path, tiny_folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jsonl").write_text("{}\n[]\n")
    here = pictures_with_words(tmp_path / "pictures", 4)
    for gone in ("gone", "empty", "broken.jsonl"):
        shutil.copytree(tmp_path / gone, here / gone) if (tmp_path / gone).is_dir() else None
    shutil.copy(tmp_path / "broken.jsonl", here)
    sets, said = BAD[name]
    sets = [f"data.sources.0.path={here}", *(each.replace("HERE", str(here)) for each in sets)]
    done = orthus(
        *("posttrain", "--init-from", tiny_folder, "-o", tmp_path / "out"),
        *(word for each in (*SHORT, *sets) for word in ("--set", each)),
    )
    assert done.exit_code == 1 and said in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_what_happens_to_a_source_between_two_runs(tiny_folder, tmp_path, monkeypatch):
    """It vanishes, all of it breaks on the way, rows are added, and it is moved."""
    folder = pictures_with_words(tmp_path / "pictures", 12)
    sets = (f"data.sources.0.path={folder}", "data.sources.1.path=sprites", "data.held_out=0")
    trained(tmp_path / "out", tiny_folder, sets, stop_after=1)
    picture(12).save(folder / "012.png")
    (folder / "012.txt").write_text("one more")
    with pytest.raises(OrthusError, match="the saved state was made with rows = 'order 2; "):
        trained(tmp_path / "out", tiny_folder, sets, resume=True)
    (folder / "012.png").unlink()
    (folder / "012.txt").unlink()
    folder.rename(tmp_path / "moved")
    with pytest.raises(OrthusError, match="there is no such file or folder"):
        trained(tmp_path / "out", tiny_folder, sets, resume=True)
    (tmp_path / "pictures").symlink_to(tmp_path / "moved")
    steps, _ = trained(tmp_path / "out", tiny_folder, sets, resume=True)
    assert len(steps) == 3, "it is the same data"

    # A state that an earlier version saved.
    shutil.copytree(tmp_path / "out.training", tmp_path / "old.training")
    for about in (tmp_path / "old.training").glob("states/*/about.json"):
        about.write_text(about.read_text().replace("order 2; ", ""))
    with pytest.raises(OrthusError, match="by an earlier version, which read the rows of data se"):
        trained(tmp_path / "old", tiny_folder, (*sets, "optim.steps=6"), resume=True)

    monkeypatch.setattr(train_batches, "WHOLE", 0)
    for path in (tmp_path / "moved").glob("*.png"):
        path.write_bytes(b"gone bad")
    with pytest.raises(OrthusError, match="none of 12 rows of 'pictures' can be used"):
        trained(tmp_path / "broken", tiny_folder, sets)


def test_a_data_set_of_one_row_is_trained_on(tmp_path):
    folder = pictures_with_words(tmp_path / "pictures", 1)
    sets = ("data.held_out=0.5", f"data.sources.0.path={folder}")
    keys_1 = _opened(sets).parts[0].rows.keys()
    seed = next(seed for seed in range(99) if is_held_out(keys_1, 0.5, seed).all())
    assert len(_opened((*sets, f"data.seed={seed}")).parts[0]) == 1


def _opened(sets: Sequence[str]) -> Mixture:
    events = read_rows(load(PosttrainRecipe, None, (*SHORT, *sets)).data)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value.train
