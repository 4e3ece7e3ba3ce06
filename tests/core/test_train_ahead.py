"""Batches made by worker processes are those that the training would have made itself."""

from __future__ import annotations

import multiprocessing
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.data.collate import Batch
from orthus_core.data.latent_shards import RecordShards
from orthus_core.errors import TrainingError
from orthus_core.events import StepDone
from orthus_core.recipe import load
from orthus_core.recipe.training import PosttrainRecipe
from orthus_core.train.prefetch import Prefetcher
from orthus_core.train.trainings import posttrain
from tests.core.toy_data import interleaved


def batch(number: int) -> Batch:
    """A batch that says which it is, in every tensor."""
    row_BS = torch.full((2, 3), number)
    return Batch(row_BS, row_BS, row_BS, row_BS, row_BS.flatten(), pixels_MHW3=row_BS.byte())


@pytest.mark.parametrize("together", [1, 3])
def test_batches_come_in_order_from_wherever_one_begins(together):
    ahead = Prefetcher(batch, workers=2, together=together)
    for number in (0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 20, 20, 21):
        came = ahead(number)
        named = [getattr(came, field.name) for field in fields(came)]
        assert all((tensor == number).all() for tensor in named if isinstance(tensor, Tensor))


def test_a_worker_that_fails_says_why():
    def broken(number: int) -> Batch:
        raise ValueError("no such sprite")

    with pytest.raises(ValueError, match="no such sprite"):
        Prefetcher(broken, workers=1)(0)


def test_a_system_that_does_not_fork_is_told_what_to_set(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(TrainingError, match="does not fork") as told:
        Prefetcher(batch, workers=2)
    assert told.value.where == "data.workers" and "data.workers = 0" in told.value.hint


def test_nothing_is_drawn_from_the_generator_that_a_step_seeds():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Prefetcher(batch, workers=1)(0)
    assert torch.equal(torch.rand(3), expected)


def stored(folder: Path) -> RecordShards:
    """The features in a training's folder."""
    return RecordShards(next(folder.glob("features-*"), folder / "nothing"))


@pytest.mark.parametrize(("source", "packing"), [("sprites", "false"), ("files", "true")])
def test_a_training_with_workers_is_the_training_without(tmp_path, tiny_folder, source, packing):
    """To the last bit, resumed half-way or not; whichever of its pictures were encoded before."""
    files = interleaved(tmp_path / "rows", 10)

    def losses(name: str, workers: int, stop_after: int | None = None, resume: bool = False):
        first = "true" if name == "stopped" else "false"
        sets = (
            f"data.workers={workers}",
            f"data.packing={packing}",
            f"data.source={files if source == 'files' else source}",
            f"data.encode_first={first}",
            "data.own_pictures=true",
            "data.held_out=0",
            "optim.steps=4",
            "optim.batch_size=3",
            "log.validate_every=0",
            "log.sample_every=0",
        )
        recipe = load(PosttrainRecipe, None, sets)
        seen: list[dict] = []
        events = posttrain(
            recipe,
            tiny_folder,
            tmp_path / name,
            resume=resume,
            should_stop=lambda: stop_after is not None and len(seen) >= stop_after,
        )
        for event in events:
            if isinstance(event, StepDone):
                seen.append(dict(event.metrics))
        return seen

    alone = losses("alone", workers=0)
    assert losses("helped", workers=2) == alone
    begun = losses("stopped", workers=2, stop_after=2)
    assert begun + losses("stopped", workers=2, resume=True) == alone
    kept = {name: len(stored(tmp_path / f"{name}.training")) for name in ("alone", "helped")}
    assert kept == ({"alone": 10, "helped": 10} if source == "files" else {**kept, "helped": 0})
    for name in ("helped", "stopped"):
        one, other = (open_orthus(tmp_path / n, device="cpu").model for n in ("alone", name))
        for (key, mine), theirs in zip(
            one.state_dict().items(), other.state_dict().values(), strict=True
        ):
            assert torch.equal(mine, theirs), key
