"""The race is fair, its figures add up, and the page keeps what people wrote."""

from __future__ import annotations

import pytest
import torch

from orthus_core.bench.clock import Clock, copy_bandwidth, peak_memory
from orthus_core.bench.heads import HeadLap, head_laps
from orthus_core.bench.model_sizes import SHAPES, config_of, model_of, random_head, random_model
from orthus_core.bench.page import check_page, write_sections
from orthus_core.bench.preset_timings import WAYS, PresetLap, preset_laps
from orthus_core.bench.race import Course, Race, course_of, prompts_of, race
from orthus_core.bench.roofline import Traffic, backbone_traffic, head_traffic
from orthus_core.bench.tables import head_table, preset_table, race_table
from orthus_core.errors import OutputError, PromptError
from orthus_core.events import Progress
from orthus_core.model.cpu_linear import LAYOUTS
from tests.conftest import make_tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return random_model(make_tiny_config(), CPU, torch.float32)


def result_of(events) -> list:
    return [event for event in events if not isinstance(event, Progress)]


@pytest.fixture(scope="module")
def whole(model) -> Race:
    (found,) = result_of(race(model, Course(steps=5, guidance=3.0, batches=(1, 3), repeats=2)))
    return found


def test_both_sides_draw_the_same_pictures(whole):
    assert whole.feature_size > 0.1
    assert whole.difference < 1e-3 * whole.feature_size
    assert whole.pixel_difference < 1


def test_parts_add_up_to_the_whole_and_ratios_are_of_pictures(whole):
    assert [(lap.side, lap.batch) for lap in whole.laps] == [
        ("release", 1),
        ("engine", 1),
        ("engine", 3),
    ]
    assert set(whole.laps[0].parts) > {"prefill", "head", "embed", "backbone", "lm head", "decode"}
    assert set(whole.laps[1].parts) == {"prefill", "head", "backbone", "decode", "rest"}
    for lap in whole.laps:
        assert lap.seconds_a_picture > 0 and min(lap.parts.values()) >= 0
        assert max(lap.parts.values()) < 2 * lap.seconds_a_picture
    slow, *fast = whole.laps
    for lap in fast:
        assert whole.ratios[lap.batch] == slow.seconds_a_picture / lap.seconds_a_picture
    assert whole.roofline[3]["head"] < whole.roofline[1]["head"]


def test_a_part_of_the_patches_is_drawn_alike_and_reckoned_to_the_whole(model):
    course = Course(steps=3, guidance=3.0, patches=2, repeats=1)
    (found,) = result_of(race(model, course))
    assert found.difference < 1e-3 * found.feature_size
    for lap in found.laps:
        assert lap.seconds_a_picture == pytest.approx(sum(lap.parts.values()))
    # Every patch that is drawn is read, so a single one has a step of the backbone, too.
    (single,) = result_of(race(model, course._replace(patches=1)))
    assert [lap.parts["backbone"] > 0 for lap in single.laps] == [True, True]
    # Two of four patches in the middle: one came before, and the prompts are longer by it.
    longer, usual = (prompts_of(model, c, 1)[0] for c in (course, course._replace(patches=None)))
    assert len(longer.context.ids) == len(usual.context.ids) + 1
    with pytest.raises(PromptError, match="5 patches of a picture of 4"):
        list(race(model, course._replace(patches=5)))


def test_a_course_takes_what_is_asked_and_the_rest_from_the_model(model):
    course = course_of(model, steps=7, guidance=None, batches=(2,))
    assert (course.steps, course.guidance, course.batches) == (7, 5.0, (2,))


def test_the_head_is_measured_in_every_layout():
    sizes = {"channels": 8, "cond_dim": 12, "width": 16, "depth": 2}
    head = random_head(CPU, torch.float32, sizes)
    laps = result_of(head_laps(head, 4, (1, 3), repeats=1))
    assert [(lap.pictures, lap.layout) for lap in laps] == [
        (n, x) for n in (1, 3) for x in (None, *LAYOUTS)
    ]
    assert all(isinstance(lap, HeadLap) and lap.difference < 1e-3 for lap in laps)
    assert len(head_table(laps).rows) == len(laps)


def test_presets_are_measured_against_exact(model):
    laps = result_of(preset_laps(model, 2, repeats=1))
    assert [lap.name for lap in laps] == [way.name for way in WAYS]
    assert all(isinstance(lap, PresetLap) for lap in laps)
    exact, tolerant, fast, turbo = laps
    assert (exact.ratio, exact.feature_error, exact.psnr) == (1.0, 0.0, None)
    assert tolerant.steps == exact.steps > fast.steps > turbo.steps
    assert fast.feature_error > 0 and turbo.feature_error > 0
    assert "equal" in preset_table(laps).rows[0]


def test_shapes_are_what_they_say():
    assert SHAPES["mini"] is None
    for name, patches in (("mid", 256), ("mid-full-head", 256), ("7b", 1024)):
        config = config_of(SHAPES[name])
        assert config.patches == patches and config.num_codes == 8192
        assert len(config.code_token_ids) == 8192
        assert config.vocab_size == len(config.vocabulary_map) == 65536
    assert config.hidden_size == 4096
    with pytest.raises(PromptError, match="no shape 'huge'"):
        model_of("huge", CPU, torch.float32)


def test_random_models_are_the_same_again_and_predict_something(model):
    again = random_model(make_tiny_config(), CPU, torch.float32)
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, again.state_dict()[name]), name
    assert model.mlp_head.final_layer.linear.weight.abs().max() > 0


def test_the_roofline_counts_every_weight_that_is_read(model):
    head, itemsize = model.mlp_head, 4
    one, two = (head_traffic(head, steps).shared for steps in (1, 2))
    modulations = sum(p.numel() for n, p in head.named_parameters() if "adaLN" in n or "cond_" in n)
    assert 2 * one - two == itemsize * modulations
    backbone = backbone_traffic(model, streams=2, context=10)
    assert backbone.shared == itemsize * sum(p.numel() for p in model.model.layers.parameters())
    assert backbone.own == 2 * 10 * 2 * 2 * 32 * itemsize  # streams, slots, k and v, layers, hidden
    assert Traffic(100, 7).seconds_a_picture(patches=4, batch=2, bandwidth=10) == 4 * 57 / 10


def test_a_clock_tells_parts_and_leaves_results_alone():
    class Worker:
        name = "ours"

        def double(self, x: int) -> int:
            return 2 * x

    clock = Clock(CPU)
    worker = clock.around(Worker(), double="doubling")
    assert (worker.double(4), worker.double(5), worker.name) == (8, 10, "ours")
    assert clock.seconds.keys() == {"doubling"} and clock.seconds["doubling"] >= 0
    blind = Clock(CPU, parts=False)
    assert blind.around(Worker(), double="doubling").double(1) == 2 and not blind.seconds
    seconds, result = clock.time(lambda: "done")
    assert seconds >= 0 and result == "done"


def test_the_machine_is_measured():
    assert copy_bandwidth(CPU) > 1e8
    with peak_memory(CPU) as peak:
        held = torch.ones(2**24)
        highest = peak()
    assert highest is None or highest > held.numel() * 4


# The page


def test_a_run_replaces_its_tables_and_nothing_else(tmp_path, whole):
    page = tmp_path / "benchmarks.md"
    place = "<!-- bench: {0} -->\nold\n<!-- /bench -->"
    page.write_text(f"# Title\n{place.format('race mid cpu')}\nwords\n{place.format('head cpu')}\n")
    write_sections(page, {"race mid cpu": race_table(whole).markdown()})
    text = page.read_text()
    assert text.startswith("# Title\n<!-- bench: race mid cpu -->\n| side | batch |")
    assert text.endswith(f"<!-- /bench -->\nwords\n{place.format('head cpu')}\n")
    assert "| release | 1 |" in text and "Largest difference" in text
    write_sections(page, {"race mid cpu": "again"})
    assert page.read_text().count("bench: race mid cpu") == 1
    assert list(tmp_path.iterdir()) == [page]


def test_a_page_without_a_place_says_what_to_write(tmp_path):
    page = tmp_path / "page.md"
    with pytest.raises(OutputError, match="no page to write to"):
        check_page(page, ["head cpu"])
    page.write_text("nothing here")
    with pytest.raises(OutputError, match="no place for 'head cpu'") as caught:
        check_page(page, ["head cpu"])
    assert "<!-- bench: head cpu -->" in caught.value.hint
