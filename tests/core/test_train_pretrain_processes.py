"""What a pretraining reads of its recipe, and what several processes of it have to agree about:
codes, running means, and which pictures have codes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orthus_core.data.document import Document, Segment
from orthus_core.data.row_rule import RowRule
from orthus_core.errors import TrainingError
from orthus_core.events import StepDone
from orthus_core.recipe import PretrainRecipe, load
from orthus_core.train.autoencoder import DiscreteAutoencoderStage, fresh_autoencoder
from orthus_core.train.batches import discrete_batch_builder
from orthus_core.train.distributed import Rank
from orthus_core.train.pretrain import pretrain, texts_of
from tests.core.test_train_sharding import begin
from tests.core.toy_data import ToyPictures, pictures_with_words, tiny_pretrain


def sets(source: Path) -> tuple[str, ...]:
    return (
        *tiny_pretrain(source),
        "autoencoder.continuous_steps=2",
        "autoencoder.revive_every=2",
        "autoencoder.quantised_share=0.125",
        "autoencoder.optim.steps=9",
        "autoencoder.optim.batch_size=8",
        "log.every=1",
    )


def train_one(source: str, output: str) -> None:
    recipe = load(PretrainRecipe, None, sets(Path(source)))
    steps = [e.metrics for e in pretrain(recipe, Path(output)) if isinstance(e, StepDone)]
    Path(f"{output}-{os.environ['RANK']}.json").write_text(json.dumps(steps))


def test_two_processes_pretrain_one_autoencoder(tmp_path):
    """The transformer refuses to begin when encoders or codes differ between the processes: running
    means have to be those of one process, and unused codes have to be found by all alike.
    """
    source = pictures_with_words(tmp_path / "pictures")
    logs = tmp_path / "logs"
    processes = begin(2, train_one, str(source), str(tmp_path / "out"), logs=logs)
    for rank, process in enumerate(processes):
        process.join()
        assert process.exitcode == 0, (logs / f"log-{rank}.txt").read_text()[-3000:]
    one, other = (json.loads((tmp_path / f"out-{rank}.json").read_text()) for rank in range(2))
    assert one == other
    assert (tmp_path / "out" / "config.json").is_file()
    assert one[8]["codes_used"] > 0, "one picture of the eight is decoded from codes"


@pytest.fixture
def stage_of(monkeypatch):
    def made(shard: int, shards: int) -> DiscreteAutoencoderStage:
        monkeypatch.setattr(
            "orthus_core.train.autoencoder.current_rank", lambda: Rank(shard, shards)
        )
        shape = load(PretrainRecipe, None, sets(Path("none"))).autoencoder
        return DiscreteAutoencoderStage(
            fresh_autoencoder(shape), shape, ToyPictures(), seed=1, validate_rows=20
        )

    return made


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_all_processes_together_decode_the_recipes_share_of_a_batch_from_codes(stage_of, shards):
    stages = [stage_of(shard, shards) for shard in range(shards)]
    assert sum(snapped for stage in stages for _, snapped in stage.parts(3, 1)) == 1
    held_out = [part for stage in stages for part in stage.held_out()]
    assert sum(len(pixels) for pixels, _ in held_out) == 20
    assert sum(snapped for _, snapped in held_out) == 3, "the first of 0..7, 8..15 and 16..19"


def test_losses_of_codes_average_to_those_of_the_whole_batch(stage_of):
    stage = stage_of(0, 1)
    for step in range(3):
        stage.begin_step(step)
    objective = stage.objective.eval()
    ((pixels, snapped),) = stage.parts(3, 1)
    whole = objective(pixels, snapped)
    halves = [objective(pixels[0::2], 1), objective(pixels[1::2], 0)]
    assert whole.commitment > 0
    assert sum(half.commitment.item() for half in halves) / 2 == pytest.approx(
        whole.commitment.item(), rel=1e-4
    )


def test_an_uneven_batch_of_the_autoencoder_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("orthus_core.train.pretrain.current_rank", lambda: Rank(0, 2))
    recipe = load(
        PretrainRecipe, None, (*sets(tmp_path / "none"), "autoencoder.optim.batch_size=9")
    )
    with pytest.raises(TrainingError) as found:
        list(pretrain(recipe, tmp_path / "out"))
    assert found.value.where == "autoencoder.optim.batch_size"


def test_the_words_are_those_of_all_kinds_of_rows(tmp_path):
    """Rows of `first_tasks` are of few kinds, and a tokenizer is for all that follow as well."""
    recipe = load(PretrainRecipe, None, ("data.first_rows=30", "tokenizer.rows=20"))

    def row(number: int) -> Document:
        return Document((Segment("text", "user", f"row {number}"),), id=str(number))

    assert list(texts_of(row, recipe)) == [f"row {number}" for number in range(30, 50)]


@pytest.mark.parametrize("own", [False, True])
def test_pictures_of_the_user_are_targets_unless_the_recipe_says_otherwise(
    tmp_path, monkeypatch, own
):
    built = []

    def noted(*args, **options):
        built.append(options)
        return discrete_batch_builder(*args, **options)

    monkeypatch.setattr("orthus_core.train.pretrain.discrete_batch_builder", noted)
    source = pictures_with_words(tmp_path / "pictures")
    recipe = load(PretrainRecipe, None, (*sets(source), f"data.own_pictures={str(own).lower()}"))
    list(pretrain(recipe, tmp_path / "out"))
    assert built == [{"own_pictures": own}]
    assert RowRule.of(recipe, None).pictures == ("model's" if own else "all")
