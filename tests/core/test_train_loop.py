"""The training loop: schedules, averages, saved states, and resuming without a trace."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from orthus_core.errors import TrainingError
from orthus_core.events import Note, StepDone
from orthus_core.recipe.training import LogRecipe, OptimRecipe
from orthus_core.train.loop import train
from orthus_core.train.optim import WeightAverage, learning_rate, make_optimizer
from orthus_core.train.state import saved_steps, state_path

LOG = LogRecipe(every=1, sample_every=0, save_every=3, keep_last=2)


class Figures(NamedTuple):
    total: Tensor


class Noisy(nn.Module):
    """A linear fit whose loss also draws from torch's global generator, as diffusion does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Figures:
        return Figures((self.linear(x + 0.1 * torch.randn_like(x)) - x).square().mean())


class Fit:
    sixteen_bit = False

    def __init__(self, poison_at: int = -1) -> None:
        torch.manual_seed(0)
        self.objective = Noisy()
        self.poison_at = poison_at

    def trainable(self):
        return list(self.objective.parameters())

    def batch(self, step):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return x * float("nan") if step == self.poison_at else x

    def begin_step(self, step):
        return []

    def samples(self):
        return None


def optim(**changes):
    fields = dict(lr=1e-2, steps=8, batch_size=8, warmup_steps=2, schedule="cosine", ema_decay=0.9)
    return OptimRecipe(**(fields | changes))


def weights_after(folder, *, stop_after=None, resume=False):
    stage, seen = Fit(), []
    events = train(
        stage,
        optim=optim(),
        log=LOG,
        seed=3,
        folder=folder,
        resume=resume,
        should_stop=lambda: stop_after is not None and len(seen) + 1 >= stop_after,
    )
    for event in events:
        if isinstance(event, StepDone):
            seen.append(event)
    return stage.objective.state_dict(), seen


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(stop_after, tmp_path):
    whole, _ = weights_after(tmp_path / "whole")
    _, first = weights_after(tmp_path / "parts", stop_after=stop_after)
    assert len(first) == stop_after
    resumed, rest = weights_after(tmp_path / "parts", resume=True)
    assert [event.step for event in rest] == list(range(stop_after + 1, 9))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = [
        (tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "parts")
    ]
    assert lines[0] == lines[1]


def test_a_finished_training_resumes_to_the_same_weights(tmp_path):
    whole, _ = weights_after(tmp_path)
    again, steps = weights_after(tmp_path, resume=True)
    assert not steps
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_only_the_last_states_are_kept(tmp_path):
    weights_after(tmp_path)
    assert saved_steps(tmp_path) == [6, 8]


def test_a_stopped_training_says_how_to_go_on(tmp_path):
    events = list(
        train(Fit(), optim=optim(), log=LOG, seed=0, folder=tmp_path, should_stop=lambda: True)
    )
    assert isinstance(events[-1], Note) and "--resume auto" in events[-1].message
    assert saved_steps(tmp_path) == [1]


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_state(tmp_path):
    stage = Fit(poison_at=5)
    with pytest.raises(TrainingError, match="step 5") as caught:
        list(train(stage, optim=optim(), log=LOG, seed=0, folder=tmp_path))
    assert "resume" in caught.value.hint
    assert saved_steps(tmp_path) == [3]


def test_a_state_of_another_recipe_is_refused(tmp_path):
    weights_after(tmp_path)
    with pytest.raises(TrainingError, match="another optim.steps"):
        list(train(Fit(), optim=optim(steps=9), log=LOG, seed=3, folder=tmp_path, resume=True))


def test_a_broken_state_is_named(tmp_path):
    weights_after(tmp_path)
    (state_path(tmp_path, 8) / "state.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match="does not read") as caught:
        weights_after(tmp_path, resume=True)
    assert "step-000008" in caught.value.where


def test_metrics_hold_a_line_a_step_and_the_loss_falls(tmp_path):
    recipe = optim(lr=0.1, warmup_steps=0)
    list(train(Fit(), optim=recipe, log=LOG, seed=0, folder=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[-1]["total"] < 0.8 * lines[0]["total"]


def test_learning_rate_rises_then_falls_to_its_floor():
    recipe = optim(lr=1.0, warmup_steps=4, steps=20)
    rates = [learning_rate(recipe, step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.02, abs=0.02)
    assert learning_rate(optim(lr=1.0, schedule="constant", warmup_steps=0), 7) == 1.0


def test_only_matrices_decay():
    module = nn.Linear(3, 3)
    frozen_rows = nn.Parameter(torch.zeros(3, 3))
    frozen_rows.no_decay = True
    optimizer = make_optimizer([*module.parameters(), frozen_rows], optim(weight_decay=0.5))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {id(module.weight): 0.5, id(module.bias): 0.0, id(frozen_rows): 0.0}


def test_the_average_is_unbiased_early_and_restarts():
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([parameter], 0.999)
    for step in range(3):
        parameter.data.fill_(5.0)
        average.update(step)
    assert average.averages[0] > 4.0
    parameter.data.fill_(-2.0)
    average.restart([parameter])
    assert average.averages[0] == -2.0
    parameter.data.fill_(7.0)
    average.swap()
    assert parameter.item() == -2.0 and average.averages[0] == 7.0
