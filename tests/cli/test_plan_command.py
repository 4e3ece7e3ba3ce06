"""What `plan` computes, for a model that is here and for the 7B that need not be."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from orthus_cli.commands.plan import TRAINING
from orthus_core.bench.model_sizes import config_of
from orthus_core.losses.joint import JointLoss
from orthus_core.model.config import OrthusConfig
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.plan.fit import drawing_changes, training_changes
from orthus_core.plan.hours import disk_of, seconds_of, step_flops
from orthus_core.plan.memory_parts import (
    GB,
    Drawing,
    drawing_memory,
    peak_phase,
    total,
)
from orthus_core.plan.planned_model import planned_model, pretrain_config, released
from orthus_core.plan.training_memory import Training, training_memory
from orthus_core.recipe import PretrainRecipe, load
from orthus_core.recipe.load import command_of
from orthus_core.recipe.shelf import shelved
from orthus_core.recipe.training import LoraRecipe
from orthus_core.train.flops import counter_of
from orthus_core.train.freeze import all_but_autoencoder
from orthus_core.train.lora import add_lora
from tests.conftest import make_tiny_config
from tests.core.test_train_throughput import WORDS, batch_of


@pytest.fixture(scope="module")
def seven() -> OrthusConfig:
    config = released(True)
    assert isinstance(config, OrthusConfig)
    return config


def part(items, name: str) -> int:
    return sum(item.bytes for item in items if item.name.startswith(name))


def test_the_7b_draws_one_picture_in_18_gb_and_in_8_with_4_bits(seven):
    whole = drawing_memory(seven, Drawing())
    assert 7.0e9 < part(whole, "weights") / 2 < 7.3e9
    assert 16 * GB < total(whole) < 18 * GB
    assert 6 * GB < total(drawing_memory(seven, Drawing(quantise=4))) < 8 * GB


def test_the_cache_grows_with_pictures_and_weights_do_not(seven):
    one, four = (drawing_memory(seven, Drawing(pictures=n)) for n in (1, 4))
    assert part(four, "cache") == 4 * part(one, "cache")
    assert part(four, "weights") == part(one, "weights")
    # 32 layers of keys and values, 4096 wide, in 2 bytes: half a megabyte a token.
    assert part(one, "cache") == 2 * 32 * 4096 * 2 * 2 * (64 + 1026)


def test_weights_are_those_of_the_model(tiny_model):
    items = drawing_memory(make_tiny_config(), Drawing(dtype="fp32"))
    weights = sum(weight.numel() for weight in tiny_model.parameters())
    assert part(items, "weights") == 4 * weights


def test_a_training_holds_moments_and_an_average_of_what_moves():
    config = make_tiny_config()
    base, averaged, muon = (
        training_memory(config, each, "cpu")
        for each in (
            Training("posttrain", 2, 64),
            Training("posttrain", 2, 64, averaged=True),
            Training("posttrain", 2, 64, optimiser="muon"),
        )
    )
    assert part(base, "optimiser") == 2 * part(base, "gradients")
    assert part(averaged, "average") == part(base, "gradients")
    held = Training("posttrain", 2, 64, interpolated=True, compared=True)
    more = training_memory(config, held, "cpu")
    assert part(more, "first weights") == part(base, "gradients")
    assert part(more, "model before") == part(base, "weights")
    assert part(muon, "optimiser") < part(base, "optimiser")
    vae = training_memory(config, Training("finetune-vae", 2, 64), "cpu")
    assert part(vae, "gradients") == part(vae, "weights: pixel decoder")


def test_what_build_base_does_not_train_is_held_in_bf16_on_a_card(seven):
    base = Training("build-base", 4, 1056)
    card, cpu = (training_memory(seven, base, kind) for kind in ("cuda", "cpu"))
    for name in ("weights: backbone", "weights: LM head"):
        assert 2 * part(card, name) == part(cpu, name)
    for name in ("weights: token embeddings", "weights: pixel decoder"):
        assert part(card, name) == part(cpu, name)
    tuned = training_memory(seven, base._replace(command="posttrain"), "cuda")
    assert part(tuned, "weights: backbone") == part(cpu, "weights: backbone")


@pytest.mark.parametrize(
    "lora",
    [
        LoraRecipe(rank=3),
        LoraRecipe(rank=2, head="lora", targets=("q_proj", "down_proj")),
        LoraRecipe(rank=2, head="frozen", embeddings=True),
    ],
)
def test_of_a_training_of_adapters_only_these_move(seven, lora):
    config = make_tiny_config()
    asked = Training("posttrain", 2, 64, lora=lora)
    model = OrthusForConditionalGeneration(config)
    moved = sum(weight.numel() for weight in add_lora(model, lora))
    items = training_memory(config, asked, "cpu")
    assert part(items, "gradients") == 4 * moved
    weights = sum(weight.numel() for weight in model.parameters())
    assert part(items, "weights") == 4 * weights

    card, whole = (training_memory(seven, each) for each in (asked, Training("posttrain", 2, 64)))
    assert 2 * part(card, "weights: backbone") == part(whole, "weights: backbone")
    halved = 2 if lora.head != "full" else 1
    assert halved * part(card, "weights: diffusion") == part(whole, "weights: diffusion")
    halved = 1 if lora.embeddings else 2
    assert halved * part(card, "weights: LM head") == part(whole, "weights: LM head")


def test_a_discrete_chameleon_predicts_codes_as_words_and_takes_no_adapters(orthus):
    seven = released(False)
    tuned = Training("posttrain", 16, 2116, pictures=2)
    begun = tuned._replace(command="pretrain")
    one, other = (training_memory(seven, each) for each in (tuned, begun))
    assert part(one, "predicted words") == part(other, "predicted words") > 100 * GB / 4
    assert step_flops(seven, tuned) == step_flops(seven, begun)
    changes = training_changes(seven, tuned, 20 * GB)
    assert changes and not any("lora" in change.what for change in changes)
    words = ["plan", "posttrain", "-m", "chameleon-7b", "--device", "cuda"]
    refused = orthus(*words, "--set", "lora.rank=16")
    assert refused.exit_code == 1 and "cannot be trained with lora" in refused.stderr


def test_an_edit_and_a_story_read_pictures_before_they_draw(orthus):
    words = ["-m", "instruct", "--device", "cuda", "--memory", 99, "--format", "json"]

    def cache(command: str, *sets: str) -> int:
        plan = json.loads(orthus("plan", command, *words, *sets).stdout)
        return sum(item["bytes"] for item in plan["parts"] if item["name"] == "cache")

    token = 2 * 32 * 4096 * 2
    assert cache("generate") == 2 * token * (64 + 1026)
    assert cache("edit") == 3 * token * (64 + 1026 + 1026)
    assert cache("edit", "--set", "by_example=true") == 3 * token * 4096
    assert cache("edit", "--set", "max_text=10") == 3 * token * (64 + 1026 + 10 + 1026)
    assert cache("story") == 2 * token * (64 + 2 * (64 + 1026) + 64 + 1026)
    assert cache("story", "--set", "panels=9") == 2 * token * 4096
    assert cache("story", "--set", "panels=9", "--set", "keep_panels=2") == cache("story")


def test_a_prompt_is_read_in_parts_of_a_limited_number_of_tokens(seven):
    short, long, longer = (
        part(drawing_memory(seven, Drawing(prompt=tokens)), "reading")
        for tokens in (512, 1024, 3000)
    )
    assert short < long == longer


def test_a_drawing_recipe_says_how_its_model_is_held_and_how_many_pictures_come(orthus):
    words = ["plan", "generate", "-m", "base", "--device", "cuda", "--memory", 99]

    def needed(*how: str) -> int:
        return json.loads(orthus(*words, *how, "--format", "json").stdout)["needed"]

    assert needed("--set", "quantize=4") == needed("--quantize", "4") < needed()
    assert needed("--set", "low_memory=true") == needed("--low-memory") < needed()
    four = ("--set", "seeds=[5]", "--set", "num_images=4")
    assert needed(*four) == needed("--num-images", "4") > needed()


def test_a_recipe_of_adapters_is_planned_as_one(orthus):
    words = ["plan", "posttrain", "-m", "instruct", "--device", "cuda", "--memory", 80]
    words += ["--batch-size", 1, "--format", "json"]
    whole, adapters = (
        json.loads(orthus(*words, *sets).stdout) for sets in ((), ("--set", "lora.rank=16"))
    )
    assert not whole["fits"] and adapters["fits"]


def test_cards_share_all_but_the_autoencoder_and_replicas_hold_it_again(seven):
    one = Training("posttrain", 16, 2116, pictures=2)
    eight, pairs, apart = (
        one._replace(gpus=8, **changes) for changes in ({}, {"replicas": 2}, {"sharded": False})
    )
    held = {n: training_memory(seven, each) for n, each in enumerate((one, eight, pairs, apart))}
    for name in ("weights: backbone", "weights: LM head", "gradients", "optimiser"):
        whole, eighth, quarter, again = (part(items, name) for items in held.values())
        assert (8 * eighth, 4 * quarter, again) == pytest.approx((whole, whole, whole), rel=1e-6)
    assert {part(items, "weights: vision encoder") for items in held.values()} == {
        part(held[0], "weights: vision encoder")
    }
    layers, of_eight, *_ = (part(items, "activations") for items in held.values())
    assert layers == 8 * of_eight, "each has its rows of a batch"
    assert part(held[1], "gathered weights") > 0 and not part(held[0], "gathered")
    assert not part(held[3], "gathered")


def test_checkpointed_layers_keep_their_inputs_and_one_layer(seven):
    trained = Training("posttrain", 4, 2116, pictures=2)
    plain, again = (
        training_memory(seven, each) for each in (trained, trained._replace(checkpoint=True))
    )
    tokens, layer = 4 * 2116, 46 * 4096 + 8 * 11008
    ends = tokens * 16 * 4096
    assert part(plain, "activations") - ends == tokens * 32 * layer
    assert part(again, "activations") - ends == tokens * 32 * 4 * 4096
    assert part(again, "a layer computed again") == tokens * layer
    assert part(again, "diffusion head") < 0.7 * part(plain, "diffusion head")


def test_earlier_batches_leave_gradients_beside_activations():
    config = make_tiny_config()
    one, two = (
        training_memory(config, Training("posttrain", 2, 64, accumulate=n), "cpu") for n in (1, 2)
    )
    assert {peak_phase(one), peak_phase(two)} <= {"forward", "heads", "layers"}
    assert total(two) > total(one)
    with_average = training_memory(config, Training("posttrain", 1, 3, averaged=True), "cpu")
    assert peak_phase(with_average) == "backward", "of a few tokens gradients take more"


EIGHTY = ["--gpu-memory", 80, "--format", "json"]


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["build-base", "-m", "base", "--gpus", 1], "--set devices.checkpoint_activations=true"),
        (["posttrain", "-m", "base", "--gpus", 8], ""),
        (
            ["posttrain", "-m", "base", "--gpus", 1, "--set", "lora.rank=16"],
            "--set devices.checkpoint_activations=true",
        ),
        (
            ["finetune-vae", "-m", "base", "--gpus", 1],
            "--set optim.batch_size=8 --set optim.accumulate=32",
        ),
    ],
)
def test_the_papers_trainings_of_a_7b_fit_on_cards_of_80_gb(orthus, words, changes):
    """Each at the paper's batch, by no more than these changes."""
    told = json.loads(orthus("plan", *words, *EIGHTY).stdout)
    assert told["fits"] != bool(changes)
    assert [change["what"] for change in told["changes"]][-1:] == ([changes] if changes else [])
    assert all(change["bytes"] <= 80 * GB for change in told["changes"][-1:])


def rows_of(words: str) -> int:
    """Rows of a step by these changes."""
    values = dict(word.split("=") for word in words.split() if word.startswith("optim."))
    return int(values["optim.batch_size"]) * int(values["optim.accumulate"])


def test_changes_are_told_until_it_fits(seven):
    changes = drawing_changes(seven, Drawing(pictures=8), 20 * GB)
    assert [change.what for change in changes] == ["--batch-size 1"]
    assert changes[-1].bytes <= 20 * GB

    base = Training("build-base", 24, 1026, repeats=8)
    checkpointed, smaller = training_changes(seven, base, 30 * GB)
    assert checkpointed.what == "--set devices.checkpoint_activations=true"
    assert smaller.what.startswith(checkpointed.what) and smaller.bytes <= 30 * GB
    assert rows_of(smaller.what) == 24, "a step keeps its rows"

    whole = Training("posttrain", 8, 2116, pictures=2, averaged=True, accumulate=2)
    *_, cards, adapters = training_changes(seven, whole, 80 * GB)
    assert cards.what.startswith("--gpus 2 ") or cards.what.startswith("--gpus 4 ")
    assert cards.bytes <= 80 * GB and adapters.bytes <= 80 * GB
    assert adapters.what.endswith("--set lora.rank=16")
    assert rows_of(cards.what) == 16


def test_hours_follow_from_the_operations_that_a_training_counts(orthus, tmp_path):
    config = make_tiny_config()
    model = OrthusForConditionalGeneration(config)
    all_but_autoencoder(model)
    batch = batch_of(config)
    rows, length = batch.ids_BS.shape
    trained = Training(
        "posttrain", rows, length, repeats=3, words=WORDS, accumulate=2, patch_share=0.5
    )
    counted = counter_of(JointLoss(model, repeats=3, patch_share=0.5))(batch).flops
    work = step_flops(config, trained)
    assert work == (pytest.approx(2 * counted), 0)
    again = step_flops(config, trained._replace(checkpoint=True))
    assert again.useful == work.useful and 0.25 < again.again / work.useful < 1 / 3
    assert seconds_of(again, 4, 1e9, 0.5) == (again.useful + again.again) / 2e9

    words = ["plan", "build-base", "-m", "base", "--gpus", 2, *EIGHTY]
    slow, fast = (
        json.loads(orthus(*words, *more).stdout) for more in ((), ("--card", "H100", "--mfu", 0.8))
    )
    assert slow["hours"] / fast["hours"] == pytest.approx(2 * 989 / 312)
    (stage,) = slow["stages"]
    assert slow["hours"] == pytest.approx(15_000 * stage["seconds_per_step"] / 3600)
    assert 12 < slow["hours"] < 24, "72 A100 hours in the paper, at 18% of the peak"
    assert stage["disk"]["features"] == 15_000 * 32 * 1024 * 256 * 2
    unknown = orthus(*words, "--card", "V100")
    assert (
        unknown.exit_code == 1 and "the peak of a card called 'V100' is not known" in unknown.stderr
    )
    uneven = orthus("plan", "build-base", "-m", "base", "--gpus", 3, *EIGHTY)
    assert uneven.exit_code == 1 and "cannot be shared evenly by 3 processes" in uneven.stderr


def test_planned_memory_is_what_a_step_takes(monkeypatch):
    """`benchmarks/plan_memory.py` at toy size; docs/benchmarks.md has it at mid size."""
    script = Path(__file__).parents[2] / "benchmarks" / "plan_memory.py"
    spec = importlib.util.spec_from_file_location("plan_memory", script)
    assert spec is not None and spec.loader is not None
    plan_memory = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "plan_memory", plan_memory)
    spec.loader.exec_module(plan_memory)
    toy = config_of(plan_memory.TOY)
    for name in ("posttrain, two batches a step", "finetune-vae"):
        one = plan_memory.measured(toy, plan_memory.CASES[name])
        assert 0.9 < one.planned / one.found < 1.1, name


def test_a_plan_of_a_model_that_is_not_here_needs_no_network(orthus):
    words = ["plan", "generate", "-m", "instruct", "--device", "cuda"]
    fits = orthus(*words, "--memory", 24, "--format", "json")
    assert fits.exit_code == 0, fits.output
    told = json.loads(fits.stdout)
    assert told["fits"] and 16 * GB < told["needed"] < 18 * GB and not told["changes"]
    small = orthus(*words, "--memory", 12)
    assert small.exit_code == 1 and "does not fit" in small.stdout and "next: " in small.stdout


def test_a_7b_in_4_bits_is_planned_in_8_gb_and_fetched_layer_by_layer_in_less(orthus):
    words = ["plan", "generate", "-m", "base", "--device", "cuda", "--format", "json"]
    needed = {}
    for how in (["--dtype", "bf16"], ["--quantize", 4], ["--low-memory"]):
        needed[how[0]] = json.loads(orthus(*words, *how, "--memory", 99).stdout)["needed"]
    assert 16 * GB < needed["--dtype"] < 18 * GB
    assert 6 * GB < needed["--quantize"] < 8 * GB
    assert needed["--low-memory"] < needed["--quantize"] - 2 * GB
    least = orthus(*words[:-2], "--memory", 5)
    assert least.exit_code == 1 and "next: --low-memory takes" in least.stdout


def test_a_plan_measures_how_long_it_takes(orthus, tiny_folder):
    done = orthus("plan", "generate", "-m", tiny_folder, "--calibrate", "--format", "json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and 0 < told["seconds"] < 3600


def test_a_training_recipe_is_planned_for_the_model_it_starts_from(orthus, tiny_folder, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'command = "posttrain"\ninterpolation = 0.5\nkept_predictions = 1\n'
        "[optim]\nbatch_size = 4\nema_decay = 0.99\n"
    )
    done = orthus("plan", recipe, "-m", tiny_folder, "--calibrate", "--format", "json")
    plan = json.loads(done.stdout)
    assert done.exit_code == 0 and plan["command"] == "posttrain"
    names = {part["name"] for part in plan["parts"]}
    assert names >= {"average of the weights", "first weights", "model before the training"}
    assert plan["seconds"] > 0


def test_a_model_from_nothing_is_planned_part_by_part(orthus, tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'command = "pretrain"\n'
        "[tokenizer]\nvocab_size = 400\n"
        "[backbone]\nhidden_size = 32\nintermediate_size = 64\nnum_hidden_layers = 2\n"
        "num_attention_heads = 4\nmax_position_embeddings = 96\n"
        "[autoencoder]\nresolution = 16\nbase_channels = 32\nchannel_multiplier = [1, 1]\n"
        "embed_dim = 8\nlatent_channels = 8\nnum_embeddings = 32\n"
        "[autoencoder.optim]\nsteps = 7\n[optim]\nsteps = 9\n"
    )
    words = ["plan", recipe, "--device", "cpu", "--memory", 4]
    done = orthus(*words, "--calibrate", "--format", "json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert [stage["name"] for stage in told["stages"]] == ["autoencoder", "transformer"]
    assert told["needed"] == max(stage["needed"] for stage in told["stages"])
    seconds = [stage["seconds"] for stage in told["stages"]]
    assert all(each > 0 for each in seconds) and told["seconds"] == sum(seconds)
    plain = orthus(*words, "--format", "human").stdout
    assert "pretrain: autoencoder with a model from nothing" in plain
    assert "average of the weights" in plain, "the autoencoder's, by default"


def test_a_taken_autoencoder_is_not_trained(orthus):
    taken = ["plan", "starter/1-pretrain", "--set", "autoencoder.taken_from=chameleon-mini"]
    told = json.loads(orthus(*taken, "--device", "cpu", "--format", "json").stdout)
    assert [stage["name"] for stage in told["stages"]] == ["transformer"]
    plain = orthus(*taken, "--device", "cpu", "--format", "human").stdout
    assert "a model on the autoencoder of chameleon-mini" in plain
    recipe = load(PretrainRecipe, "starter/1-pretrain", ["autoencoder.taken_from=chameleon-mini"])
    assert pretrain_config(recipe).vq_config == planned_model("chameleon-mini").config.vq_config
    missing = orthus("plan", "starter/1-pretrain", "--set", "autoencoder.taken_from=nowhere")
    assert missing.exit_code == 1 and "nowhere" in missing.stderr


def test_a_model_from_nothing_that_does_not_fit_says_which_part_to_change(orthus):
    done = orthus("plan", "pretrain", "--device", "cpu", "--memory", 0.6)
    assert done.exit_code == 1 and "does not fit" in done.stdout
    assert "next: --set autoencoder.optim.batch_size=" in done.stdout
    assert "activations=true --set optim.batch_size=" in done.stdout


def test_a_discrete_chameleon_that_goes_on_is_planned_at_its_own_size(orthus):
    words = ["plan", "starter/baseline", "--device", "cpu"]
    plan = json.loads(orthus(*words, "-m", "chameleon-mini", "--format", "json").stdout)
    assert [stage["name"] for stage in plan["stages"]] == ["transformer"]
    assert plan["model"] == "chameleon-mini"
    weights = sum(each["bytes"] for each in plan["parts"] if each["name"].startswith("weights"))
    made = drawing_memory(planned_model("chameleon-mini").config, Drawing(dtype="fp32"), "cpu")
    assert weights == part(made, "weights")
    of_orthus = orthus(*words, "-m", "mini")
    assert of_orthus.exit_code == 1 and "this is an Orthus" in of_orthus.stderr


def test_of_a_linear_encoder_the_decoder_alone_is_trained(orthus):
    words = ["plan", "starter/1-pretrain", "--device", "cpu", "--format", "json"]
    trained, linear = (
        json.loads(orthus(*words, "--set", f'autoencoder.encoder="{kind}"').stdout)["stages"][0]
        for kind in ("trained", "linear")
    )
    assert trained["name"] == linear["name"] == "autoencoder"
    assert linear["needed"] < trained["needed"]
    assert linear["flops_per_step"] < trained["flops_per_step"]

    config = planned_model("chameleon-mini").config
    moves, rests = (
        training_memory(config, Training("autoencoder", 2, 0, linear=linear), "cpu")
        for linear in (False, True)
    )
    assert part(moves, "optimiser") == 2 * part(moves, "weights")
    assert part(rests, "optimiser") == 2 * part(rests, "weights: pixel decoder")
    assert part(rests, "weights") == part(moves, "weights")
    by_recipe = disk_of(config, Training("autoencoder", 2, 0, linear=True), 1, 0).states
    assert by_recipe == part(rests, "weights") + part(rests, "optimiser")


def test_the_size_of_a_model_from_nothing_is_that_of_the_one_that_was_made():
    made = planned_model("chameleon-mini").config
    # The bundled model may have been made by an earlier recipe than the shipped one.
    shape = made.vq_config
    of_autoencoder = ("resolution", "channel_multiplier", "embed_dim", "latent_channels")
    as_bundled = [f"autoencoder.{name}={getattr(shape, name)}" for name in of_autoencoder]
    as_bundled.append(f"backbone.intermediate_size={made.intermediate_size}")
    recipe = load(PretrainRecipe, "starter/1-pretrain", as_bundled)
    planned = pretrain_config(recipe)
    for name in ("hidden_size", "num_hidden_layers", "intermediate_size"):
        assert getattr(planned, name) == getattr(made, name)
    assert planned.patches == made.patches
    # A tokenizer has fewer tokens than it may have when its texts hold no more pairs.
    assert planned.vocab_size >= made.vocab_size
    shared = {"backbone", "pixel decoder", "vision encoder", "vision codebook"}
    weights = [
        {
            item.name: item.bytes
            for item in drawing_memory(config, Drawing(dtype="fp32"), "cpu")
            if item.name.removeprefix("weights: ") in shared
        }
        for config in (planned, made)
    ]
    assert weights[0] == weights[1] and len(weights[0]) == len(shared)


@pytest.mark.parametrize("name", [each for each in shelved() if command_of(each) in TRAINING])
def test_every_training_recipe_that_comes_along_has_a_plan(orthus, name):
    done = orthus("plan", name, "--device", "cpu", "--memory", 1000, "--format", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["needed"] > 0


def test_a_recipe_without_a_plan_is_refused(orthus):
    done = orthus("plan", "caption")
    assert done.exit_code == 1 and "no plan for `orthus caption`" in done.stderr
