"""Figures of a training's speed: counted work, rates over processes, trackers, the profile."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from accelerate import tracking
from torch.utils.flop_counter import FlopCounterMode

from orthus_core.data.collate import Batch
from orthus_core.errors import TrainingError
from orthus_core.events import Note, StepDone
from orthus_core.losses.joint import JointLoss
from orthus_core.losses.picture_loss import PictureLoss
from orthus_core.recipe.training import AutoencoderLosses, LogRecipe
from orthus_core.train import profiler, throughput
from orthus_core.train.autoencoder import DecoderObjective
from orthus_core.train.card_rates import peak_flops
from orthus_core.train.distributed import Rank
from orthus_core.train.flops import PAIR, Work, counter_of, documents_of, row_costs
from orthus_core.train.freeze import all_but_autoencoder, only_image_parts
from orthus_core.train.loop import train
from orthus_core.train.metrics import MetricsLogger, check_trackers
from orthus_core.train.throughput import DATA, FORWARD, REST, SAVING, Meter
from tests.conftest import make_tiny_model
from tests.core.test_train_loop import Fit, optim

ROWS, WORDS = 3, 12


def batch_of(config, padding: int = 0) -> Batch:
    """Rows of words, of which each but the first is predicted, and a picture."""
    patches = config.patches
    ids = [0, *[50] * WORDS, config.boi_token_id, *[config.image_token_id] * patches, 5]
    ids_BS = torch.tensor([ids + [1] * padding] * ROWS)
    length = ids_BS.shape[1]
    targets_BS = torch.full_like(ids_BS, -100)
    targets_BS[:, :WORDS] = 50
    slots_N = (ids_BS.flatten() == config.image_token_id).nonzero().flatten()
    return Batch(
        ids_BS,
        (torch.arange(length) < len(ids)).long().expand(ROWS, -1),
        torch.arange(length).expand(ROWS, -1),
        targets_BS,
        slots_N - 1,
        torch.randn(len(slots_N), config.feature_channels),
    )


SIZES = {"hidden_size": 64, "intermediate_size": 192, "head_width": 64, "num_hidden_layers": 3}


@pytest.mark.parametrize(
    ("trained", "options"),
    [
        (all_but_autoencoder, {"repeats": 3}),
        (all_but_autoencoder, {"repeats": 4, "patch_share": 0.5, "text_weight": 0}),
        (only_image_parts, {"repeats": 2, "text_weight": 0}),
        (all_but_autoencoder, {"repeats": 2, "lambda_image": 0}),
    ],
)
def test_the_work_of_a_step_is_what_torch_counts(trained, options):
    """All products but those that only give a gradient to an input that asks for none."""
    model = make_tiny_model(**SIZES)
    trained(model)
    objective = JointLoss(model, **options).train()
    batch = batch_of(model.config)
    with FlopCounterMode(display=False) as counter:
        objective(batch).total.backward()
    by_operation = counter.get_flop_counts()["Global"]
    products = sum(n for name, n in by_operation.items() if "dot_product" not in str(name))
    work = counter_of(objective)(batch)
    tokens, pairs = documents_of(batch.attention_mask_BS)
    config = model.config
    attention = PAIR * config.hidden_size * config.num_hidden_layers * pairs
    assert work.tokens == tokens and work.pictures == ROWS
    assert work.flops - attention == pytest.approx(products, rel=0.03)
    codes = config.num_codes * (config.feature_channels + config.hidden_size)
    assert row_costs(model).slot == 6 * codes, "too few codes here to show above"


def test_padding_is_no_work_and_documents_side_by_side_see_only_themselves():
    model = make_tiny_model()
    all_but_autoencoder(model)
    count = counter_of(JointLoss(model))
    assert count(batch_of(model.config)) == count(batch_of(model.config, padding=9))
    documents_BS = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0], [0] * 6])
    assert documents_of(documents_BS) == (6, (1 + 2 + 3) + (1 + 2) + 1)


def test_an_autoencoders_work_is_its_encoder_once_and_its_decoder_three_times():
    vq = make_tiny_model().model.vqmodel
    objective = DecoderObjective(vq, PictureLoss(AutoencoderLosses()), 0.0)
    vq.encoder.requires_grad_(False)
    pixels_M3HW = torch.rand(2, 3, 16, 16)
    found = []
    for way in (lambda: vq.features(pixels_M3HW), lambda: vq.pixels(torch.rand(2, 4, 8))):
        with FlopCounterMode(display=False) as counter:
            way()
        found.append(counter.get_total_flops())
    patches = vq.features(pixels_M3HW).shape[1]
    assert patches == 4
    assert counter_of(objective)(pixels_M3HW) == Work(0, 2, found[0] + 3 * found[1])


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA RTX 6000 Ada Generation", 364e12),
        ("AMD Instinct MI300X", 1307e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce GTX 1080", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peaks_are_known_by_the_names_that_drivers_tell(name, peak):
    assert peak_flops(name) == peak


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_sums_over_processes_and_mfu_is_of_all_their_cards(monkeypatch):
    clock = Clock()
    meter = Meter(torch.nn.Linear(1, 1), torch.device("cpu"), clock)
    meter._count = lambda batch: Work(*batch)
    meter._peak = 1000.0
    monkeypatch.setattr(throughput, "current_rank", lambda: Rank(1, 2))
    monkeypatch.setattr(throughput, "peak_memory", lambda device: 3e9)
    # The other process: 8 s a window, 6 of them waiting; 100 tokens, 2 pictures, 4000 operations.
    other = torch.tensor([8.0, 6.0, 5e9, 100.0, 2.0, 4000.0], dtype=torch.float64)
    monkeypatch.setattr(
        throughput, "all_reduce_sum", lambda own: own + torch.stack([other, 0 * other])
    )
    for _ in range(2):  # the second window is like the first: nothing is told twice
        for part, seconds in ((DATA, 2), (FORWARD, 8), (SAVING, 100)):
            meter.enter(part)
            clock.now += seconds
        meter.count((50, 1, 2000))
        meter.count((50, 1, 2000))
        assert meter.figures() == {
            "speed/tokens_per_second": 20,
            "speed/pictures_per_second": 0.4,
            "speed/flops_per_second": 800,
            "speed/mfu": 0.4,
            "speed/waiting": pytest.approx((0.2 + 0.75) / 2),
            "speed/memory_gb": 5,
        }
    assert meter.seconds[SAVING] == 200


LOG = LogRecipe(every=2, sample_every=0, save_every=0)


def test_lines_of_figures_and_steps_tell_how_fast_it_is(tmp_path):
    events = list(train(Fit(), optim=optim(), log=LOG, seed=0, folder=tmp_path))
    steps = [event for event in events if isinstance(event, StepDone)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for line in lines:
        assert 0 < line["speed/waiting"] < 1 and line["speed/memory_gb"] > 0.05
        assert "speed/mfu" not in line, "of a processor no peak is known"
    assert not steps[0].speed and steps[1].speed == steps[2].speed
    assert not any(name.startswith("speed/") for name in steps[-1].metrics)


class Tracker:
    """What accelerate's trackers are."""

    requires_logging_directory = False
    main_process_only = True
    made: ClassVar[list[Tracker]] = []

    def __init__(self, project: str, **options: object) -> None:
        self.project, self.options, self.told, self.ended = project, options, [], False
        self.made.append(self)

    def start(self) -> None:
        self.begun = True

    def store_init_configuration(self, values: dict) -> None:
        self.about = values

    def log(self, values: dict, step: int) -> None:
        if step == 6:
            raise OSError("no network")
        self.told.append((step, values))

    def finish(self) -> None:
        self.ended = True


@pytest.fixture
def fake_wandb(monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Tracker)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    monkeypatch.setattr(Tracker, "made", [])
    return Tracker


def test_a_tracker_is_told_every_figure_until_it_fails_and_the_training_goes_on(
    tmp_path, fake_wandb
):
    log = replace(LOG, trackers=("wandb",))
    origins = {"seed": 0, "lora.targets": ("q_proj",)}
    run = train(Fit(), optim=optim(), log=log, seed=0, folder=tmp_path, origins=origins)
    events = list(run)
    (tracker,) = fake_wandb.made
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert tracker.begun and [{"step": step, **v} for step, v in tracker.told] == lines[:2]
    assert tracker.about["seed"] == 0 and tracker.about["lora.targets"] == "('q_proj',)"
    run_id = json.loads((tmp_path / "run.json").read_text())["id"]
    assert tracker.options["id"] == run_id and tracker.options["resume"] == "allow"
    notes = [event.message for event in events if isinstance(event, Note)]
    assert [n for n in notes if "wandb" in n] == ["wandb is told no more figures: no network"]
    assert len(lines) == 4

    book = MetricsLogger(tmp_path / "other", 0, False, trackers=("wandb",), run="r")
    book.close()
    assert fake_wandb.made[-1].ended


def test_a_tracker_that_is_not_there_is_refused_before_the_first_step(tmp_path, fake_wandb):
    with pytest.raises(TrainingError, match="mlflow, which is not installed"):
        log = replace(LOG, trackers=("mlflow",))
        list(train(Fit(), optim=optim(), log=log, seed=0, folder=tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()
    with pytest.raises(TrainingError, match="no tracker 'wanda'"):
        check_trackers(("wandb", "wanda"))
    with pytest.raises(TrainingError, match=r"log\.tensorboard is the key"):
        check_trackers(("tensorboard",))


@pytest.mark.parametrize(("steps", "counted"), [(9, 3), (5, 2)])
def test_a_profile_has_a_trace_and_a_table_of_the_steps_after_it(tmp_path, steps, counted):
    run = train(Fit(), optim=optim(steps=steps), log=LOG, seed=0, folder=tmp_path, profile=True)
    notes = [event.message for event in run if isinstance(event, Note)]
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert "aten::linear" in names
    table = (tmp_path / "profile" / "parts.txt").read_text()
    assert table.startswith(f"where the time of {counted} steps went")
    assert all(line in notes for line in table.splitlines())
    shares = [float(line.split()[-1].rstrip("%")) for line in table.splitlines()[1:-1]]
    assert len(shares) == 7 and sum(shares) == pytest.approx(100, abs=0.5)
    assert (f"steps 4 to {min(6, steps)} of this run are traced") in " ".join(notes)


@pytest.mark.parametrize("steps", [4, 6, 8])
def test_beginning_and_writing_the_trace_counts_to_no_part(tmp_path, monkeypatch, steps):
    clock = Clock()

    def takes(seconds):
        def work(*_):
            clock.now += seconds

        return work

    monkeypatch.setattr(profiler.profile, "start", takes(50.0))
    monkeypatch.setattr(profiler.profile, "stop", takes(70.0))
    monkeypatch.setattr(profiler.profile, "export_chrome_trace", takes(90.0))
    meter = Meter(torch.nn.Linear(1, 1), torch.device("cpu"), clock)
    each = profiler.StepProfiler(tmp_path, meter)
    for _ in range(steps):
        each.begin_step()
        meter.enter(FORWARD)
        clock.now += 3.0
        meter.enter(REST)
        clock.now += 1.0
        each.end_step()
    each.finish()
    assert sum(meter.seconds.values()) == steps * 4.0
    assert "not forward" in (table := (tmp_path / "parts.txt").read_text()) and "25.0%" in table


def test_a_profile_that_cannot_be_written_is_noted_and_ends_no_training(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profiler.profile, "export_chrome_trace", full)
    monkeypatch.setattr(profiler, "write_text", full)
    each = profiler.StepProfiler(tmp_path, Meter(torch.nn.Linear(1, 1), torch.device("cpu")))
    notes = []
    for _ in range(7):
        each.begin_step()
        notes += each.end_step()
    assert len(notes) == 1 and "No space left on device" in notes[0]
    notes = each.finish()
    assert "No space left on device" in notes[0]
    assert notes[1].startswith("where the time of 1 step went")
