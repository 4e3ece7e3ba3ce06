"""A few-step head: it starts as its teacher's DDIM, its loss is 0 for exact flow maps alone, it
learns one, and a training of it goes on bit for bit or is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.checkpoint.model_folder import open_orthus, save_model
from orthus_core.data.document import Document, turn
from orthus_core.data.pictures import FilePicture
from orthus_core.distill.head import (
    CONTEXTS,
    FLOW_MAP,
    HeadStage,
    distill_head,
    params_of,
    put_head,
    student_of,
)
from orthus_core.distill.head_contexts import HeadContexts, record_rows
from orthus_core.distill.time_grids import check_solvers
from orthus_core.errors import CheckpointError, PromptError, TrainingError
from orthus_core.events import StepDone
from orthus_core.losses.flow_map import Angles, FlowMapLoss, draw_steps
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.flow_map_head import FlowMapHead, angles
from orthus_core.model.schedule import make_schedule
from orthus_core.recipe import BuildBaseRecipe, DistillHeadRecipe, PosttrainRecipe, load
from orthus_core.recipe.distill_head import AnglesRecipe
from orthus_core.samplers.cuda_graph import CUDAGraphCache
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import DiffusionPatchSampler, denoise, patch_plan
from orthus_core.samplers.prompt import Guidance, mixing
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.reference import prompt_ids
from orthus_core.samplers.solvers import flow_map, solver_for
from orthus_core.train.trainings import build_base, posttrain, words_of
from tests.conftest import lines_of_metrics, make_tiny_model
from tests.core.toy_data import SHORT, pictures_with_words, words

SCHEDULE = make_schedule(num_train_timesteps=200)


# How it starts and is drawn with.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_starts_as_few_step_ddim_of_its_teacher(tiny_model, dtype):
    student = student_of(tiny_model, seed=0)
    heads = [DenoisingHead(h, dtype=dtype) for h in (tiny_model.diffusion_head, student)]
    random = torch.Generator().manual_seed(0)
    hidden_RD = torch.randn(6, 32, generator=random)
    noise_NC = torch.randn(3, 8, generator=random)
    mix_NR = mixing([Guidance.text(3.0)] * 3)
    for steps, grid in ((1, None), (2, None), (4, None), (3, (999, 700, 20))):
        ends = [
            denoise(patch_plan(tiny_model, steps, name, head, grid), hidden_RD, noise_NC, mix_NR)
            for name, head in zip(("ddim", FLOW_MAP), heads, strict=True)
        ]
        assert torch.equal(*ends)


def moved(student: FlowMapHead) -> FlowMapHead:
    """The student once it has learnt something of where a step ends."""
    with torch.no_grad():
        for parameter in student.time_embed.end_mlp.parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return student


def test_a_run_is_the_heads_own_jumps(tiny_model):
    """Hoisted modulations, and a recording's buffers, compute what the head is defined as."""
    student = moved(student_of(tiny_model, seed=0))
    random = torch.Generator().manual_seed(0)
    hidden_RD, x_1C = torch.randn(2, 32, generator=random), torch.randn(1, 8, generator=random)
    mix_1R = mixing([Guidance.text(2.0)])
    plan = patch_plan(tiny_model, 3, FLOW_MAP, DenoisingHead(student))
    calls = CUDAGraphCache()
    ends = [calls(3, lambda *t: denoise(plan, *t), hidden_RD, x_1C, mix_1R) for _ in range(3)]
    of_times = angles(tiny_model.schedule)
    starts = plan.solver.timesteps_T.tolist()
    for start, end in zip(starts, [*(of_times[t] for t in starts[1:]), 0.0], strict=True):
        way = torch.tensor(end - of_times[start])
        time_R, end_R = torch.full((2,), start), torch.full((2,), end)
        with torch.no_grad():
            found_RC = student(x_1C.expand(2, -1), time_R, hidden_RD, end_R)
        x_1C = way.cos() * x_1C + way.sin() * (mix_1R @ found_RC)
    for found_1C in ends:
        wanted_1C = x_1C / tiny_model.config.latent_scale
        torch.testing.assert_close(found_1C, wanted_1C, rtol=1e-4, atol=1e-4)  # three fp32 steps
    assert not torch.allclose(student(x_1C.expand(2, -1), time_R, hidden_RD, end_R), found_RC)


def test_between_timesteps_a_flow_map_head_reads_angles_between(tiny_model):
    student = student_of(tiny_model, seed=0)
    of_times = angles(tiny_model.schedule)
    found_N = student.angles_at(torch.tensor([0.0, 41.5, 999.0, 1200.0]))
    wanted = [of_times[0], (of_times[41] + of_times[42]) / 2, math.pi / 2, math.pi / 2]
    torch.testing.assert_close(found_N, torch.tensor(wanted))


# What it learns.


class Gaussian(nn.Module):
    """A normal distribution about each `middle`: its field as a teacher, its flow map as a student.

    Args:
        knows_end: Whether it is the flow map; otherwise every step goes on as it starts, as DDIM.
    """

    spread = 0.4

    def __init__(self, *, knows_end: bool) -> None:
        super().__init__()
        self.knows_end = knows_end

    def angles_at(self, t_N: Tensor) -> Tensor:
        return torch.tensor(angles(SCHEDULE), dtype=torch.float64)[t_N]

    def wide(self, angle_N: Tensor) -> Tensor:
        return ((angle_N.cos() * self.spread) ** 2 + angle_N.sin() ** 2).sqrt()

    def forward(self, x_NC, t_N, middle_NC, end_N=None):
        start_N = self.angles_at(t_N)
        s_N1 = start_N.unsqueeze(-1)
        away_NC = x_NC - s_N1.cos() * middle_NC
        slope_N1 = s_N1.cos() * s_N1.sin() * (1 - self.spread**2) / self.wide(s_N1) ** 2
        field_NC = -s_N1.sin() * middle_NC + slope_N1 * away_NC
        if end_N is None or not self.knows_end:
            return field_NC
        e_N1 = end_N.unsqueeze(-1)
        there_NC = e_N1.cos() * middle_NC + self.wide(e_N1) / self.wide(s_N1) * away_NC
        way_N1 = e_N1 - s_N1
        stands_N1 = way_N1.abs() < 1e-9
        way_N1 = torch.where(stands_N1, 1.0, way_N1)
        jump_NC = (there_NC - way_N1.cos() * x_NC) / way_N1.sin()
        return torch.where(stands_N1, field_NC, jump_NC)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (2.5, -1.5)])
def test_both_terms_are_zero_for_an_exact_flow_map_and_for_no_other(weights):
    random = torch.Generator().manual_seed(0)
    middle_NRC = torch.randn(50, 1, 3, generator=random).expand(-1, 2, -1).double()
    weights_NR = torch.tensor([weights]).expand(50, -1).double()
    how = Angles(mean=0.0, spread=1.0, noise_share=0.15, jumps=0.5)
    steps = draw_steps(middle_NRC, weights_NR, middle_NRC[:, 0], SCHEDULE, 4, random, how)
    steps = replace(steps, noisy_QC=steps.noisy_QC.double())
    away = steps.ends_J < steps.starts_Q[-len(steps.ends_J) :]
    assert len(steps) == 200 and len(steps.ends_J) == 100 and (steps.ends_J == -1).any()
    assert away.float().mean() > 0.8 and (steps.starts_Q == 199).float().mean() > 0.1
    # Within the first timestep the teacher's field is that timestep's, so the exact map is not.
    exact = FlowMapLoss(Gaussian(knows_end=True), Gaussian(knows_end=False), SCHEDULE)
    ddim = FlowMapLoss(Gaussian(knows_end=False), Gaussian(knows_end=False), SCHEDULE)
    diagonal, jump = exact(steps)[1:]
    assert diagonal < 1e-10 and jump < 1e-4
    total, diagonal, jump = ddim(steps)
    assert diagonal < 1e-10 and jump > 0.01
    assert total == pytest.approx((diagonal + jump) / 2)


class Mixture(nn.Module):
    """The field of three normal distributions in the plane."""

    spread = 0.6

    def __init__(self) -> None:
        super().__init__()
        self.middles_KC = torch.tensor([[1.2, 0.0], [-0.6, 1.0], [-0.6, -1.0]])
        self.angles_T = torch.tensor(angles(SCHEDULE), dtype=torch.float32)

    def forward(self, x_NC, t_N, cond_ND):
        s_N1 = self.angles_T[t_N].unsqueeze(-1)
        wide_N1 = (s_N1.cos() * self.spread) ** 2 + s_N1.sin() ** 2
        away_NKC = x_NC.unsqueeze(1) - s_N1.unsqueeze(-1).cos() * self.middles_KC
        share_NK1 = (-away_NKC.square().sum(-1) / (2 * wide_N1)).softmax(-1).unsqueeze(-1)
        slope_N1 = s_N1.cos() * s_N1.sin() * (1 - self.spread**2) / wide_N1
        field_NKC = -s_N1.unsqueeze(-1).sin() * self.middles_KC
        return (share_NK1 * (field_NKC + slope_N1.unsqueeze(-1) * away_NKC)).sum(1)


def test_the_flow_map_of_a_mixture_is_learnt_to_two_percent():
    torch.manual_seed(0)
    teacher = Mixture()
    student = FlowMapHead(2, 1, 64, 2, angles(SCHEDULE))
    loss = FlowMapLoss(student, teacher, SCHEDULE)  # type: ignore[arg-type]
    count, length = 192, 380
    optimizer = torch.optim.Adam(student.parameters(), 1.2e-2, (0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length)
    random = torch.Generator().manual_seed(0)
    nothing_NRD, one_NR = torch.zeros(count, 1, 1), torch.ones(count, 1)
    for _ in range(length):
        own_N = torch.randint(3, (count,), generator=random)
        noise_NC = torch.randn(count, 2, generator=random)
        clean_NC = teacher.middles_KC[own_N] + teacher.spread * noise_NC
        how = Angles(mean=0.0, spread=1.0, noise_share=0.4, jumps=0.5)
        steps = draw_steps(nothing_NRD, one_NR, clean_NC, SCHEDULE, 2, random, how)
        optimizer.zero_grad()
        loss(steps).total.backward()
        optimizer.step()
        schedule.step()

    @torch.no_grad()
    def end(head: nn.Module, solver) -> Tensor:
        x_NC = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
        for step, time in enumerate(solver.timesteps_T.tolist()):
            ends = () if solver.ends_T is None else (solver.ends_T[step].expand(500),)
            found_NC = head(x_NC, torch.full((500,), time), torch.zeros(500, 1), *ends)
            (x_NC,) = solver.advance(step, [x_NC], found_NC)
        return x_NC

    wanted_NC = end(teacher, solver_for(SCHEDULE, "ddim", 200))
    for steps in (1, 4):
        missed = (end(student, flow_map(SCHEDULE, steps)) - wanted_NC).norm() / wanted_NC.norm()
        ddim = (end(teacher, solver_for(SCHEDULE, "ddim", steps)) - wanted_NC).norm()
        assert missed < 0.02 < 0.1 < ddim / wanted_NC.norm(), f"{steps} steps: {missed}"


# A training of it.

FEW = (
    *("pictures=4", "patch_share=0.5", "draws=2", "optim.steps=4", "optim.batch_size=3"),
    *("optim.warmup_steps=1", "optim.lr=1e-2", "log.every=1", "log.sample_every=0"),
    *("log.save_every=2", "log.validate_every=4", "log.validate_rows=2", "data.held_out=0.2"),
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> DistillHeadRecipe:
    data = pictures_with_words(tmp_path_factory.mktemp("data") / "squares", 12)
    return load(DistillHeadRecipe, None, [*FEW, f"data.source={data}", "steps=3"])


@pytest.fixture(scope="module")
def distilled(tiny_folder, recipe, tmp_path_factory):
    """A model with a new head, its training beside it."""
    out = tmp_path_factory.mktemp("distilled") / "fast"
    notes = [str(event) for event in distill_head(recipe, tiny_folder, out)]
    assert sum("error at the end of a patch" in note for note in notes) == 3
    return out


def test_a_training_goes_on_bit_for_bit(tiny_folder, recipe, distilled, tmp_path):
    out, done = tmp_path / "fast", list[int]()
    for event in distill_head(recipe, tiny_folder, out, should_stop=lambda: 2 in done):
        if isinstance(event, StepDone):
            done.append(event.step)
    assert done == [1, 2] and not out.exists()
    for _ in distill_head(recipe, tiny_folder, out, resume=True):
        pass
    one, other = (load_file(folder / "model.safetensors") for folder in (distilled, out))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    lines = [lines_of_metrics(folder / "metrics.jsonl") for folder in (distilled, out)]
    assert lines[0] == lines[1]
    assert {"diagonal", "jump", "validation_jump"} <= lines[0][-1].keys()
    # The head alone has moved.
    before = load_file(tiny_folder / "model.safetensors")
    changed = {name for name in before if not before[name].equal(one[name])}
    assert changed and all(name.startswith("mlp_head.") for name in changed)
    assert one["mlp_head.time_embed.end_mlp.2.weight"].any()


def test_steps_start_and_jump_as_the_recipe_says(recipe):
    how = AnglesRecipe(mean=-0.7, spread=0.6, noise_share=0.3, jumps=0.25)
    asked = replace(recipe, patch_share=1.0, draws=64, angles=how)
    asked = replace(asked, optim=replace(asked.optim, batch_size=16))
    stage = HeadStage(asked, SimpleNamespace(schedule=SCHEDULE))  # type: ignore[arg-type]
    picture_SPRD = torch.arange(16.0).view(16, 1, 1, 1).expand(-1, 4, -1, -1)
    contexts = HeadContexts(picture_SPRD, torch.ones(16, 4, 1), torch.zeros(16, 4, 2))
    stage.contexts[CONTEXTS] = contexts
    ((steps,),) = stage.parts(0, 1)
    assert len(steps) == 16 * 4 * 64 and len(steps.ends_J) == len(steps) / 4
    noise_Q = steps.starts_Q == 199
    assert noise_Q.float().mean() == pytest.approx(0.3, abs=0.03)
    angles_T = torch.tensor(angles(SCHEDULE))
    logits = (angles_T[steps.starts_Q[~noise_Q]] / (math.pi / 2)).logit()
    assert logits.mean() == pytest.approx(-0.7, abs=0.05)
    assert logits.std() == pytest.approx(0.6, abs=0.05)
    way_J = angles_T[steps.ends_J.clamp(min=0)] / angles_T[steps.starts_Q[-len(steps.ends_J) :]]
    assert way_J.quantile(torch.tensor([0.25, 0.75])).tolist() == pytest.approx(
        [0.25, 0.75], abs=0.05
    )
    # A batch of all pictures does not let the same ones jump each time.
    stage = HeadStage(replace(asked, patch_share=0.25, draws=1), stage.objective)
    stage.contexts[CONTEXTS] = contexts
    jumping = [steps.hidden_QRD[-len(steps.ends_J) :] for (steps,) in stage.parts(0, 8)]
    assert len(torch.cat(jumping)) == 8 * 4 and len(torch.cat(jumping).unique()) > 8


def test_a_new_head_is_guided_at_all_timesteps(recipe):
    model = make_tiny_model(sampling={"guidance_interval": [200, 800], "guidance": 2.0})
    assert SamplingParams.resolve(model.config).guidance_interval == (200, 800)
    assert {each.guidance_interval for each in params_of(recipe, model.config).values()} == {()}
    put_head(model, student_of(model, seed=0), 3, params_of(recipe, model.config))
    drawn = SamplingParams.resolve(model.config)
    assert (drawn.guidance_interval, drawn.guidance, drawn.steps) == (None, 2.0, 3)
    assert {*model.config.sampling} == {"guidance", "scheduler", "steps"}


@pytest.mark.parametrize(
    ("asked", "drawn_with"),
    [
        ({}, (2.0, 2.5, 2.0)),
        ({"guidance": 6.0}, (6.0, 2.5, 2.0)),
        ({"edit_guidance": 4.0}, (2.0, 4.0, 2.0)),
        ({"guidance": 6.0, "edit_guidance": 4.0}, (6.0, 4.0, 2.0)),
    ],
)
def test_a_new_head_is_drawn_with_at_the_guidance_it_learnt(recipe, asked, drawn_with):
    model = make_tiny_model(sampling={"guidance": 2.0, "edit_guidance": 2.5})
    params = params_of(replace(recipe, **asked), model.config)
    put_head(model, student_of(model, seed=0), 3, params)
    tasks = ("picture", "edit", "story")
    assert drawn_with == tuple(SamplingParams.resolve(model.config, t).guidance for t in tasks)


def test_more_steps_than_the_schedule_has_are_refused_before_anything(
    recipe, tiny_folder, tmp_path
):
    with pytest.raises(PromptError, match="1001 sampling steps"):
        list(distill_head(replace(recipe, steps=1001), tiny_folder, tmp_path / "out"))
    assert not [*tmp_path.glob("out*")]


def test_contexts_are_what_a_whole_pass_over_the_row_gives(tiny_folder, tmp_path):
    """The contexts of true or of drawn pictures: hidden states of both branches, and the weights
    that guidance gives them at each patch.
    """
    folder = pictures_with_words(tmp_path / "squares", 3)
    opened = open_orthus(tiny_folder, device="cpu", dtype="fp32")
    model, tokenizer = words_of(opened)
    documents = [
        Document(turn("user", words(n)) + turn("model", FilePicture(folder / f"00{n}.png")))
        for n in range(3)
    ]
    read = PromptBuilder(model, tokenizer).features([each.pictures[0] for each in documents])
    rising = [[1.25, -0.25], [1.5, -0.5], [1.75, -0.75], [2.0, -1.0]]
    for self_drawn, schedule, weights in (
        (0.0, "constant", [[2.0, -1.0]] * 4),
        (1.0, "linear", rising),
    ):
        resolved = SamplingParams.resolve(model.config, steps=2, guidance_schedule=schedule)
        params = {"picture": resolved}
        *_, kept = record_rows(
            model, tokenizer, documents.__getitem__, params, 3, self_drawn=self_drawn, seed=0
        )
        assert torch.equal(kept.features_SPC, read) is (self_drawn == 0)
        assert kept.weights_SPR.tolist() == [weights] * 3
        for picture, features_PC in enumerate(kept.features_SPC):
            for branch, text in enumerate((words(picture), params["picture"].negative_prompt)):
                ids = prompt_ids(model.config, tokenizer, text)
                ids_1S = torch.tensor([ids + [model.config.image_token_id] * 4])
                with torch.no_grad():
                    hidden_SD = model.run_backbone(ids_1S, features_PC).hidden_BSD[0]
                found_PD = kept.hidden_SPRD[picture, :, branch]
                torch.testing.assert_close(found_PD, hidden_SD[-5:-1], atol=2e-5, rtol=1e-4)


def test_another_teacher_another_schedule_or_other_rows_do_not_go_on(
    tiny_folder, recipe, distilled, tmp_path
):
    opened = open_orthus(tiny_folder, device="cpu", dtype="fp32")
    config = opened.model.config
    opened.model.lm_head.weight.data[0] += 1
    save_model(opened.model, opened.processor, tmp_path / "other")
    opened.model.lm_head.weight.data[0] -= 1
    config.beta_end = 0.02
    save_model(opened.model, opened.processor, tmp_path / "noisier")
    for teacher in (tmp_path / "other", tmp_path / "noisier"):
        with pytest.raises(TrainingError, match="init_from"):
            list(distill_head(recipe, teacher, distilled, resume=True))
    longer = replace(recipe, optim=replace(recipe.optim, steps=6), pictures=5)
    with pytest.raises(TrainingError, match="pictures = 4, now 5"):
        list(distill_head(longer, tiny_folder, distilled, resume=True))


def test_what_a_flow_map_head_is_not_for_is_refused(tiny_folder, recipe, distilled, tmp_path):
    for trainer, schema in ((build_base, BuildBaseRecipe), (posttrain, PosttrainRecipe)):
        with pytest.raises(CheckpointError, match="distilled for few steps"):
            list(trainer(load(schema, None, SHORT), distilled, tmp_path / "out"))
    with pytest.raises(CheckpointError, match="a flow map already"):
        list(distill_head(recipe, distilled, tmp_path / "out"))
    with pytest.raises(PromptError, match="flow-map steps over its own timesteps"):
        check_solvers(["flow-map"])
    plain, fast = (open_orthus(f, device="cpu").model for f in (tiny_folder, distilled))
    params = SamplingParams.resolve(plain.config, scheduler=FLOW_MAP)
    with pytest.raises(PromptError, match="this model's head is a plain one"):
        DiffusionPatchSampler(plain, params)
    params = SamplingParams.resolve(fast.config, step_tolerance=0.1)
    with pytest.raises(PromptError, match="no patch can stop early"):
        DiffusionPatchSampler(fast, params)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"prediction": "epsilon", "zero_terminal_snr": False}, "predicts epsilon"),
        ({"image_head": "mse"}, "has no diffusion head"),
    ],
)
def test_a_model_without_velocities_is_no_teacher(fields, message, tiny_folder, recipe, tmp_path):
    folder = save_model(make_tiny_model(**fields), None, tmp_path / "model")
    with pytest.raises(CheckpointError, match=message):
        list(distill_head(recipe, folder, tmp_path / "out"))
    table = json.loads((folder / "config.json").read_text()) | {"flow_map_head": True}
    (folder / "config.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="flow_map_head is true"):
        open_orthus(folder, device="cpu")


def test_a_plain_head_says_nothing_of_flow_maps(tiny_model, tiny_folder):
    assert "flow_map_head" not in json.loads((tiny_folder / "config.json").read_text())
    assert not any("end_mlp" in name for name in tiny_model.state_dict())


# What draws with it.


def orthus_command(*words):
    """Runs `orthus WORDS...` in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")


def test_the_model_draws_with_its_new_head_wherever_models_draw(distilled, tiny_folder, tmp_path):
    shown = json.loads(orthus_command("--format", "json", "info", distilled).stdout)
    facts = shown["sampling"]
    assert shown["image_head"] == "flow map" and shown["origin"]["teacher"] == "tiny"
    assert (facts["scheduler"], facts["steps"]) == ("flow-map", 3)
    assert {"flow-map 3", "ddim 3", "unipc 8"} <= shown["origin"]["end_errors"].keys()
    pictures = {}
    for name, options in {
        "own": (),
        "turbo": ("--preset", "turbo"),
        "ddim": ("--scheduler", "ddim"),
        "bf16": ("--dtype", "bf16", "--steps", 1),
    }.items():
        out = tmp_path / f"{name}.png"
        asked = ("generate", "a fox", "--seed", 1, "-m", distilled, "--device", "cpu", "-o", out)
        done = orthus_command(*asked, *options)
        assert done.exit_code == 0, done.stderr
        assert orthus_command("replay", out).stdout == "identical\n"
        pictures[name] = json.loads(orthus_command("info", out, "--format", "json").stdout)
    sampling = {name: each["record"]["sampling"] for name, each in pictures.items()}
    assert {n: (s["scheduler"], s["steps"]) for n, s in sampling.items()} == {
        "own": ("flow-map", 3),
        "turbo": ("flow-map", 3),
        "ddim": ("ddim", 3),
        "bf16": ("flow-map", 1),
    }
    assert len({(tmp_path / f"{n}.png").read_bytes() for n in pictures}) == 4
    done = orthus_command(
        *("generate", "a fox", "-m", tiny_folder, "--device", "cpu", "-o", tmp_path / "no.png"),
        *("--scheduler", "flow-map"),
    )
    assert done.exit_code == 1 and "orthus distill head" in done.stderr
