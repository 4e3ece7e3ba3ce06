"""Which rows a training reads and which it is measured with, and how they become batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.data.document import Document, turn
from orthus_core.data.encode import UNCONDITIONAL_PROMPT
from orthus_core.data.latent_cache import FeatureCache
from orthus_core.data.pictures import FilePicture
from orthus_core.data.sources import Mixture
from orthus_core.errors import DataError, TrainingError
from orthus_core.losses.joint import counts_of
from orthus_core.recipe.training import DataRecipe, PosttrainRecipe, SourceRecipe, TaskWeights
from orthus_core.train.batches import (
    RowBatches,
    RowSources,
    last_picture,
    orthus_batch_builder,
    read_rows,
    usable,
)
from orthus_core.train.distributed import Rank
from orthus_core.train.encode_first import pictures_of
from orthus_core.train.features import feature_cache
from orthus_core.train.picture_source import read_pictures
from orthus_core.world.world import World
from tests.core.test_world_held_out import shows_held_out
from tests.core.toy_data import finished, interleaved, picture, pictures_with_words, words

COUNT = 20


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return interleaved(tmp_path_factory.mktemp("data") / "mixed", COUNT)


@pytest.fixture(scope="module")
def opened(tiny_folder):
    return open_orthus(tiny_folder, device="cpu", dtype="fp32")


def read(source: Path | str, **changes) -> RowSources:
    return finished(read_rows(DataRecipe(source=str(source), held_out=0.2, **changes)))


def ids_of(source: Mixture | None, count: int) -> list[str]:
    assert source is not None
    return [source(number).id for number in range(count)]


def epoch(source: Mixture | None) -> list[str]:
    """The rows of a data set in order, each once."""
    assert source is not None
    return [each.document.id for each in source.once()]


def parts(rows: RowSources) -> tuple[list[str], list[str]]:
    """An epoch of what is trained on, and one of what is held out, in order."""
    return epoch(rows.train), epoch(rows.held_out)


def test_a_document_is_either_trained_on_or_held_out(source):
    trained, held_out = parts(read(source))
    assert 1 <= len(held_out) <= 8
    assert sorted(map(int, trained + held_out)) == list(range(COUNT))
    assert parts(read(source)) == (trained, held_out)
    others = parts(read(source, seed=1))
    assert sorted(others[0]) != sorted(trained), "another seed is another split"
    assert finished(read_rows(DataRecipe(source=str(source), held_out=0.0))).held_out is None


def test_the_order_of_an_epoch_is_the_seeds(source):
    def order(seed):
        data = DataRecipe(source=str(source), held_out=0.0, seed=seed)
        return ids_of(finished(read_rows(data)).train, COUNT)

    assert sorted(order(0)) == sorted(order(1)) and order(0) != order(1)


def test_leaving_documents_out_moves_none_from_one_part_to_the_other(source):
    rows = read(source)
    trained, held_out = parts(rows)
    unusable = {trained[3], held_out[0]}

    def check(document: Document) -> None:
        if document.id in unusable:
            raise DataError("too long", where=document.id)

    left = parts(finished(usable(rows, check)))
    assert set(left[0]) == set(trained) - unusable and len(left[0]) == len(trained) - 1
    assert set(left[1]) == set(held_out) - unusable and len(left[1]) == len(held_out) - 1
    with pytest.raises(DataError, match="too long"):
        finished(usable(read(source, strict=True), check))


@pytest.mark.parametrize("also_captions", [False, True])
def test_only_the_first_rows_of_a_source_are_read_where_the_recipe_says_so(source, also_captions):
    few = SourceRecipe(path=str(source), first=7, also_captions=also_captions)
    trained, held_out = parts(finished(read_rows(DataRecipe(sources=(few,), held_out=0.2))))
    assert {int(name.split(":")[0]) for name in trained + held_out} == set(range(7))
    pictures = finished(read_pictures(DataRecipe(sources=(few,), held_out=0.0), 16))
    assert len(pictures.sources[0]) == 7
    more = SourceRecipe(path=str(source), first=COUNT + 1)
    assert len(parts(finished(read_rows(DataRecipe(sources=(more,), held_out=0.2))))[0]) > 7


def test_sprites_that_are_held_out_are_never_trained_on():
    rows = read("sprites", tasks=TaskWeights(caption=0.0))
    world = World.open(held_out=0.2)

    def held_out(source, count: int) -> list[bool]:
        return [shows_held_out(world, last_picture(source(number))) for number in range(count)]

    assert not any(held_out(rows.train, 200)) and all(held_out(rows.held_out, 50))
    assert finished(read_rows(DataRecipe(held_out=0.0))).held_out is None


def test_training_begins_with_rows_of_the_first_tasks():
    singles, scenes = TaskWeights(caption=0), TaskWeights(text_to_image=0, caption=0, scene=1)
    how = {"tasks": scenes, "first_tasks": singles, "rows": 3}
    rows = read("sprites", first_rows=5, **how)
    ids = [rows.train(number).id for number in range(12)]
    of_scenes = [f"scene/0/{number}" for number in (0, 1, 2, 0, 1, 2, 0)]
    assert ids == [f"text_to_image/0/{number}" for number in (0, 1, 2, 0, 1)] + of_scenes
    assert rows.held_out, "some rows are made for measuring"
    measured = {rows.held_out(number).id.partition("/")[0] for number in range(8)}
    assert measured == {"scene"}, "what counts is the mixture that the training ends with"
    assert [read("sprites", **how).train(number).id for number in range(7)] == of_scenes

    recipe = DataRecipe(first_rows=5, **how)
    (encoded,) = pictures_of(rows, recipe.different_rows)
    of_encoded = {encoded.document(int(number)).id for number in encoded.numbers_N}
    assert of_encoded == set(ids), "pictures of both mixtures are encoded beforehand"
    assert DataRecipe(first_rows=5).different_rows == 0
    with pytest.raises(ValueError, match="first_rows = 0"):
        PosttrainRecipe(redrawn=True, data=recipe)


def test_made_rows_come_round_again_when_they_are_told_to():
    few, endless = read("sprites", rows=5), read("sprites")
    assert ids_of(few.train, 12) == (ids_of(endless.train, 5) * 3)[:12]
    assert len(set(ids_of(endless.train, 12))) == 12


def test_build_base_learns_to_draw_the_last_picture(source):
    first, last = (FilePicture(source.with_name(name)) for name in ("000.png", "001.png"))
    edit = Document(turn("user", first, "mirror it") + turn("model", last))
    asked = Document(turn("user", first, "what is this?") + turn("model", "a cat"))
    assert last_picture(edit) is last and last_picture(asked) is first
    with pytest.raises(DataError, match="no picture"):
        last_picture(Document(turn("user", "hello") + turn("model", "you")))


def features(pictures) -> Tensor:
    return torch.ones(len(pictures), 4, 8)


def laid(opened, source: Path, batch_size: int = 3, validate_rows: int = 64, **changes):
    """Batches of the source, its rows and how a document is encoded."""
    data = DataRecipe(source=str(source), held_out=0.5, **changes)
    rows = finished(read_rows(data))
    batch_builder = orthus_batch_builder(
        data, opened.model.config, opened.processor.tokenizer, features
    )
    return batch_builder.batches(rows, data, batch_size, validate_rows), rows, batch_builder


def said(opened, batches: RowBatches, steps: int) -> list[str]:
    """The texts of the batches, row by row."""
    tokenizer = opened.processor.tokenizer
    return [
        tokenizer.decode(row_S[mask_S > 0], skip_special_tokens=True)
        for batch in map(batches.train, range(steps))
        for row_S, mask_S in zip(batch.ids_BS, batch.attention_mask_BS, strict=True)
    ]


def test_rows_without_end_keep_no_features(opened, tmp_path):
    def first_batch(rows: int) -> tuple[Tensor, FeatureCache]:
        data = DataRecipe(packing=True, rows=rows)
        vq = opened.model.model.vqmodel
        cache = feature_cache(vq, vq.features, tmp_path / str(rows))
        builder = orthus_batch_builder(data, opened.model.config, opened.processor.tokenizer, cache)
        batches = builder.batches(finished(read_rows(data)), data, batch_size=4, validate_rows=0)
        return batches.train(0).features_NC, cache

    (again, kept), (endless, none) = first_batch(rows=8), first_batch(rows=0)
    assert torch.equal(again, endless)
    assert len(kept) == 4 and len(none) == 0


@pytest.mark.parametrize("validate_rows", [64, 7, 2])
def test_held_out_rows_are_measured_each_once_and_no_others(opened, source, validate_rows):
    batches, rows, batch_builder = laid(opened, source, validate_rows=validate_rows)
    assert rows.held_out is not None
    documents = [each.document for each in rows.held_out.once()][:validate_rows]
    assert validate_rows > len(documents) > 7 or len(documents) == validate_rows
    measured = batches.held_out()
    sizes = [len(batch.ids_BS) for batch in measured]
    assert set(sizes[:-1]) <= {3} and sum(sizes) == len(documents)
    wanted = [batch_builder.encode(document).ids for document in documents]
    assert [
        row_S[mask_S > 0].tolist()
        for batch in measured
        for row_S, mask_S in zip(batch.ids_BS, batch.attention_mask_BS, strict=True)
    ] == wanted


def test_processes_share_what_is_measured(opened, source, monkeypatch):
    def seeds(shard: int, shards: int) -> list[int]:
        place = Rank(shard, shards)
        monkeypatch.setattr("orthus_core.train.batches.current_rank", lambda: place)
        # A batch of three has a row for each of three processes, and the last one perhaps none.
        batches, _, _ = laid(opened, source, validate_rows=7)
        measured = batches.held_out()
        assert len(measured) == 3 and measured[0].noise_seeds_M is not None
        # What counts for nothing is there for a process without a row.
        counted = [b for b in measured if any(counts_of(b))]
        return [n for b in counted for n in b.noise_seeds_M.tolist()]

    alone = seeds(0, 1)
    assert sorted(alone) == sorted(n for shard in range(3) for n in seeds(shard, 3))


def test_made_rows_are_measured_with_as_many_as_the_recipe_says(opened):
    batches, _, _ = laid(opened, "sprites", validate_rows=4)
    assert [len(batch.ids_BS) for batch in batches.held_out()] == [3, 1]


def test_conditions_are_dropped_in_training_and_never_in_measuring(opened, tmp_path):
    source = pictures_with_words(tmp_path / "pictures", COUNT)
    always, never = (laid(opened, source, condition_dropout=chance)[0] for chance in (1 / 3, 0.0))
    dropped = [text for text in said(opened, always, 8) if UNCONDITIONAL_PROMPT.lower() in text]
    assert len(dropped) > 2
    assert not any(UNCONDITIONAL_PROMPT.lower() in text for text in said(opened, never, 8))
    told = [len(batch.ids_BS[0]) for batch in always.held_out()]
    assert told == [len(batch.ids_BS[0]) for batch in never.held_out()]
    # A source may have a chance of its own.
    for own, of_all, wanted in ((1 / 3, 0.0, always), (0.0, 1 / 3, never)):
        sources = (SourceRecipe(name="own", path=str(source), condition_dropout=own),)
        found = laid(opened, "sprites", condition_dropout=of_all, sources=sources)[0]
        assert said(opened, found, 8) == said(opened, wanted, 8)


def test_rows_are_packed_only_when_the_recipe_says_so(opened, tmp_path):
    texts = ["a red square " * 4, *["a", "is", "so", "go", "no"]]
    lines = [
        {"segments": [{"type": "text", "role": "model", "value": text}], "id": str(number)}
        for number, text in enumerate(texts * 4)
    ]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plain, packed = (
        laid(opened, source, batch_size=11, packing=packing)[0].train(0)
        for packing in (False, True)
    )
    assert len(plain.ids_BS) == 11 > len(packed.ids_BS)
    assert plain.attention_mask_BS.max() == 1 < packed.attention_mask_BS.max()


def test_shown_pictures_are_targets_unless_the_recipe_says_otherwise(opened, source):
    every, own = (
        laid(opened, source, batch_size=10, packing=True, own_pictures=own)[0].train(0)
        for own in (False, True)
    )
    assert every.image_targets_N is None
    # Of drawings, questions and edits the model draws one, none and the second of two.
    train = laid(opened, source)[1].train
    models = [train(number).segments[-1].type == "image" for number in range(10)]
    assert own.image_targets_N is not None
    assert 0 < own.image_targets_N.sum() == sum(models) * 4 < len(own.image_targets_N)


def test_a_row_longer_than_the_models_context_is_refused(opened):
    data = DataRecipe()
    batch_builder = orthus_batch_builder(
        data, opened.model.config, opened.processor.tokenizer, features
    )
    with pytest.raises(DataError, match="the context 256"):
        batch_builder.encode(Document(turn("user", words(0) * 60) + turn("model", "too long")))


def shown_by(
    opened, source: Path, monkeypatch, shard: int, shards: int, **changes
) -> list[list[str]]:
    """The pictures of each step on one of several devices."""
    monkeypatch.setattr("orthus_core.train.batches.current_rank", lambda: Rank(shard, shards))
    batches = laid(opened, source, condition_dropout=0.0, batch_size=4, **changes)[0]
    return [sorted(p.key for p in batches.train(step).pictures) for step in range(2)]


@pytest.mark.parametrize("packing", [True, False])
def test_devices_share_a_step_and_each_has_rows_of_its_own(opened, source, monkeypatch, packing):
    def shown(shard: int, shards: int) -> list[list[str]]:
        return shown_by(opened, source, monkeypatch, shard, shards, packing=packing)

    alone = shown(0, 1)
    for shards in (2, 4):
        each = [shown(shard, shards) for shard in range(shards)]
        for step in range(2):
            assert sorted(key for device in each for key in device[step]) == alone[step]


def test_a_batch_that_the_processes_cannot_share_is_refused(opened, source, monkeypatch):
    with pytest.raises(TrainingError, match="4 rows cannot be shared evenly by 3") as caught:
        shown_by(opened, source, monkeypatch, 0, 3)
    assert "a multiple of 3, such as 6" in caught.value.hint


def test_a_picture_is_either_drawn_from_or_held_out_and_half_are_mirrored(tmp_path):
    folder = pictures_with_words(tmp_path / "pictures", COUNT)
    data = DataRecipe(source=str(folder), held_out=0.2)
    pictures = finished(read_pictures(data, 20))
    apart = len(pictures.held_out_M3HW)
    assert 1 <= apart <= 8
    drawn_M3HW = pictures.draw(400, torch.Generator().manual_seed(0))

    def like(one_3HW: Tensor, some_M3HW: Tensor) -> Tensor:
        return (some_M3HW == one_3HW).flatten(1).all(1)

    for held_3HW in pictures.held_out_M3HW:
        assert not like(held_3HW, drawn_M3HW).any()
        assert not like(held_3HW.flip(-1), drawn_M3HW).any()
    whole = finished(read_pictures(replace(data, held_out=0.0), 20))
    assert len(whole.held_out_M3HW) == 0
    kinds = torch.unique(drawn_M3HW, dim=0)
    assert len(kinds) == 2 * (COUNT - apart), "each as it is and in a mirror"
    as_they_are = sum(any(like(kind, k.flip(-1)[None])[0] for k in kinds) for kind in kinds)
    assert as_they_are == len(kinds)


def test_pictures_of_a_document_are_all_drawn(tmp_path):
    source = interleaved(tmp_path / "mixed", 9)
    picture(9).save(source.with_name("last.png"))
    edit = [
        {"type": "image", "role": "user", "path": "000.png"},
        {"type": "text", "role": "user", "value": "mirror it"},
        {"type": "image", "role": "model", "path": "last.png"},
    ]
    with source.open("a") as file:
        file.write(json.dumps({"segments": edit, "id": "edit"}) + "\n")
    data = DataRecipe(source=str(source), held_out=0.0)
    drawn_M3HW = finished(read_pictures(data, 20)).draw(300, torch.Generator().manual_seed(0))
    assert len(torch.unique(drawn_M3HW, dim=0)) == 2 * 10


def test_processes_share_the_pictures_that_one_would_draw(tmp_path):
    """Of data sets, of the small world, and of both."""
    folder = pictures_with_words(tmp_path / "pictures", COUNT)
    mixed = (SourceRecipe(path=str(folder)), SourceRecipe(path="sprites"))
    for data in (DataRecipe(source=str(folder)), DataRecipe(), DataRecipe(sources=mixed)):
        pictures = finished(read_pictures(data, 16))

        def drawn(own: range | None = None, pictures=pictures) -> Tensor:
            return pictures.draw(8, torch.Generator().manual_seed(0), own)

        whole_M3HW = drawn()
        assert len(torch.unique(whole_M3HW, dim=0)) > 4
        for shards in (2, 4):
            for shard in range(shards):
                own = range(shard, 8, shards)
                assert torch.equal(drawn(own), whole_M3HW[shard::shards])


def test_pictures_of_several_sources_are_drawn_by_weight(tmp_path):
    folder = pictures_with_words(tmp_path / "pictures", 3)
    sources = SourceRecipe(path=str(folder)), SourceRecipe(path="sprites", weight=3.0)
    drawn_M3HW, own_M3HW = (
        finished(read_pictures(DataRecipe(sources=some, held_out=0.0), 16)).draw(
            80, torch.Generator().manual_seed(0)
        )
        for some in (sources, sources[:1])
    )
    own = {each.numpy().tobytes() for each in own_M3HW}
    assert 10 < sum(each.numpy().tobytes() in own for each in drawn_M3HW) < 30


def test_a_picture_that_breaks_is_replaced_and_counted_and_all_broken_ends(tmp_path):
    folder = pictures_with_words(tmp_path / "pictures", 6)
    data = DataRecipe(source=str(folder), held_out=0.0)
    pictures = finished(read_pictures(data, 16))
    (folder / "003.png").write_bytes(b"gone bad")
    drawn_M3HW = pictures.draw(60, torch.Generator().manual_seed(0))
    assert len(torch.unique(drawn_M3HW, dim=0)) == 2 * 5
    assert pictures.faults.counts == {"pictures": 1}
    assert "003.png" in str(pictures.faults.take()[0])
    for number in range(6):
        (folder / f"{number:03}.png").unlink()
    with pytest.raises(DataError, match="no pictures to train on"):
        pictures.draw(1, torch.Generator())
