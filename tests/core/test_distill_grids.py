"""Time grids: the dynamic programme against all grids there are, the errors of steps against steps
that are taken, and where a model's own grids are used or refused.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from orthus_core import Orthus
from orthus_core.distill import step_errors as step_errors_module
from orthus_core.distill.best_grids import best_grids
from orthus_core.distill.contexts import Contexts, record_contexts
from orthus_core.distill.step_errors import FinePaths, fine_times, step_errors
from orthus_core.distill.time_grids import TimeGrids, grids_of_contexts, stored
from orthus_core.errors import CheckpointError, PromptError
from orthus_core.events import Progress
from orthus_core.model.schedule import Schedule, make_schedule
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import DiffusionPatchSampler, denoise, patch_plan
from orthus_core.samplers.prompt import Guidance, mixing
from orthus_core.samplers.solvers import (
    LinearSolver,
    ddim_updates,
    dpm_updates,
    linear_solver,
    solver_for,
)

TIMES = 12
TOY = make_schedule(num_train_timesteps=TIMES, beta_start=0.02, beta_end=0.5)
SPREAD = 0.3


def toy_head(schedule: Schedule, middle_NC: Tensor):
    """The best velocity for features from a normal distribution about each `middle`."""

    def head(x_NC: Tensor, timestep: Tensor) -> Tensor:
        alpha = schedule.alphas_cumprod_T.double()[timestep]
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        gain = signal * SPREAD**2 / (alpha * SPREAD**2 + 1 - alpha)
        clean_NC = middle_NC + gain * (x_NC - signal * middle_NC)
        eps_NC = (x_NC - signal * clean_NC) / noise
        return signal * eps_NC - noise * clean_NC

    return head


def walked(solver: LinearSolver, noise_NC: Tensor, head) -> tuple[Tensor, Tensor]:
    """Samples at each time and at the end, and clean estimates."""
    known, samples, clean = solver.start(noise_NC), [], []
    for step, timestep in enumerate(solver.timesteps_T):
        prediction_NC = head(known[0], timestep)
        samples.append(known[0])
        clean.append(solver.clean_estimate(step, known, prediction_NC))
        known = solver.advance(step, known, prediction_NC)
    return torch.stack([*samples, known[0]]), torch.stack(clean)


@pytest.fixture(scope="module")
def toy() -> tuple[FinePaths, Tensor, Tensor]:
    """Fine paths of a toy of 12 times, their middles, and the noise of the first of each pair."""
    random = torch.Generator().manual_seed(0)
    middle_NC = torch.randn(300, 2, generator=random, dtype=torch.float64)
    noise_2NC = torch.randn(2, 300, 2, generator=random, dtype=torch.float64)
    solver = linear_solver(TOY, dpm_updates, fine_times(TIMES))
    pairs = [walked(solver, noise_NC, toy_head(TOY, middle_NC)) for noise_NC in noise_2NC]
    samples, clean = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
    return FinePaths(samples, clean), middle_NC, noise_2NC[0]


def every_grid(steps: int) -> list[tuple[int, ...]]:
    return [(0, *places) for places in combinations(range(1, TIMES), steps - 1)]


def summed(errors_HIJ: np.ndarray, places: tuple[int, ...]) -> float:
    """The sum that the dynamic programme minimises, written out for one grid."""
    remembers = len(errors_HIJ) > 1
    total, ends = errors_HIJ[-1, places[0], [*places, TIMES][1]], [*places, TIMES]
    for n in range(1, len(places)):
        total += errors_HIJ[places[n - 1] if remembers else 0, places[n], ends[n + 1]]
    return float(total)


@pytest.mark.parametrize("remembers", [False, True])
def test_the_best_grids_are_the_best_of_all_grids(remembers):
    random = np.random.default_rng(0)
    errors_HIJ = random.random((TIMES + 1 if remembers else 1, TIMES, TIMES + 1))
    ordered = np.arange(TIMES + 1) > np.arange(TIMES)[:, None]
    errors_HIJ[:, ~ordered] = np.inf
    if remembers:  # an older time lies before the step; the last of them is none
        errors_HIJ[:TIMES][~(np.arange(TIMES) > np.arange(TIMES)[:, None])] = np.inf
    found = best_grids(errors_HIJ, 99)
    assert len(found) == TIMES
    for steps, grid in enumerate(found, start=1):
        best = min(every_grid(steps), key=lambda places: summed(errors_HIJ, places))
        assert grid.places == best
        assert grid.error == pytest.approx(summed(errors_HIJ, best))


@pytest.mark.parametrize("name", ["ddim", "dpm++"])
def test_of_all_grids_that_are_run_on_the_toy_none_ends_nearer_or_few_do(toy, name):
    """DDIM's errors of a step are of one sign here and add up, so its best grid is found; those of
    the second order cancel in part, which a sum of sizes does not know.
    """
    paths, middle_NC, noise_NC = toy
    updates = {"ddim": ddim_updates, "dpm++": dpm_updates}[name]
    times_T = fine_times(TIMES)
    errors_HIJ = step_errors(TOY, times_T, paths, remembers=name != "ddim")
    for steps, grid in enumerate(best_grids(errors_HIJ, 4), start=1):

        def missed(places: tuple[int, ...]) -> float:
            solver = linear_solver(TOY, updates, times_T[list(places)])
            samples, _ = walked(solver, noise_NC, toy_head(TOY, middle_NC))
            return float((samples[-1] - paths.samples_2JNC[0, -1]).norm())

        ends = sorted(map(missed, every_grid(steps)))
        middle, found = ends[len(ends) // 2], missed(grid.places)
        assert steps == 1 or middle > 1.4 * ends[0], "the grids differ"
        if name == "ddim" or steps < 3:
            assert found == ends[0]
        else:
            assert found < 0.25 * middle and sum(end < found for end in ends) < len(ends) / 8


def test_the_error_of_a_step_is_that_of_a_step_from_the_path(toy):
    paths, middle_NC, _ = toy
    times_T, (older, start, end) = fine_times(TIMES), (1, 4, 8)
    samples, clean = paths.samples_2JNC, paths.clean_2TNC
    size = samples[:, -1].square().mean().sqrt()
    shrinks = (samples[0, -1] - samples[1, -1]).norm() / (samples[0, end] - samples[1, end]).norm()

    def expected(reached_2NC: Tensor) -> float:
        return float((reached_2NC - samples[:, end]).square().mean().sqrt() * shrinks / size)

    head = toy_head(TOY, middle_NC)
    prediction_2NC = head(samples[:, start], times_T[start])
    ((keep, push),) = ddim_updates(TOY, times_T[[start, end]])[0]
    alone = expected(keep * samples[:, start] + push * prediction_2NC)
    # Of three steps the middle one goes from `start` to `end` and remembers `older`.
    of_x, of_older, of_prediction = dpm_updates(TOY, times_T[[older, start, end]])[1][0]
    second = of_x * samples[:, start] + of_older * clean[:, older] + of_prediction * prediction_2NC
    found = step_errors(TOY, times_T, paths, remembers=True)
    assert found[older, start, end] == pytest.approx(expected(second), rel=1e-6)
    for first_order in (found, step_errors(TOY, times_T, paths, remembers=False)):
        assert first_order[-1, start, end] == pytest.approx(alone, rel=1e-6)
    assert np.isinf(found[start, start, end]) and np.isinf(found[older, end, start])
    assert found[older, start, TIMES] == found[-1, start, TIMES], "the last step is of first order"


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_the_grid_of_all_times_is_the_identity(toy, name):
    times_T = fine_times(TIMES)
    assert times_T.tolist() == [*reversed(range(TIMES))]
    errors_HIJ = step_errors(TOY, times_T, toy[0], remembers=name != "ddim")
    whole = best_grids(errors_HIJ, TIMES)[-1].places
    grid = times_T[list(whole)].tolist()
    own, over_grid = solver_for(TOY, name, TIMES), solver_for(TOY, name, TIMES, grid)
    assert torch.equal(own.timesteps_T, over_grid.timesteps_T)
    assert own.updates == over_grid.updates and own.clean == over_grid.clean


def test_fine_times_hold_the_evenly_spaced_and_the_thinning_ones():
    times = fine_times(1000).tolist()
    assert times[0] == 999 and times[-1] == 0 and times == sorted({*times}, reverse=True)
    assert 64 < len(times) < 128


# A model's own grids


@pytest.fixture(scope="module")
def contexts() -> list[Contexts]:
    random = torch.Generator().manual_seed(1)
    mix_NR = mixing([Guidance.text(2.0)] * 4)
    return [Contexts(torch.randn(8, 32, generator=random), mix_NR) for _ in range(4)]


@pytest.fixture(scope="module")
def own_grids(tiny_model, contexts) -> list[TimeGrids]:
    params = SamplingParams(guidance=2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_errors_module, "FINE_STEPS", 16)  # fewer times, sooner
        found = [*grids_of_contexts(tiny_model, contexts, {"ddim": 5, "unipc": 4}, params)]
    return [each for each in found if not isinstance(each, Progress)]


def test_few_contexts_still_leave_some_that_only_measure(tiny_folder):
    opened = Orthus.open(tiny_folder)
    params = SamplingParams.resolve(opened.model.config, steps=2)
    prompts = [opened.builder.picture(text, params) for text in ("a fox", "a snowman")]
    *_, recorded = record_contexts(opened.model, prompts, params, 2)
    assert [each.images for each in recorded] == [2, 2]


def test_a_grid_is_kept_where_it_ends_nearer_on_other_contexts(tiny_model, own_grids):
    assert [(each.solver, [*each.times]) for each in own_grids] == [
        ("ddim", [1, 2, 3, 4, 5]),
        ("unipc", [1, 2, 3, 4]),
    ]
    kept = [error for each in own_grids for error in each.errors if error.is_kept]
    nearer = [error for each in own_grids for error in each.errors if error.grid < error.own]
    assert kept == nearer != [], "DDIM's even times are far from the best"
    for each in own_grids:
        for error in each.errors:
            own = solver_for(tiny_model.schedule, each.solver, error.steps).timesteps_T.tolist()
            assert (list(each.times[error.steps]) != own) == error.is_kept


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_patches_are_denoised_over_the_grids_of_their_numbers_of_steps(tiny_model, contexts, name):
    grids = {2: (999, 300), 3: (999, 500, 40), 4: (999, 700, 400, 5)}
    flat = tuple(time for grid in grids.values() for time in grid)
    given = {"steps": 4, "last_steps": 2, "scheduler": name, "time_grid": flat}
    sampler = DiffusionPatchSampler(tiny_model, SamplingParams(**given))
    hidden_RD, mix_NR = contexts[0]
    noise_NC = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    for drawn, steps in ((0, 4), (1, 3), (3, 2)):
        plan = patch_plan(tiny_model, steps, name, time_grid=grids[steps])
        assert tuple(plan.solver.timesteps_T.tolist()) == grids[steps]
        found = sampler.draw(hidden_RD, noise_NC, mix_NR, [drawn] * 4)
        assert torch.equal(found, denoise(plan, hidden_RD, noise_NC, mix_NR))


def test_presets_but_exact_take_the_models_own_grids(tiny_config, own_grids):
    tiny_config.sampling = {"steps": 4, "time_grids": stored(own_grids, tiny_config)}
    unipc, ddim = own_grids[1].times, own_grids[0].times
    turbo = SamplingParams.resolve(tiny_config, preset="turbo")
    assert turbo.time_grid == (*unipc[2], *unipc[3], *unipc[4])
    assert turbo.to_dict()["time_grid"] == turbo.time_grid
    others = SamplingParams.resolve(tiny_config, preset="fast", scheduler="ddim", steps=2)
    assert others.time_grid == (*ddim[1], *ddim[2])
    for asked in (
        {"preset": "exact"},
        {"preset": "fast"},  # of dpm++, of which there are none
        {"preset": "turbo", "steps": 9},  # more than there are grids of
    ):
        params = SamplingParams.resolve(tiny_config, **asked)
        assert params.time_grid is None and "time_grid" not in params.to_dict()
    none = SamplingParams.resolve(tiny_config, preset="turbo", time_grid=())
    assert none.time_grid == () and none.to_dict()["time_grid"] == ()


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        (lambda each: each["schedule"].update(beta_end=0.02), "unipc", "beta_end 0.02 there"),
        (lambda each: each["times"].update({"3": [999, 5]}), "unipc.times.3", "of 2 timesteps"),
        (lambda each: each["times"].update({"2": [998, 5]}), "unipc.times.2", "begins with 999"),
        (lambda each: each["times"].update({"2": [999, 999]}), "unipc.times.2", "and falls"),
        (lambda each: each["times"].update({"4": "all"}), "unipc.times.4", "list of timesteps"),
        (lambda each: each.pop("schedule"), "unipc", "a schedule or times are missing"),
    ],
)
def test_a_stored_grid_that_cannot_be_is_refused(tiny_config, own_grids, change, where, message):
    grids = stored(own_grids, tiny_config)
    change(grids["unipc"])
    tiny_config.sampling = {"steps": 4, "time_grids": grids}
    with pytest.raises(CheckpointError, match=message) as caught:
        SamplingParams.resolve(tiny_config, preset="turbo")
    assert caught.value.where == f"config.json: sampling.time_grids.{where}"
    assert "orthus distill grid" in (caught.value.hint or "")
    SamplingParams.resolve(tiny_config, preset="exact")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 3, "time_grid": (999, 5)}, "a patch takes 3 steps, and the time grid is of 2"),
        ({"steps": 3, "last_steps": 2, "time_grid": (999, 5, 0)}, "takes 2 steps.* is of 3"),
        ({"steps": 2, "scheduler": "heun", "time_grid": (999, 5)}, "heun steps over its own"),
        ({"steps": 2, "time_grid": (99, 5)}, "from 99 to 5, and the schedule's are 999 to 0"),
        ({"steps": 2, "time_grid": (999, -1)}, "from 999 to -1"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused_before_a_patch_is_drawn(tiny_model, given, message):
    with pytest.raises(PromptError, match=message) as caught:
        DiffusionPatchSampler(tiny_model, SamplingParams(**given))
    assert caught.value.where == "time_grid" and caught.value.hint
