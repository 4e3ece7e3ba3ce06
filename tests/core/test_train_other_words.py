"""Held-out pictures are also measured with the words of other rows: what words say about them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.data.collate import Batch
from orthus_core.data.document import Document, Segment, turn
from orthus_core.data.pictures import FilePicture
from orthus_core.events import Note, StepDone
from orthus_core.losses.joint import JointLoss, counts_of
from orthus_core.recipe import PosttrainRecipe, load
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.batches import RowBatches, orthus_batch_builder, read_rows
from orthus_core.train.distributed import Rank
from orthus_core.train.loop import validate
from orthus_core.train.other_words import (
    OTHER_WORDS,
    OWN_WORDS,
    is_drawn_from_words,
    with_other_words,
)
from orthus_core.train.stages import RowsStage
from orthus_core.train.trainings import posttrain
from tests.conftest import lines_of_metrics
from tests.core.toy_data import SHORT, finished
from tests.discrete import write_tiny_chameleon

CPU = torch.device("cpu")
OWN, OTHER = f"validation_{OWN_WORDS}", f"validation_{OTHER_WORDS}"
# The words, of different lengths, and the one colour of their pictures.
PLAIN = {"a snowman": (250, 60, 30), "what is this red fox?": (0, 20, 120)}


def records(folder: Path, *, drawn: int = 40, asked: int = 0) -> Path:
    """Plain pictures in words and, of the same pictures, questions and edits."""
    folder.mkdir(parents=True)
    names = []
    for number, colour in enumerate(PLAIN.values()):
        names.append(f"{number}.png")
        Image.new("RGB", (16, 16), colour).save(folder / names[-1])
    lines = []
    for number in range(drawn + asked):
        place = number // 3 % 2
        text = {"type": "text", "role": "user", "value": list(PLAIN)[place]}
        made = {"type": "image", "role": "model", "path": names[place]}
        seen = {"type": "image", "role": "user", "path": names[place]}
        answer = {"type": "text", "role": "model", "value": list(PLAIN)[place]}
        others = ([seen, text, made], [seen, text, answer], [text, answer, made])
        segments = [text, made] if number < drawn else others[number % 3]
        lines.append(json.dumps({"segments": segments, "id": str(number)}))
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "records.jsonl"


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return records(tmp_path_factory.mktemp("data") / "plain", asked=30)


@pytest.fixture(scope="module")
def opened(tiny_folder):
    return open_orthus(tiny_folder, device="cpu", dtype="fp32")


def features(pictures) -> Tensor:
    """Features that tell the two pictures apart."""
    return torch.stack([torch.full((4, 8), float(each.load(1).mean()) / 255) for each in pictures])


def laid(opened, source: Path, *, validate_rows: int = 64, **changes) -> RowBatches:
    data = DataRecipe(source=str(source), held_out=0.5, **changes)
    rows = finished(read_rows(data))
    config, tokenizer = opened.model.config, opened.processor.tokenizer
    builder = orthus_batch_builder(data, config, tokenizer, features)  # type: ignore[arg-type]
    return builder.batches(rows, data, 3, validate_rows)


class Laid(NamedTuple):
    """One row of a batch."""

    words: str
    picture: float
    seed: int


def rows_in(opened, batches: list[Batch]) -> list[Laid]:
    """The rows of batches in which each picture has words before it, in any order of lines."""
    tokenizer, image = opened.processor.tokenizer, opened.model.config.image_token_id
    found = []
    for batch in batches:
        assert batch.features_NC is not None and batch.noise_seeds_M is not None
        pictures = iter(batch.features_NC.unflatten(0, (-1, 4))[:, 0, 0].tolist())
        seeds = iter(batch.noise_seeds_M.tolist())
        for ids_S, numbers_S in zip(batch.ids_BS, batch.attention_mask_BS, strict=True):
            for number in range(1, int(numbers_S.max()) + 1):
                ids = ids_S[numbers_S == number]
                assert (ids == image).sum() == 4, "a whole picture"
                text = tokenizer.decode(ids, skip_special_tokens=True)
                found.append(Laid(text, next(pictures), next(seeds)))
    return sorted(found, key=lambda row: row.seed)


def test_a_picture_of_words_alone_differs_from_other_rows(tmp_path):
    one, other = FilePicture(tmp_path / "a.png"), FilePicture(tmp_path / "b.png")
    words, drawn = turn("user", "a fox", "in snow"), turn("model", one)
    assert is_drawn_from_words(Document(words + drawn))
    others: list[tuple[Segment, ...]] = [
        drawn,
        words,
        words + turn("model", "a fox"),
        words + turn("model", "here it is", one),
        words + turn("model", one, "here it is"),
        words + turn("model", one, other),
        turn("user", other, "at night") + drawn,
        turn("user", other) + drawn,
        words + drawn + turn("user", "thank you"),
        words + drawn + words + drawn,
        drawn + words,
    ]
    assert not any(is_drawn_from_words(Document(segments)) for segments in others)


def test_words_go_round_and_equal_ones_are_no_others(tmp_path):
    pictures = [FilePicture(tmp_path / f"{number}.png") for number in range(4)]

    def words_of(*words: str) -> list[str]:
        rows = [
            Document(turn("user", text) + turn("model", picture), id=text)
            for text, picture in zip(words, pictures, strict=False)
        ]
        changed = with_other_words(rows)
        assert [each.model for each in changed] == [each.model for each in rows][: len(changed)]
        return [str(each.user[0].value) for each in changed]

    assert words_of("a", "b", "c") == ["b", "c", "a"]
    assert words_of("a", "a", "b", "a") == ["b", "b", "a", "b"]
    assert words_of("a", "a") == words_of("a") == words_of() == []


@pytest.mark.parametrize("packing", [False, True])
def test_the_same_pictures_and_noise_come_with_words_of_others(opened, plain, packing):
    batches = laid(opened, plain, packing=packing)
    by_words = batches.by_words()
    own, other = (rows_in(opened, by_words[name]) for name in (OWN_WORDS, OTHER_WORDS))
    seeds = [batch.noise_seeds_M for batch in batches.held_out()]
    measured = {n for seeds_M in seeds if seeds_M is not None for n in seeds_M.tolist()}
    assert len(own) > 8 and {row.seed for row in own} < measured, "some of the held-out rows"
    colour = {row.words: row.picture for row in own}
    assert len(colour) == 2 == len(set(colour.values()))
    for mine, exchanged in zip(own, other, strict=True):
        assert (mine.seed, mine.picture) == (exchanged.seed, exchanged.picture)
        assert mine.picture == colour[mine.words] != colour[exchanged.words]
    counts = [sum(counts_of(b).image for b in by_words[n]) for n in (OWN_WORDS, OTHER_WORDS)]
    assert counts == [4 * len(own)] * 2


@pytest.mark.parametrize("validate_rows", [64, 8])
def test_it_costs_no_more_than_the_other_figures(opened, tmp_path, validate_rows):
    batches = laid(opened, records(tmp_path / "drawn"), validate_rows=validate_rows)
    rows = sum(len(batch.ids_BS) for batch in batches.held_out())
    twice = [sum(len(batch.ids_BS) for batch in each) for each in batches.by_words().values()]
    assert twice == [rows // 2] * 2 and rows >= 8


def test_processes_share_it(opened, plain, monkeypatch):
    def shares(shard: int, shards: int) -> Iterator[tuple[list[Laid], int]]:
        place = Rank(shard, shards)
        monkeypatch.setattr("orthus_core.train.batches.current_rank", lambda: place)
        for batches in laid(opened, plain, validate_rows=26).by_words().values():
            counted = [batch for batch in batches if counts_of(batch).image]
            yield rows_in(opened, counted), len(batches)

    alone = list(shares(0, 1))
    apart = [list(shares(shard, 3)) for shard in range(3)]
    for way, (rows, count) in enumerate(alone):
        assert len(rows) % 3, "the last batch has no row for some of them"
        assert {own[way][1] for own in apart} == {count}, "all call the objective as often"
        assert sorted(row for own in apart for row in own[way][0]) == sorted(rows)


def test_there_is_nothing_to_compare_without_two_such_rows(opened, tmp_path):
    assert laid(opened, records(tmp_path / "none", drawn=0, asked=30)).by_words() == {}
    alike = records(tmp_path / "alike", drawn=3, asked=30)  # three rows of the same words
    assert laid(opened, alike).by_words() == {}
    assert laid(opened, alike, validate_rows=1).by_words() == {}


class Drawing(JointLoss):
    """An objective that also draws from torch's own generator, as loss terms of others may."""

    def forward(self, *args, **options):
        losses = super().forward(*args, **options)
        return losses._replace(total=losses.total + torch.rand(()))


def measured(opened, source: Path, *, exchanges_words: bool = True) -> dict[str, float]:
    objective = Drawing(opened.model, repeats=2)
    batches = laid(opened, source, packing=True)
    return validate(RowsStage(objective, [], batches, exchanges_words=exchanges_words), CPU)


def test_both_figures_are_equal_where_words_are_ignored(tiny_folder, plain):
    deaf = open_orthus(tiny_folder, device="cpu", dtype="fp32")
    found = measured(deaf, plain)
    assert abs(found[OTHER] - found[OWN]) > 1e-4, "words say something before"
    with torch.no_grad():
        for name, weight in deaf.model.named_parameters():
            if name.endswith("self_attn.o_proj.weight"):
                weight.zero_()
    found = measured(deaf, plain)
    assert found[OTHER] == pytest.approx(found[OWN], rel=1e-6) and found[OWN] > 0.1


def test_it_moves_no_other_figure_and_no_random_numbers(opened, plain):
    states, figures = [], []
    for exchanges_words in (False, True):
        figures.append(measured(opened, plain, exchanges_words=exchanges_words))
        states.append(torch.get_rng_state())
    without, with_words = figures
    assert with_words == without | {name: with_words[name] for name in (OWN, OTHER)}
    assert len(with_words) == len(without) + 2 and torch.equal(*states)


def run(start: Path, output: Path, source: Path, *overrides: str, **options) -> list:
    sets = (*SHORT, f"data.source={json.dumps(str(source))}", *overrides)
    return list(posttrain(load(PosttrainRecipe, None, sets), start, output, **options))


def steps_of(events: list) -> list[Mapping[str, float]]:
    return [event.metrics for event in events if isinstance(event, StepDone)]


LEARN = (
    *("optim.steps=120", "optim.lr=0.01", "optim.batch_size=8", "optim.ema_decay=0"),
    *("log.validate_every=120", "log.validate_rows=40", "data.held_out=0.3"),
    "data.condition_dropout=0",
)


def test_a_model_that_has_learnt_the_words_draws_worse_with_those_of_others(tiny_folder, tmp_path):
    source = records(tmp_path / "plain")
    events = run(tiny_folder, tmp_path / "out", source, *LEARN)
    found = steps_of(events)[-1]
    assert found[OTHER] > 1.3 * found[OWN] > 0
    (note,) = [e.message for e in events if isinstance(e, Note) and "held-out rows" in e.message]
    assert f"image_own_words {found[OWN]:.4g}, image_other_words {found[OTHER]:.4g}" in note
    line = lines_of_metrics(tmp_path / "out" / "metrics.jsonl")[-1]
    assert (line[OWN], line[OTHER]) == (found[OWN], found[OTHER])


def test_a_training_is_the_same_without_it_and_when_it_is_resumed(tiny_folder, plain, tmp_path):
    every = ("log.validate_every=1", "log.validate_rows=12", "log.save_every=1")

    def end(name: str, *overrides: str, **options) -> tuple[Path, list]:
        folder = tmp_path / name
        return folder, run(tiny_folder, folder, plain, *overrides, **options)

    whole, events = end("whole", *every)
    assert all(OWN in found and OTHER in found for found in steps_of(events))
    never, _ = end("never", "log.validate_every=0")
    seen = iter([False, True])
    end("parts", *every, should_stop=lambda: next(seen, True))
    parts, rest = end("parts", *every, resume=True)
    assert 0 < len(steps_of(rest)) < 4
    begun = [lines_of_metrics(folder / "metrics.jsonl") for folder in (whole, parts)]
    assert begun[0] == begun[1]
    weights = [load_file(folder / "model.safetensors") for folder in (whole, never, parts)]
    for name, weight in weights[0].items():
        assert all(torch.equal(weight, other[name]) for other in weights[1:]), name


def test_a_model_that_draws_codes_has_no_such_figure(tiny_folder, plain, tmp_path):
    chameleon = write_tiny_chameleon(tmp_path / "chameleon", tiny_folder)
    few = ("optim.steps=1", "log.validate_rows=12")
    events = run(chameleon, tmp_path / "out", plain, *few)
    (found,) = steps_of(events)
    assert "validation_total" in found and not {OWN, OTHER} & found.keys()
