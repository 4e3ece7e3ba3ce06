"""`finetune`: pictures of one's own are drawn, asked about, known as words and shown on the way."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from orthus_core import Orthus
from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.data.caption_rows import RowsBothWays, asked
from orthus_core.data.document import Document, Place, turn
from orthus_core.data.known_words import KnownWords
from orthus_core.data.latent_cache import FeatureCache
from orthus_core.data.pictures import FilePicture
from orthus_core.data.row_faults import RowFault, RowFaults
from orthus_core.data.rows import LoadedRows
from orthus_core.errors import DataError, TrainingError
from orthus_core.events import StepDone
from orthus_core.losses import kept_predictions
from orthus_core.losses.kept_predictions import KeepingLoss
from orthus_core.recipe import load
from orthus_core.recipe.training import PosttrainRecipe, TaskWeights
from orthus_core.train import batches, sample_grid
from orthus_core.train.batches import read_rows, row_encoder, training_rule, usable
from orthus_core.train.caption_words import sample_words, words_after
from orthus_core.train.redrawn import with_redrawn
from orthus_core.train.trainings import posttrain
from tests.core.toy_data import finished, picture

MINI = Path(__file__).parents[2] / "orthus_core" / "starter" / "mini"
CREATURES = ("zorble", "quimp", "flonk", "mirp")
REDRAWN = ("redrawn=true", "data.rows=4", "data.tasks={text_to_image=1, scene_question=1}")
SHORT = ("optim.steps=1", "optim.batch_size=4", "log.sample_every=0", "repeats=1")


@pytest.fixture(scope="module")
def creatures(tmp_path_factory) -> Path:
    """Twelve pictures of four creatures, three of each with the same words."""
    folder = tmp_path_factory.mktemp("own") / "creatures"
    folder.mkdir()
    for number in range(12):
        picture(number).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"a {CREATURES[number % 4]} waddling")
    return folder


@pytest.fixture(scope="module")
def model(tiny_folder, tmp_path_factory) -> Path:
    """A tiny model that knows and lists the words of mini."""
    folder = tmp_path_factory.mktemp("models") / "listing"
    shutil.copytree(tiny_folder, folder)
    for name in ("vocabulary.txt", "words.json"):
        shutil.copy(MINI / name, folder)
    return folder


def recipe(creatures: Path, *sets: str) -> PosttrainRecipe:
    return load(PosttrainRecipe, "finetune", [f"data.sources.0.path={creatures}", *sets])


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {n: w for file in folder.glob("*.safetensors") for n, w in load_file(file).items()}


def known_words(folder: Path) -> KnownWords:
    known = KnownWords.of(folder)
    assert known is not None
    return known


def test_words_and_picture_are_learnt_in_both_directions(tmp_path):
    shown = FilePicture(tmp_path / "a.png")
    pair = Document(turn("user", "a zorble") + turn("model", shown), "pair")
    edit = Document(turn("user", shown, "mirror it") + turn("model", shown), "edit")
    rows = RowsBothWays(LoadedRows([pair, edit]))
    question = Document(turn("user", shown, "What is this?") + turn("model", "a zorble"), "pair")
    assert [rows.document(number) for number in range(len(rows))] == [pair, question, edit, edit]
    assert asked(question, "And this?") == question
    often = RowsBothWays(LoadedRows([pair, edit]), drawings=3)
    assert [often.document(n) for n in range(len(often))] == [pair] * 3 + [question] + [edit] * 4
    assert len({rows.identity, often.identity}) == 2
    alone = LoadedRows([pair, edit])
    # So a picture that is held out is not asked about either.
    assert np.array_equal(rows.keys(), alone.keys()[[0, 0, 1, 1]])
    assert rows.identity != alone.identity


def test_a_recipe_asks_about_its_own_pictures_and_mixes_the_small_world_in(creatures):
    rows = finished(read_rows(recipe(creatures, "data.sources.0.held_out=0.3").data))
    kinds = {"drawn": 0, "asked": 0, "sprites": 0}
    for number in range(200):
        document = rows.train(number)
        drawn = document.segments[-1].type == "image"
        own = document.source == "own"
        kinds[("drawn" if drawn else "asked") if own else "sprites"] += 1
    assert kinds["drawn"] > 30 and kinds["asked"] > 30 and kinds["sprites"] > 30

    def pictures(part) -> set[str]:
        return {part.rows.document(int(number)).id for number in part.numbers_N}

    ((own, _), (apart, _)) = rows.train.parts, rows.held_out.parts
    # Each of the twelve is drawn twice as often as it is asked about.
    assert len(own) + len(apart) == 36 and not pictures(own) & pictures(apart)
    every = finished(read_rows(recipe(creatures).data))
    assert len(every.train.parts[0]) == 36
    assert [part.name for part in every.held_out.parts] == ["small world"]


def test_a_record_that_comes_both_ways_is_one_that_cannot_be_used(creatures, tmp_path):
    own = shutil.copytree(creatures, tmp_path / "own")
    (own / "03.png").write_bytes(b"no picture")

    def rule(document: Document) -> None:
        if any("quimp" in str(segment.value) for segment in document.segments):
            raise DataError("no quimps")

    rows = finished(read_rows(recipe(own).data))
    rows = finished(usable(rows, rule))
    assert rows.faults.counts == {"own": 1 + 3} and len(rows.train.parts[0]) == 36 - 3 * 4

    # One way may be used in part, and the other not at all.
    faults, place = RowFaults(), Place(own, part="cat")
    faults.add(RowFault("own", 0, place, "", is_cut=True))
    faults.add(RowFault("own", 1, place, "no room for the picture"))
    assert faults.counts == faults.cut == {"own": 1}


def test_the_small_worlds_pictures_are_those_that_the_model_draws_before_it_is_trained(
    model, creatures, tmp_path, monkeypatch
):
    loaded, looked_up = [], []
    load, look_up = FilePicture.load, FeatureCache.__call__
    monkeypatch.setattr(
        FilePicture, "load", lambda self, size: loaded.append(self.path) or load(self, size)
    )
    monkeypatch.setattr(
        FeatureCache,
        "__call__",
        lambda self, pictures: looked_up.extend(pictures) or look_up(self, pictures),
    )
    # The first step is large, so that a picture drawn after it would be another one.
    few = (*REDRAWN, "optim.lr=1", "optim.warmup_steps=0", "optim.steps=2")
    for _ in posttrain(recipe(creatures, *SHORT, *few), model, tmp_path / "mine"):
        pass
    rows = finished(read_rows(recipe(creatures, *REDRAWN).data))
    made = [rows.train.parts[1].make(number) for number in range(4)]
    asked_for = {n: str(d.segments[0].value) for n, d in enumerate(made) if draws_words(d)}
    files = sorted((tmp_path / "mine.training" / "redrawn").glob("*/*.png"))
    assert [int(file.stem.partition("-")[2]) for file in files] == [*asked_for]
    assert {FilePicture(file) for file in files} <= {*looked_up}, "they are learnt"
    assert not {*files} & {*loaded}, "by the features that were drawn"
    start = Orthus.open(model, device="cpu", dtype="fp32")
    drawn = start.generate([*asked_for.values()], seed=[*asked_for])
    for file, expected in zip(files, drawn.images, strict=True):
        assert np.abs(np.asarray(Image.open(file), float) - np.asarray(expected, float)).max() <= 1

    changed, wanted = with_redrawn(rows, 4, tmp_path)
    again = [changed.train.parts[1].make(number) for number in range(8)]
    assert again[:4] == again[4:]
    for number, (before, after) in enumerate(zip(made, again, strict=False)):
        assert (before == after) == (number not in asked_for)
    assert [each.words for each in wanted] == [*asked_for.values()]
    alone = finished(read_rows(recipe(creatures, "data.sources.1.weight=0").data))
    with pytest.raises(TrainingError, match="none can be redrawn"):
        with_redrawn(alone, 4, tmp_path)


@pytest.mark.parametrize("more", [(), REDRAWN], ids=["true pictures", "redrawn"])
def test_pictures_of_the_small_world_alone_leave_the_model_as_it_is(
    model, creatures, tmp_path, monkeypatch, more
):
    """Every prediction is the model's own, so nothing draws it away, at any learning rate."""
    weights = []

    def recorded(*model, weight: float, words_weight: float, **options) -> KeepingLoss:
        weights.append((weight, words_weight))
        return KeepingLoss(*model, weight=weight, words_weight=words_weight, **options)

    monkeypatch.setattr(kept_predictions, "KeepingLoss", recorded)
    alone = (*more, "data.sources.0.weight=0")
    rest = ("text_weight=0", "optim.weight_decay=0", "optim.lr=1", "optim.warmup_steps=0")
    changed = recipe(creatures, *SHORT, *alone, *rest, "optim.batch_size=16")
    for _ in posttrain(changed, model, tmp_path / "same"):
        pass
    before, after = (weights_of(folder) for folder in (model, tmp_path / "same"))
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    asked = recipe(creatures)
    assert weights == [(asked.kept_predictions, asked.kept_words)], "as much as the recipe says"


def test_the_recipe_leaves_unknown_words_their_meaning_and_practises_all_kinds_of_rows(creatures):
    """mini passes over words that it does not know, and new names are such words."""
    shipped = recipe(creatures)
    (_, of_recipe) = finished(read_rows(shipped.data)).train.parts
    (_, plain) = finished(read_rows(recipe(creatures, "data.fillers=0").data)).train.parts
    assert [of_recipe.make(n) for n in range(200)] == [plain.make(n) for n in range(200)]
    kinds = {of_recipe.make(n).id.partition("/")[0] for n in range(1000)}
    assert kinds == {*asdict(TaskWeights())} - {"copy"}
    assert shipped.input_noise > 0.5 and shipped.input_noise_of == "drawn"
    # What mini knew is held while yours are learnt, and the weights are led back at the end.
    assert shipped.kept_predictions > 0 and shipped.kept_words > 0
    assert 0.5 < shipped.interpolation < 1


def test_own_pictures_are_not_among_those_that_are_kept(model, creatures, tmp_path):
    """A model that is held where it is by its own pictures would never learn them."""
    alone = ("data.sources.1.weight=0", "data.sources.0.also_captions=false")
    rest = ("text_weight=0", "optim.weight_decay=0", "optim.lr=1", "optim.warmup_steps=0")
    for _ in posttrain(recipe(creatures, *SHORT, *alone, *rest), model, tmp_path / "mine"):
        pass
    before, after = (weights_of(folder) for folder in (model, tmp_path / "mine"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_predictions_are_kept_by_workers_batches_as_without_workers(model, creatures, tmp_path):
    few = (*REDRAWN, "data.encode_first=false", "optim.steps=2", "optim.warmup_steps=0")

    def losses(workers: int) -> list[dict]:
        asked = recipe(creatures, *SHORT, *few, f"data.workers={workers}")
        events = posttrain(asked, model, tmp_path / f"{workers}")
        return [dict(event.metrics) for event in events if isinstance(event, StepDone)]

    assert losses(1) == losses(0)


def test_limits_of_norms_are_measured_once_the_pictures_are_drawn(model, creatures, tmp_path):
    few = (*REDRAWN, "sampling.patch_norm=measured", "data.sources.0.weight=0")
    for _ in posttrain(recipe(creatures, *SHORT, *few), model, tmp_path / "mine"):
        pass
    low, high = Orthus.open(tmp_path / "mine", device="cpu").model.config.sampling["patch_norm"]
    assert 0 < low < high


def test_a_branch_learns_the_pictures_that_its_source_has_drawn(model, creatures, tmp_path):
    few = (*REDRAWN, "optim.lr=0.01", "optim.warmup_steps=0", "optim.steps=3")

    def losses(name: str, stop_after: int = 3, **options) -> list[dict]:
        seen: list[dict] = []
        events = posttrain(
            recipe(creatures, *SHORT, *few),
            model,
            tmp_path / name,
            should_stop=lambda: stop_after == len(seen) < 3,
            **options,
        )
        for event in events:
            if isinstance(event, StepDone):
                seen.append(dict(event.metrics))
        return seen

    whole = losses("whole")
    begun = losses("begun", stop_after=1)
    assert begun + losses("branch", resume=tmp_path / "begun") == whole
    both = [(tmp_path / f"{name}.training" / "redrawn") for name in ("begun", "branch")]
    names = [sorted(file.name for file in folder.glob("*/*.png")) for folder in both]
    assert names[0] == names[1] != []
    shutil.rmtree(both[0])
    with pytest.raises(TrainingError, match="not all there") as caught:
        losses("begun", resume=True)
    assert str(both[0]) in caught.value.where
    with pytest.raises(TrainingError, match="not all there"):
        losses("other", resume=tmp_path / "begun")


def draws_words(document: Document) -> bool:
    """Whether a document is of words and the picture that is drawn for them."""
    return [each.type for each in document.segments] == ["text", "image"]


def test_a_model_knows_the_words_that_it_was_trained_on_further(model, creatures, tmp_path):
    before = known_words(model)
    assert [each.word for each in before.unknown("a zorble waddling")] == ["zorble", "waddling"]
    assert before.exceeds("a zorble waddling")
    for _ in posttrain(recipe(creatures, *SHORT), model, tmp_path / "mine"):
        pass
    known = known_words(tmp_path / "mine")
    assert known.unknown("a zorble waddling") == [] and not known.exceeds("a zorble waddling")
    assert known.phrases > before.phrases, "what it knew it knows"
    assert [each.word for each in known.unknown("a blorb")] == ["blorb"]
    assert known.listed is not None and known.listed.lists["captions"] == [
        f"a {creature} waddling" for creature in CREATURES
    ]
    assert "captions" not in json.loads((model / "words.json").read_text())


def test_samples_on_the_way_show_the_own_captions_first(creatures):
    rows = finished(read_rows(recipe(creatures).data))
    own = tuple(f"a {creature} waddling" for creature in CREATURES)
    assert sample_words(rows) == (*own, *sample_grid.WORDS[:8])
    made = finished(read_rows(PosttrainRecipe().data))
    assert sample_words(made) == sample_grid.WORDS


def test_samples_are_drawn_for_captions_that_a_model_can_read(tiny_folder, tmp_path, monkeypatch):
    """Rows of a large data set are not checked before, and the training passes some over."""
    monkeypatch.setattr(batches, "WHOLE", 0)
    picture(0).save(tmp_path / "0.png")
    drawn = {"type": "image", "role": "model", "path": "0.png"}
    rows = [
        {"segments": [{"type": "text", "role": "user", "value": words}, drawn]}
        for words in ("a zorble", " \n", "word " * 900, "a quimp")
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, rows)))
    opened = open_orthus(tiny_folder, dtype="fp32")
    asked = recipe(tmp_path / "records.jsonl", "data.sources.0.also_captions=false")
    encode = row_encoder(opened.processor.tokenizer, opened.model.config)
    read = finished(usable(finished(read_rows(asked.data)), training_rule(asked, encode)))
    assert len(read.train.parts[0]) == 4, "none was left out before"
    found = sample_words(read)
    assert {*found[:2]} == {"a zorble", "a quimp"} and found[2:] == sample_grid.WORDS[:10]
    files = words_after(MINI, read)
    assert "a quimp" in files["words.json"] and "word word" not in files["words.json"]
