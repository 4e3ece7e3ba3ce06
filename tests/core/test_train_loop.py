"""The training loop: schedules, averages, saved states, and resuming without a trace."""

from __future__ import annotations

import copy
import itertools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import ClassVar, NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from orthus_core.errors import PromptError, TrainingError
from orthus_core.events import Note, StepDone
from orthus_core.recipe import key, load
from orthus_core.recipe.training import DataRecipe, LogRecipe, OptimRecipe, PretrainRecipe
from orthus_core.train.distributed import Rank
from orthus_core.train.freeze import all_but_autoencoder
from orthus_core.train.loop import notes_on, seed_step, train, validate
from orthus_core.train.metrics import MetricsLogger as FiguresBook
from orthus_core.train.muon import KernelMuon, batched_muon
from orthus_core.train.optim import WeightAverage, learning_rate, make_optimizers
from orthus_core.train.runs import TrainingRun
from orthus_core.train.sharding import NoRoomToDraw
from orthus_core.train.state import origins, saved_steps, state_path, training_folder
from tests.conftest import lines_of_metrics
from tests.core.toy_data import finished

LOG = LogRecipe(every=1, sample_every=0, save_every=3, keep_last=2)


class MetricsLogger(NamedTuple):
    total: Tensor


class Noisy(nn.Module):
    """A linear fit whose loss also draws from torch's global generator, as diffusion does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> MetricsLogger:
        return MetricsLogger((self.linear(x + 0.1 * torch.randn_like(x)) - x).square().mean())


class Fit:
    sixteen_bit = False
    report = None

    def __init__(self, poison_at: int = -1) -> None:
        torch.manual_seed(0)
        self.objective = Noisy()
        self.poison_at = poison_at

    def trainable(self):
        return list(self.objective.parameters())

    def parts(self, step, count):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return [(x * float("nan") if step == self.poison_at else x,)] * count

    def held_out(self):
        return [(torch.randn(8, 4, generator=torch.Generator().manual_seed(-1)),)] * 2

    def begin_step(self, step):
        return []

    def samples(self):
        return None


def optim(**changes):
    fields = dict(lr=1e-2, steps=8, batch_size=8, warmup_steps=2, schedule="cosine", ema_decay=0.9)
    return OptimRecipe(**(fields | changes))


def weights_after(folder, *, stop_after=None, resume=False, interpolation=1.0, **changes):
    stage, seen = Fit(), []
    events = train(
        stage,
        optim=optim(**changes),
        log=LOG,
        seed=3,
        folder=folder,
        interpolation=interpolation,
        resume=resume,
        should_stop=lambda: stop_after is not None and len(seen) >= stop_after,
    )
    for event in events:
        if isinstance(event, StepDone):
            seen.append(event)
    return stage.objective.state_dict(), seen


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(stop_after, kind, tmp_path):
    whole, _ = weights_after(tmp_path / "whole", kind=kind)
    _, first = weights_after(tmp_path / "parts", stop_after=stop_after, kind=kind)
    assert len(first) == stop_after
    resumed, rest = weights_after(tmp_path / "parts", resume=True, kind=kind)
    assert [event.step for event in rest] == list(range(stop_after + 1, 9))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = [lines_of_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts")]
    assert len(lines[0]) == 8 and lines[0] == lines[1]


def test_every_device_draws_noise_of_its_own_and_the_same_again(tmp_path, monkeypatch):
    """On one batch of rows losses differ by nothing but the noise."""

    def totals(shard, again=0):
        monkeypatch.setattr("orthus_core.train.loop.current_rank", lambda: Rank(shard, 2))
        folder = tmp_path / f"{shard}-{again}"
        events = train(Fit(), optim=optim(steps=2), log=LOG, seed=3, folder=folder)
        return [event.metrics["total"] for event in events if isinstance(event, StepDone)]

    first = totals(0)
    assert totals(0, again=1) == first
    assert not set(first) & set(totals(1)), "neither of this step nor of the next"


def test_noise_differs_by_seed_step_and_shard():
    drawn = set()
    places = list(itertools.product((0, 1, 7), (0, 1, 500), (0, 1, 7)))
    for seed, step, shard in places:
        seed_step(seed, step, shard)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == len(places)


@pytest.mark.parametrize("place", ["state", "training folder", "output"])
def test_a_path_resumes_as_auto_does_from_the_same_state(place, tmp_path):
    whole, _ = weights_after(tmp_path / "whole")
    folder = training_folder(tmp_path / "parts")
    weights_after(folder, stop_after=4)
    path = {"state": state_path(folder, 4), "training folder": folder, "output": tmp_path / "parts"}
    branch, rest = weights_after(tmp_path / "branch", resume=path[place])
    assert [event.step for event in rest] == [5, 6, 7, 8]
    resumed, _ = weights_after(folder, resume=True)
    for name in whole:
        assert torch.equal(whole[name], branch[name]) and torch.equal(branch[name], resumed[name])
    first, *others = (
        lines_of_metrics(run / "metrics.jsonl")
        for run in (tmp_path / "whole", tmp_path / "branch", folder)
    )
    assert others == [first, first], "with the figures of the steps before"


def test_an_earlier_state_of_a_run_is_resumed_from_where_later_ones_lie(tmp_path):
    whole, _ = weights_after(tmp_path)
    assert saved_steps(tmp_path) == [6, 8]
    again, rest = weights_after(tmp_path, resume=state_path(tmp_path, 6))
    assert [event.step for event in rest] == [7, 8]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    _, rest = weights_after(tmp_path, stop_after=1, resume=state_path(tmp_path, 6))
    assert saved_steps(tmp_path) == [6, 7, 8], "a new state is not dropped for a later one"


def test_a_path_that_is_no_state_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, told in (("nowhere", "no such folder"), ("empty", "no saved state")):
        with pytest.raises(TrainingError, match=told) as caught:
            weights_after(tmp_path / "run", resume=tmp_path / path)
        assert str(tmp_path / path) in caught.value.where
        assert "--resume auto" in caught.value.hint
    assert not (tmp_path / "run").exists()


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


def test_a_training_that_is_stopped_at_its_last_step_says_that_its_model_is_missing(tmp_path):
    seen = []
    how = {"optim": optim(), "log": LOG, "seed": 0, "folder": tmp_path}
    events = train(Fit(), **how, should_stop=lambda: len(seen) == 8)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            assert end.value is False, "the caller writes no model"
            break
        if isinstance(event, StepDone):
            seen.append(event)
    assert isinstance(event, Note) and "--resume auto" in event.message
    assert "not written yet" in event.message and saved_steps(tmp_path)[-1] == 8
    assert finished(train(Fit(), **how, resume=True)) is True


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_state(tmp_path):
    stage = Fit(poison_at=5)
    with pytest.raises(TrainingError, match="step 5") as caught:
        list(train(stage, optim=optim(), log=LOG, seed=0, folder=tmp_path))
    assert "after step 3" in caught.value.hint
    assert saved_steps(tmp_path) == [3]


@dataclass(frozen=True)
class FitRecipe:
    command: ClassVar[str] = "fit"

    optim: OptimRecipe = key(OptimRecipe(lr=1e-2, steps=4), "")
    log: LogRecipe = key(LOG, "")
    data: DataRecipe = key(DataRecipe(), "")


def fit_by(folder, *overrides, resume=False, **more):
    recipe = load(FitRecipe, None, overrides)
    events = train(
        Fit(),
        optim=recipe.optim,
        log=recipe.log,
        seed=0,
        folder=folder,
        origins=origins(recipe, **more),
        resume=resume,
    )
    return list(events)


@pytest.mark.parametrize(
    "change, told",
    [
        ("optim.warmup_steps=9", "optim.warmup_steps = 100, now 9"),
        ("optim.betas=[0.9, 0.95]", r"optim.betas = \[0.9, 0.99\], now \[0.9, 0.95\]"),
        ("data.condition_dropout=0.1", "data.condition_dropout = 0.05, now 0.1"),
    ],
)
def test_a_state_of_another_recipe_is_refused_and_the_key_named(change, told, tmp_path):
    fit_by(tmp_path)
    with pytest.raises(TrainingError, match=told):
        fit_by(tmp_path, change, resume=True)
    with pytest.raises(TrainingError, match=told):
        fit_by(tmp_path / "new", change, resume=tmp_path)


def test_a_state_from_another_model_is_refused(tmp_path):
    fit_by(tmp_path, init_from="one")
    with pytest.raises(TrainingError, match="init_from = 'one', now 'other'"):
        fit_by(tmp_path, resume=True, init_from="other")


def test_what_is_told_of_a_training_may_change(tmp_path):
    fit_by(tmp_path)
    events = fit_by(tmp_path, "log.every=2", "log.validate_every=0", "data.workers=2", resume=True)
    assert events == [Note("resuming after step 4 of 4")]


def test_only_the_tables_that_matter_to_a_part_decide_how_it_goes():
    recipe = load(PretrainRecipe, None, ("seed=3", "optim.lr=0.5", "log.every=7"))
    taken = origins(recipe, "seed", "autoencoder", init_from="one")
    assert taken["seed"] == 3 and taken["init_from"] == "one"
    assert "autoencoder.optim.lr" in taken
    assert {name.partition(".")[0] for name in taken} == {"seed", "autoencoder", "init_from"}
    assert origins(recipe)["optim.lr"] == 0.5


def test_a_broken_state_is_named(tmp_path):
    weights_after(tmp_path)
    (part,) = state_path(tmp_path, 8).glob("part-*")
    part.write_bytes(b"not a state")
    with pytest.raises(TrainingError, match="does not read") as caught:
        weights_after(tmp_path, resume=True)
    assert "step-000008" in caught.value.where


def test_metrics_hold_a_line_a_step_and_the_loss_falls(tmp_path):
    recipe = optim(lr=0.1, warmup_steps=0)
    list(train(Fit(), optim=recipe, log=LOG, seed=0, folder=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["lr"] for line in lines] == [learning_rate(recipe, step) for step in range(8)]
    assert lines[-1]["total"] < 0.8 * lines[0]["total"]


def test_learning_rate_rises_then_falls_to_its_floor():
    recipe = optim(lr=1.0, warmup_steps=4, steps=20)
    rates = [learning_rate(recipe, step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    # Half a cosine from 1 to a floor of 0.02, by hand: a quarter, a half, and all of its way.
    assert rates[8] == pytest.approx(0.02 + 0.98 * (2 + 2**0.5) / 4, abs=1e-6)
    assert rates[12] == pytest.approx(0.51, abs=1e-6)
    assert learning_rate(recipe, 20) == pytest.approx(0.02, abs=1e-6)
    constant = [learning_rate(optim(lr=1.0, schedule="constant"), step) for step in range(8)]
    assert constant == [0.5, *[1.0] * 7]
    assert learning_rate(optim(lr=1.0, schedule="constant", warmup_steps=0), 0) == 1.0


def test_a_trapezoid_falls_in_its_last_steps_and_nowhere_else():
    shape = {"lr": 1.0, "schedule": "trapezoid", "warmup_steps": 2, "decay_steps": 4}
    rates = [learning_rate(optim(steps=10, **shape), step) for step in range(11)]
    assert rates == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    longer = [learning_rate(optim(steps=14, **shape), step) for step in range(14)]
    assert longer[:7] == rates[:7] and longer[7:11] == [1.0] * 4, "a longer run is the same so far"
    with pytest.raises(ValueError, match="decay_steps 4"):
        optim(decay_steps=4)
    with pytest.raises(ValueError, match="decay_steps 0"):
        optim(schedule="trapezoid")


@pytest.mark.parametrize(("start", "fell"), [(7, False), (8, True)])
def test_a_longer_trapezoid_says_whether_it_had_begun_to_fall(start, fell, tmp_path, monkeypatch):
    recipe = optim(steps=20, schedule="trapezoid", decay_steps=4)
    run = TrainingRun(tmp_path)
    monkeypatch.setattr(TrainingRun, "before", lambda self: {"optim.steps": 10})
    (note,) = notes_on(run, {}, recipe, "optim.steps", start)
    assert note.message.startswith("optim.steps was 10, now 20")
    assert ("begun to fall after step 7" in note.message) == fell
    assert ("not that of a training of this length" in note.message) == fell


def step_on_nothing(parameters, optimizers):
    """A step whose gradients are zero: what moves is decay."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()


def test_only_matrices_decay():
    module = nn.Linear(3, 3)
    frozen_rows = nn.Parameter(torch.ones(3, 3))
    frozen_rows.no_decay = True
    parameters = [*module.parameters(), frozen_rows]
    before = [parameter.detach().clone() for parameter in parameters]
    (optimizer,) = make_optimizers(parameters, optim(lr=0.1, weight_decay=0.5))
    step_on_nothing(parameters, [optimizer])
    torch.testing.assert_close(module.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(module.bias, before[1]) and torch.equal(frozen_rows, before[2])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_adamw_averages_over_as_many_steps_as_the_recipe_says(kind):
    words = nn.Parameter(torch.zeros(3, 3))
    words.by_row = True
    parameters = [nn.Parameter(torch.zeros(3, 3)), words, nn.Parameter(torch.zeros(3))]
    adamw = make_optimizers(parameters, optim(kind=kind, betas=(0.25, 0.5)))[-1]
    for gradient in (1.0, -3.0):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, gradient)
        adamw.step()
    for parameter in (words, parameters[2]):
        state = adamw.state[parameter]
        # Each average moves by 1 - beta towards the gradient and towards its square.
        wanted = torch.full_like(parameter, 0.25 * 0.75 * 1.0 + 0.75 * -3.0)
        torch.testing.assert_close(state["exp_avg"], wanted)
        wanted = torch.full_like(parameter, 0.5 * 0.5 * 1.0 + 0.5 * 9.0)
        torch.testing.assert_close(state["exp_avg_sq"], wanted)


def test_muon_takes_the_maps_and_leaves_tables_and_the_rest_to_adamw():
    module, words = nn.Linear(3, 3), nn.Parameter(torch.zeros(5, 3))
    words.by_row = True
    parameters = [*module.parameters(), words]
    muon, adamw = make_optimizers(parameters, optim(kind="muon", weight_decay=0.5))
    assert [p for g in muon.param_groups for p in g["params"]] == [module.weight]
    rest = {id(p): g["weight_decay"] for g in adamw.param_groups for p in g["params"]}
    assert rest == {id(words): 0.5, id(module.bias): 0.0}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_maps_decay_by_muon_as_they_do_by_adamw():
    module = nn.Linear(3, 3)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    parameters = list(module.parameters())
    step_on_nothing(
        parameters, make_optimizers(parameters, optim(kind="muon", lr=0.1, weight_decay=0.5))
    )
    torch.testing.assert_close(module.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(module.bias, before[1])


def test_words_codes_and_heads_are_no_maps(tiny_model):
    parameters = {id(p): name for name, p in tiny_model.named_parameters()}
    muon, _ = make_optimizers(all_but_autoencoder(tiny_model), optim(kind="muon"))
    maps = {parameters[id(p)] for g in muon.param_groups for p in g["params"]}
    assert "model.layers.0.mlp.up_proj.weight" in maps and "mlp_head.input_proj.weight" in maps
    tables = ("embed_tokens", "codebook_in", "lm_head", "q_norm", "k_norm")
    assert not any(table in name for name in maps for table in tables)


def test_a_torch_without_muon_is_told(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(TrainingError, match="no Muon"):
        make_optimizers([nn.Parameter(torch.zeros(2, 2))], optim(kind="muon"))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize(("fast_in_bf16", "near"), [(True, 1e-4), (False, 1e-3)])
def test_muon_moves_as_torchs_own_does(fast_in_bf16, near, monkeypatch):
    monkeypatch.setattr("orthus_core.train.muon.has_bf16", lambda device: fast_in_bf16)
    torch.manual_seed(0)
    shapes = [(8, 16), (16, 8), (8, 16), (12, 12), (4, 4)]
    mine, theirs = ([nn.Parameter(torch.empty(s)) for s in shapes] for _ in range(2))
    for one, other in zip(mine, theirs, strict=True):
        one.data.normal_()
        other.data.copy_(one.data)
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    together = batched_muon()(mine, **settings)
    alone = torch.optim.Muon(theirs, **settings)
    for step in range(3):
        for one, other in zip(mine[:-1], theirs[:-1], strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        together.step()
        alone.step()
        if step == 1:  # what one has saved the other goes on from
            together.load_state_dict(copy.deepcopy(alone.state_dict()))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=near)  # of steps of 0.01 to 0.06
    if not fast_in_bf16:
        assert not torch.equal(mine[0], theirs[0]), "torch's own rounds to bf16"


def test_a_step_of_muon_turns_a_matrix_in_all_its_directions_alike():
    module = nn.Linear(16, 16, bias=False)
    before = module.weight.detach().clone()
    muon = make_optimizers(list(module.parameters()), optim(kind="muon", lr=1.0))[0]
    scales = torch.logspace(0, -2, 16)
    module.weight.grad = torch.linalg.qr(torch.randn(16, 16))[0] * scales
    muon.step()
    moved = torch.linalg.svdvals(before - module.weight.detach())
    assert moved.max() / moved.min() < 3  # the gradient's own: 100
    assert moved.square().mean().sqrt() == pytest.approx(0.2 * 16**0.5, rel=0.3)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (16, 4, 1, 1)])
def test_muon_turns_a_kernel_as_the_matrix_from_a_window_to_its_outputs(shape):
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(shape))
    matrix = nn.Parameter(kernel.data.flatten(1).clone())
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    of_kernel = KernelMuon([kernel], lr=0.02, weight_decay=0.1)
    of_matrix = torch.optim.Muon(
        [matrix], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        kernel.grad = torch.randn(kernel.shape)
        matrix.grad = kernel.grad.flatten(1)
        of_kernel.step()
        of_matrix.step()
    # torch iterates in bf16, which differs in a hundredth of a step of 0.024.
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach(), rtol=0, atol=1e-3)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_kernels_from_and_to_pixels_are_left_to_adamw():
    kernels = [nn.Parameter(torch.zeros(shape)) for shape in ((8, 3, 3, 3), (3, 8, 3, 3))]
    inner = nn.Parameter(torch.zeros(8, 8, 1, 1))
    muon, adamw = make_optimizers([*kernels, inner], optim(kind="muon"))
    assert isinstance(muon, KernelMuon)
    assert [p for g in muon.param_groups for p in g["params"]] == [inner]
    assert {id(p) for g in adamw.param_groups for p in g["params"]} == {id(k) for k in kernels}


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


def test_the_last_tenth_of_the_first_steps_has_sixty_percent_of_the_average():
    parameter, steps = nn.Parameter(torch.zeros(())), 200
    average = WeightAverage([parameter], 0.9999)
    for step in range(steps):
        parameter.data.fill_(float(step >= steps * 9 // 10))
        average.update(step)
    assert average.averages[0].item() == pytest.approx(1 - 0.9**9, abs=0.02)


def test_the_average_forgets_no_faster_than_its_decay():
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([parameter], 0.5)
    parameter.data.fill_(2.0)
    average.update(0)
    assert average.averages[0].item() == pytest.approx(0.1 * 1.0 + 0.9 * 2.0)
    parameter.data.fill_(3.0)
    average.update(1000)
    assert average.averages[0].item() == pytest.approx(0.5 * 1.9 + 0.5 * 3.0)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_interpolated_weights_lie_between_the_first_and_those_that_are_averaged(decay):
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([parameter], decay, interpolation=0.25)
    parameter.data.fill_(3.0)
    average.update(1000)
    for _ in range(2):
        average.swap()
        trained = 2.0 if decay else 3.0
        assert parameter.item() == 1.0 + 0.25 * (trained - 1.0)
        average.swap()
        assert parameter.item() == 3.0, "the training goes on from where it was"
    assert not decay or average.averages[0] == 2.0


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_an_interpolated_training_ends_between_its_first_weights_and_its_last(ema_decay, tmp_path):
    first = Fit().objective.linear.weight
    halfway = {"interpolation": 0.5, "ema_decay": ema_decay}
    whole, _ = weights_after(tmp_path / "whole", ema_decay=ema_decay)
    half, _ = weights_after(tmp_path / "half", **halfway)
    assert (whole["linear.weight"] - first).abs().max() > 0.01
    torch.testing.assert_close(half["linear.weight"], (first + whole["linear.weight"]) / 2)
    weights_after(tmp_path / "parts", stop_after=3, **halfway)
    resumed, _ = weights_after(tmp_path / "parts", resume=True, **halfway)
    assert torch.equal(resumed["linear.weight"], half["linear.weight"])


def test_the_average_takes_in_what_a_step_made_of_the_weights(tmp_path):
    def weight(ema_decay):
        stage = Fit()
        before = stage.objective.linear.weight.detach().clone()
        recipe = optim(steps=1, lr=0.1, ema_decay=ema_decay)
        list(train(stage, optim=recipe, log=LOG, seed=0, folder=tmp_path / str(ema_decay)))
        return before, stage.objective.linear.weight.detach()

    (before, averaged), (_, after) = weight(0.9), weight(0.0)
    assert not torch.equal(before, after)
    torch.testing.assert_close(averaged, 0.1 * before + 0.9 * after)


def test_the_average_forgets_weights_that_a_step_sets_anew(tmp_path):
    stage = Fit()

    @torch.no_grad()
    def begin_step(step):
        if step < 5:
            return []
        stage.objective.linear.weight.fill_(7.0)
        return [stage.objective.linear.weight]

    stage.begin_step = begin_step
    list(train(stage, optim=optim(lr=0.0), log=LOG, seed=0, folder=tmp_path))
    assert (stage.objective.linear.weight == 7.0).all()


class Skewed(Fit):
    """Parts of a step are consecutive slices of one stream of rows."""

    def parts(self, step, count):
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return [(part,) for part in rows.split(8 // count)]


class Exact(nn.Module):
    """A linear fit without noise, so that halves of a batch add up to it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> MetricsLogger:
        return MetricsLogger((self.linear(x) - x).square().mean())


def test_accumulated_batches_step_as_one_large_batch(tmp_path, monkeypatch):
    """By plain steps along a gradient that is not clipped: Adam and a clipped norm would forgive a
    factor on it.
    """

    def plain(parameters, recipe):
        return [torch.optim.SGD(parameters, lr=recipe.lr)]

    monkeypatch.setattr("orthus_core.train.loop.make_optimizers", plain)

    def weights(parts):
        stage = Skewed()
        torch.manual_seed(0)
        stage.objective = Exact()
        recipe = optim(lr=0.1, accumulate=parts, ema_decay=0.0, clip_norm=0.0)
        events = list(train(stage, optim=recipe, log=LOG, seed=0, folder=tmp_path / str(parts)))
        steps = [event.metrics for event in events if isinstance(event, StepDone)]
        return stage.objective.linear.weight, steps

    (whole, steps), (quarters, quarters_steps) = weights(1), weights(4)
    torch.testing.assert_close(quarters, whole, rtol=1e-5, atol=1e-6)
    for figure in ("total", "grad_norm"):
        wanted = [metrics[figure] for metrics in steps]
        assert [m[figure] for m in quarters_steps] == pytest.approx(wanted, rel=1e-5)


def test_a_gradient_is_clipped_after_its_batches_are_summed(tmp_path, monkeypatch):
    """The whole step's gradient gets the largest norm; told is the norm it had before."""

    def plain(parameters, recipe):
        return [torch.optim.SGD(parameters, lr=recipe.lr)]

    monkeypatch.setattr("orthus_core.train.loop.make_optimizers", plain)
    stage = Skewed()
    stage.objective = Exact()
    before = [p.detach().clone() for p in stage.trainable()]
    recipe = optim(lr=1.0, steps=1, accumulate=4, warmup_steps=0, ema_decay=0.0, clip_norm=0.01)
    events = list(train(stage, optim=recipe, log=LOG, seed=0, folder=tmp_path))
    (done,) = [event for event in events if isinstance(event, StepDone)]
    moved = [p.detach() - b for p, b in zip(stage.trainable(), before, strict=True)]
    length = torch.cat([change.flatten() for change in moved]).norm()
    assert length == pytest.approx(0.01, rel=1e-3) and done.metrics["grad_norm"] > 0.1


class Exploding(nn.Module):
    """A finite loss whose gradient is not: the root of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> MetricsLogger:
        return MetricsLogger((self.linear(x) * 0).square().sum().sqrt())


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(clip_norm, tmp_path):
    stage = Fit()
    stage.objective = Exploding()
    before = stage.objective.linear.weight.clone()
    with pytest.raises(TrainingError, match="the gradient is nan at step 0"):
        list(train(stage, optim=optim(clip_norm=clip_norm), log=LOG, seed=0, folder=tmp_path))
    assert torch.equal(stage.objective.linear.weight, before)
    assert saved_steps(tmp_path) == []


def test_the_batch_that_broke_is_counted_over_accumulated_ones(tmp_path):
    with pytest.raises(TrainingError, match="step 2, in batch 6"):
        list(train(Fit(poison_at=2), optim=optim(accumulate=3), log=LOG, seed=0, folder=tmp_path))


def measured(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {x["step"]: x["validation_total"] for x in lines if "validation_total" in x}


def test_held_out_rows_are_measured_on_the_average_with_the_same_noise(tmp_path):
    log = replace(LOG, every=100, validate_every=3)
    stage = Fit()
    recipe = optim(lr=0.0, ema_decay=0.9)
    events = list(train(stage, optim=recipe, log=log, seed=0, folder=tmp_path))
    found = measured(tmp_path)
    assert list(found) == [3, 6, 8]
    assert len(set(found.values())) == 1, "weights that do not move measure the same each time"
    notes = [event.message for event in events if isinstance(event, Note)]
    assert len(notes) == 3 and notes[0].startswith("on held-out rows after step 3: total ")
    assert stage.objective.training

    moved = Fit()
    list(train(moved, optim=optim(lr=0.1), log=log, seed=0, folder=tmp_path / "moved"))
    # The weights left behind are the average, which is what was measured last.
    now = validate(moved, torch.device("cpu"))
    assert now["validation_total"] == measured(tmp_path / "moved")[8] < found[8]


def test_held_out_parts_count_alike(tmp_path):
    stage = Fit()
    stage.objective = Exact()
    one, other = torch.zeros(8, 4), torch.randn(8, 4)
    stage.held_out = lambda: [(one,), (other,)]
    alone = [stage.objective(part).total.item() for part in (one, other)]
    found = validate(stage, torch.device("cpu"))
    assert found == {"validation_total": pytest.approx(sum(alone) / 2)}


class Watched(Fit):
    """Remembers the weights of every sample sheet, and when the objective was training."""

    def __init__(self) -> None:
        super().__init__()
        self.sheets: list[Tensor] = []
        self.training_at: list[tuple[str, bool]] = []

    def begin_step(self, step):
        self.training_at.append(("step", self.objective.training))
        return []

    def held_out(self):
        return [*map(self.measured, super().held_out())]

    def measured(self, part):
        """A part that tells, when it is taken to the device, what the objective is doing."""
        stage = self

        class Telling(Tensor):
            def to(self, *args):
                stage.training_at.append(("measuring", stage.objective.training))
                return self.as_subclass(Tensor)

        return (part[0].as_subclass(Telling),)

    def samples(self):
        self.training_at.append(("samples", self.objective.training))
        self.sheets.append(self.objective.linear.weight.detach().clone())
        return Image.new("RGB", (2, 2))


def test_sheets_show_the_average_at_rest_and_the_training_goes_on_as_before(tmp_path):
    stage, log = Watched(), replace(LOG, sample_every=3, validate_every=4)
    list(train(stage, optim=optim(lr=0.1), log=log, seed=3, folder=tmp_path))
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["step-000003.png", "step-000006.png", "step-000008.png"]
    assert torch.equal(stage.sheets[-1], stage.objective.linear.weight), "the average is kept"
    assert {*stage.training_at} == {("step", True), ("measuring", False), ("samples", False)}
    unwatched = Fit()
    list(train(unwatched, optim=optim(lr=0.1), log=LOG, seed=3, folder=tmp_path / "unwatched"))
    assert torch.equal(unwatched.objective.linear.weight, stage.objective.linear.weight)


def test_a_sheet_without_room_is_left_out_and_the_training_goes_on_as_before(tmp_path):
    class Full(Watched):
        def samples(self):
            raise NoRoomToDraw("no room")

    stage, log = Full(), replace(LOG, sample_every=3)
    events = list(train(stage, optim=optim(), log=log, seed=3, folder=tmp_path))
    assert [e.message for e in events if isinstance(e, Note)].count("no room") == 3
    assert {*stage.training_at} == {("step", True), ("measuring", False)}
    assert torch.equal(
        stage.objective.linear.weight, weights_after(tmp_path / "other")[0]["linear.weight"]
    )


def test_a_sheet_that_cannot_be_drawn_is_noted_and_the_training_goes_on_as_before(tmp_path):
    class Wordy(Watched):
        def samples(self):
            raise PromptError("the prompt is too long")

    stage, log = Wordy(), replace(LOG, sample_every=3)
    events = list(train(stage, optim=optim(), log=log, seed=3, folder=tmp_path))
    notes = [e.message for e in events if isinstance(e, Note) and "too long" in e.message]
    assert len(notes) == 3 and "after step 6" in notes[1]
    assert torch.equal(
        stage.objective.linear.weight, weights_after(tmp_path / "other")[0]["linear.weight"]
    )


def test_the_state_of_a_step_is_saved_before_its_sheet_is_drawn(tmp_path):
    class Breaking(Fit):
        def samples(self):
            raise RuntimeError("a fault of the sampler")

    log = replace(LOG, sample_every=3)
    with pytest.raises(RuntimeError, match="a fault of the sampler"):
        list(train(Breaking(), optim=optim(), log=log, seed=3, folder=tmp_path))
    assert saved_steps(tmp_path) == [3]


def test_measuring_changes_nothing_of_the_training(tmp_path):
    def weights(validate_every, folder):
        stage = Fit()
        log = replace(LOG, validate_every=validate_every)
        list(train(stage, optim=optim(), log=log, seed=0, folder=folder))
        return stage.objective.linear.weight

    assert torch.equal(weights(0, tmp_path / "never"), weights(2, tmp_path / "often"))


def test_a_line_that_a_killed_run_left_half_written_is_dropped(tmp_path):
    whole, _ = weights_after(tmp_path / "whole")
    weights_after(tmp_path / "parts", stop_after=4)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "tot')
    weights_after(tmp_path / "parts", resume=True)
    lines = [lines_of_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts")]
    assert lines[0] == lines[1]


class Board:
    """What `torch.utils.tensorboard.SummaryWriter` would be."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.points = folder, purge_step, []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.points.append((name, step, value))

    def flush(self) -> None:
        self.flushed = len(self.points)


def test_tensorboard_gets_every_figure_when_it_is_installed(tmp_path, monkeypatch):
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Board
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    book = FiguresBook(tmp_path, 7, "auto")
    book.write(8, {"total": 0.5, "lr": 0.1})
    assert book.board.points == [("total", 8, 0.5), ("lr", 8, 0.1)]
    assert book.board.flushed == 2 and book.board.purge_step == 8
    assert Path(book.board.folder).parent == tmp_path


def test_tensorboard_is_missed_only_when_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert FiguresBook(tmp_path, 0, "auto").board is None
    assert FiguresBook(tmp_path, 0, False).board is None
    with pytest.raises(TrainingError, match="not installed") as caught:
        FiguresBook(tmp_path, 0, True)
    assert "pip install tensorboard" in caught.value.hint
