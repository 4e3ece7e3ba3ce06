"""The trainings of an Orthus, run for a few steps: what each moves, measures, leaves and writes."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.errors import RecipeError
from orthus_core.evaluation.reconstruction import reconstruct
from orthus_core.events import Note, StepDone
from orthus_core.losses.joint import Counts, JointLoss, counts_of
from orthus_core.recipe import BuildBaseRecipe, FinetuneVaeRecipe, PosttrainRecipe, load
from orthus_core.samplers.params import SamplingParams
from orthus_core.train.batches import WINDOW, orthus_batch_builder, read_rows
from orthus_core.train.picture_source import read_pictures
from orthus_core.train.stages import with_counts
from orthus_core.train.trainings import build_base, finetune_vae, posttrain
from tests.core.toy_data import SHORT, interleaved, pictures_with_words


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return pictures_with_words(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    return interleaved(tmp_path_factory.mktemp("data") / "mixed")


def run(trainer, schema, start: Path, output: Path, source: Path, *overrides) -> list:
    recipe = load(schema, None, (*SHORT, f"data.source={json.dumps(str(source))}", *overrides))
    return list(trainer(recipe, start, output))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def moved(one: Path, other: Path) -> set[str]:
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def base(tiny_folder, pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    heat = ("optim.lr=0.01", "optim.weight_decay=0.1", "temperature.end=4.0")
    run(build_base, BuildBaseRecipe, tiny_folder, folder, pictures, *heat)
    return folder


def test_build_base_moves_codes_their_rows_of_the_table_and_the_head(tiny_folder, base):
    before, after = open_orthus(tiny_folder, device="cpu"), open_orthus(base, device="cpu")
    head = {name for name in weights(base) if name.startswith("mlp_head.")}
    assert moved(tiny_folder, base) == head | {
        "model.codebook_in.weight",
        "model.embed_tokens.weight",
    }
    codes = before.model.code_token_ids
    rows = [model.model.embed_tokens.weight for model in (before.model, after.model)]
    differs = (rows[0] != rows[1]).any(1)
    assert differs[codes].all(), "each code of a soft embedding takes part"
    differs[codes] = False
    assert not differs.any()


@torch.no_grad()
def test_build_base_leaves_the_text_as_it_was_to_the_bit(tiny_folder, base):
    ids = torch.tensor([[0, *range(40, 60)], [0, *range(60, 80)]])
    logits = []
    for folder in (tiny_folder, base):
        model = open_orthus(folder, device="cpu").model
        logits.append(model.text_logits(model.run_backbone(ids).hidden_BSD))
    assert torch.equal(*logits)


def test_build_base_keeps_the_temperature_it_ended_at(base):
    assert open_orthus(base, device="cpu").model.config.embedding_temperature == 4.0


@pytest.mark.parametrize(
    "objective, heads",
    [("both", {"lm", "mlp"}), ("understanding", {"lm"}), ("generation", {"mlp"})],
)
def test_an_objective_trains_its_own_heads(objective, heads, tiny_folder, records, tmp_path):
    change = (f"objective={objective}", "lambda_image=3.0", "text_weight=2.0", "optim.lr=0.01")
    events = run(posttrain, PosttrainRecipe, tiny_folder, tmp_path / "out", records, *change)
    names = moved(tiny_folder, tmp_path / "out")
    assert {name.partition("_head.")[0] for name in names if "_head." in name} == heads
    assert not any("vqmodel" in name for name in names)
    assert "model.codebook_in.weight" in names and "model.layers.0.mlp.up_proj.weight" in names
    weights_of = {"text": 2.0 * ("lm" in heads), "image": 3.0 * ("mlp" in heads)}
    steps = [event.metrics for event in events if isinstance(event, StepDone)]
    for found in steps:
        assert {name for name in weights_of if found.get(name, 0) > 0} == {
            name for name, weight in weights_of.items() if weight
        }
        total = sum(weight * found.get(name, 0) for name, weight in weights_of.items())
        assert found["total"] == pytest.approx(total, rel=1e-5)
    assert steps[-1]["validation_text"] > 0 and steps[-1]["validation_image"] > 0
    assert steps[-1]["validation_mixture_entropy"] > 0, "and so is the soft embedding"


def begun(monkeypatch, trainer, schema, start: Path, output: Path, source: Path, *overrides):
    """The stage and the options that a training begins its loop with."""
    found = []

    def remember(stage, **options):
        found.append((stage, options))
        return iter(())

    monkeypatch.setattr("orthus_core.train.trainings.train", remember)
    recipe = load(schema, None, (*SHORT, f"data.source={json.dumps(str(source))}", *overrides))
    list(trainer(recipe, start, output, should_stop=lambda: True))
    ((stage, options),) = found
    assert options["optim"] == recipe.optim and options["log"] == recipe.log
    assert options["origins"]["init_from"] == fingerprint(start), "states of another are refused"
    return stage, options


def rows_of_a_step(stage) -> int:
    ((batch, _),) = stage.parts(0, 1)
    return len(batch.ids_BS)


@pytest.mark.parametrize("objective, idle", [("understanding", "mlp_head"), ("generation", "lm")])
def test_a_head_whose_loss_does_not_count_is_not_handed_to_the_optimiser(
    objective, idle, tiny_folder, records, tmp_path, monkeypatch
):
    stage, _ = begun(
        *(monkeypatch, posttrain, PosttrainRecipe, tiny_folder, tmp_path / "out", records),
        f"objective={objective}",
    )
    trained = {id(parameter) for parameter in stage.trainable()}
    of_head = [p for n, p in stage.objective.model.named_parameters() if n.startswith(idle)]
    assert of_head and not any(id(parameter) in trained for parameter in of_head)


def test_a_temperature_that_rises_from_0_begins_with_the_lookup(tiny_folder, pictures, tmp_path):
    heat = ("temperature.start=0", "temperature.end=3.0", "temperature.schedule=linear")
    events = run(build_base, BuildBaseRecipe, tiny_folder, tmp_path / "out", pictures, *heat)
    steps = [event.metrics for event in events if isinstance(event, StepDone)]
    assert all(math.isfinite(found["total"] + found["grad_norm"]) for found in steps)
    entropies = [found.get("validation_mixture_entropy") for found in steps]
    assert 0 < entropies[1] < entropies[3] < math.log(32), "of tau = 1 and 3"
    assert steps[1]["validation_argmin_distance"] < steps[3]["validation_argmin_distance"]
    assert open_orthus(tmp_path / "out", device="cpu").model.config.embedding_temperature == 3.0


def test_build_base_that_resumes_at_its_end_keeps_its_temperature(tiny_folder, pictures, tmp_path):
    heat, out = "temperature.end=4.0", tmp_path / "out"
    run(build_base, BuildBaseRecipe, tiny_folder, out, pictures, heat)
    recipe = load(BuildBaseRecipe, None, (*SHORT, f"data.source={json.dumps(str(pictures))}", heat))
    list(build_base(recipe, tiny_folder, out, resume=True, overwrite=True))
    assert open_orthus(out, device="cpu").model.config.embedding_temperature == 4.0


@pytest.mark.parametrize(
    "trainer, schema", [(build_base, BuildBaseRecipe), (posttrain, PosttrainRecipe)]
)
def test_what_is_drawn_for_a_row_follows_the_seed_of_the_training(
    trainer, schema, tiny_folder, records, tmp_path, monkeypatch
):
    """And that for a row that is measured follows nothing."""
    drawn, measured = [], []
    for seed, of_data in ((5, 0), (5, 1), (6, 1)):
        stage, _ = begun(
            *(monkeypatch, trainer, schema, tiny_folder, tmp_path / "out", records),
            *(f"seed={seed}", f"data.seed={of_data}", "optim.batch_size=6"),
        )
        # A window, in which each order has the rows of the same numbers.
        parts = [batch.noise_seeds_M for batch, _ in stage.parts(0, WINDOW)]
        drawn.append({n for seeds_M in parts for n in seeds_M.tolist()})
        measured.append({n for batch, _ in stage.held_out() for n in batch.noise_seeds_M.tolist()})
        assert len(drawn[-1]) == sum(map(len, parts)) > 20
    assert drawn[0] & drawn[1], "first pictures of the rows, whose numbers are the same"
    assert not drawn[0] & drawn[2] and not drawn[1] & drawn[2]
    assert measured[0] & measured[1] & measured[2] and not drawn[0] & measured[0]


def test_post_training_follows_its_recipe(tiny_folder, records, tmp_path, monkeypatch):
    change = ("seed=5", "lambda_image=3.0", "text_weight=2.0", "repeats=3", "prefix_noise=0.25")
    change = (*change, "optim.batch_size=3", "timesteps=logit-normal", "prefix_clean=0.5")
    change = (*change, "patch_share=0.25", "interpolation=0.75")
    stage, options = begun(
        *(monkeypatch, posttrain, PosttrainRecipe, tiny_folder, tmp_path / "out", records),
        *(*change, "sampling.guidance=3.0", "sampling.noise_scale=0.5"),
        "sampling.patch_norm=measured",
    )
    loss = stage.objective
    assert (loss.timesteps, loss.prefix_clean) == ("logit-normal", 0.5)
    assert loss.patch_share == 0.25
    ((batch, _),) = stage.parts(0, 1)
    norms = batch.features_NC.norm(dim=-1)
    list(options["before"](0, 1))
    low, high = loss.model.config.sampling.pop("patch_norm")
    assert high == pytest.approx(float(norms.mean() + 2 * norms.std()))
    assert low == pytest.approx(max(float(norms.mean() - 2 * norms.std()), float(norms.min())))
    assert (loss.lambda_image, loss.text_weight, loss.repeats, loss.prefix_noise) == (3, 2, 3, 0.25)
    assert options["seed"] == 5 and options["origins"]["prefix_noise"] == 0.25
    assert options["interpolation"] == 0.75
    assert rows_of_a_step(stage) == 3
    # What the model carried stays where the recipe says nothing of it.
    carried = {"steps": 4, "guidance": 3.0, "noise_scale": 0.5}
    assert loss.model.config.sampling == carried


def test_limits_that_cannot_be_measured_are_left_as_they_are(tiny_folder, tmp_path, monkeypatch):
    question = {"type": "text", "role": "user", "value": "what is red?"}
    answer = {"type": "text", "role": "model", "value": "an apple"}
    source = tmp_path / "records.jsonl"
    source.write_text("".join(json.dumps({"segments": [question, answer]}) + "\n" for _ in "12345"))
    stage, options = begun(
        *(monkeypatch, posttrain, PosttrainRecipe, tiny_folder, tmp_path / "out", source),
        *("sampling.patch_norm=measured", "optim.batch_size=1"),
    )
    list(options["before"](0, 1))
    ((batch, _),) = stage.parts(0, 1)
    config = stage.objective.model.config
    assert batch.features_NC is None and "patch_norm" not in config.sampling
    assert SamplingParams.resolve(config).patch_norm is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("guidance=high", "cannot be 'high'"),
        ("scheduler=foo", "cannot be 'foo'"),
        ("steps=0", "= 0: steps cannot be 0"),
        ("guidence=3.0", "unknown key 'sampling.guidence', did you mean 'sampling.guidance'"),
        ("story_top_p=2.0", "top_p cannot be 2.0"),
        ("patch_norm=[3.0, 2.0]", "= [3.0, 2.0]: patch_norm cannot be"),
    ],
)
def test_a_model_that_could_not_be_drawn_with_is_refused_before_data_is_read(
    change, said, tiny_folder, tmp_path
):
    changes = (*SHORT, "data.source=nowhere", f"sampling.{change}")
    with pytest.raises(RecipeError, match=re.escape(said)) as caught:
        list(posttrain(load(PosttrainRecipe, None, changes), tiny_folder, tmp_path / "out"))
    assert caught.value.where == f"sampling.{change.partition('=')[0]}"
    assert caught.value.hint


def test_build_base_follows_its_recipe(tiny_folder, pictures, tmp_path, monkeypatch):
    change = ("seed=5", "lambda_image=3.0", "repeats=3", "temperature.start=0.5")
    change = (*change, "optim.batch_size=3")
    stage, options = begun(
        *(monkeypatch, build_base, BuildBaseRecipe, tiny_folder, tmp_path / "out", pictures),
        *change,
    )
    loss = stage.objective
    assert (loss.lambda_image, loss.text_weight, loss.repeats, loss.prefix_noise) == (3, 0, 3, 0)
    assert options["seed"] == 5 and rows_of_a_step(stage) == 3
    stage.begin_step(0)
    assert loss.model.config.embedding_temperature == 0.5
    stage.begin_step(3)
    assert loss.model.config.embedding_temperature == 1.0


def test_finetune_vae_follows_its_recipe(tiny_folder, pictures, tmp_path, monkeypatch):
    change = ("seed=5", "feature_noise=0.25", "losses.mse=7.0")
    stage, options = begun(
        *(monkeypatch, finetune_vae, FinetuneVaeRecipe, tiny_folder, tmp_path / "out", pictures),
        *change,
    )
    assert stage.objective.feature_noise == 0.25
    assert stage.objective.picture_loss.weights.mse == 7.0
    assert options["seed"] == stage.seed == 5


def test_a_trained_model_tells_what_it_was_made_from_and_keeps_its_words(
    base, tiny_folder, pictures, tmp_path
):
    (once,) = [open_orthus(base, device="cpu").model.config.origin]
    assert once["made_by"].startswith("orthus build-base ")
    assert once["made_from"] == tiny_folder.name and once["lineage"] == []
    again = tmp_path / "begin"
    shutil.copytree(base, again)
    (again / "vocabulary.txt").write_text("red\nsquare\n")
    run(build_base, BuildBaseRecipe, again, tmp_path / "out", pictures, "optim.steps=1")
    twice = open_orthus(tmp_path / "out", device="cpu").model.config.origin
    assert twice["made_from"] == "begin"
    assert twice["lineage"] == [f"{once['made_by']} from {tiny_folder.name}"]
    assert (tmp_path / "out" / "vocabulary.txt").read_text() == "red\nsquare\n"


def test_parts_of_a_step_weigh_by_what_they_hold(tiny_folder, records):
    """One short and one long batch average to the batch of all their rows."""
    opened = open_orthus(tiny_folder, device="cpu", dtype="fp32")
    model, tokenizer = opened.model, opened.processor.tokenizer
    data = load(PosttrainRecipe, None, (f"data.source={json.dumps(str(records))}",)).data
    rows = drained(read_rows(data))
    batch_builder = orthus_batch_builder(
        data, model.config, tokenizer, lambda ps: torch.ones(len(ps), 4, 8)
    )
    encoded = [batch_builder.encode(rows.train(number)) for number in range(7)]
    whole, parts = (
        [batch_builder.collate(some) for some in split]
        for split in ([encoded], [encoded[:1], encoded[1:]])
    )
    counts = with_counts(parts)[0][1]
    assert counts == Counts(*(n / 2 for n in counts_of(whole[0])))
    objective = JointLoss(model, lambda_image=0.0)

    def text_gradient(batches, counts):
        model.zero_grad()
        for batch in batches:
            (objective(batch, counts).total / len(batches)).backward()
        return model.lm_head.weight.grad.clone()

    wanted = text_gradient(whole, None)
    torch.testing.assert_close(text_gradient(parts, counts), wanted, rtol=1e-4, atol=1e-6)
    mean_of_means = text_gradient(parts, None)
    assert (mean_of_means - wanted).abs().max() > 0.01 * wanted.abs().max()

    # The noise of a batch is its own; with equal noise the picture's share is exact.
    for part in parts:
        losses = []
        for given in (None, counts):
            torch.manual_seed(0)
            with torch.no_grad():  # a training does not compute what has no weight
                losses.append(objective(part, given).image.item())
        assert losses[1] == pytest.approx(losses[0] * counts_of(part).image / counts.image)


def drained(generator):
    """What a generator of events returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module")
def finetuned(tiny_folder, pictures, tmp_path_factory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("models") / "vae"
    terms = ("losses.perceptual=0.1", "losses.adversarial=0.1", "losses.multi_scale=0.5")
    rival = ("discriminator.start=2", "discriminator.channels=8", "discriminator.levels=2")
    slow = ("optim.lr=0.001", "optim.ema_decay=0.5")
    events = run(
        finetune_vae, FinetuneVaeRecipe, tiny_folder, folder, pictures, *terms, *rival, *slow
    )
    return folder, events


def test_finetune_vae_moves_the_decoder_alone(tiny_folder, finetuned):
    names = moved(tiny_folder, finetuned[0])
    decoder = ("model.vqmodel.decoder.", "model.vqmodel.post_quant_conv.")
    assert names and all(name.startswith(decoder) for name in names)


def test_finetune_vae_measures_both_paths_before_and_after(tiny_folder, pictures, finetuned):
    folder, events = finetuned
    report = json.loads((folder / "quality.json").read_text())
    assert report["data_range"] == 255
    recipe = load(FinetuneVaeRecipe, None, (*SHORT, f"data.source={json.dumps(str(pictures))}"))
    held_out = drained(read_pictures(recipe.data, 16)).held_out_M3HW
    assert report["pictures"] == len(held_out) > 0
    for when, start in (("before", tiny_folder), ("after", folder)):
        vq = open_orthus(start, device="cpu", dtype="fp32").model.model.vqmodel
        for path, likeness in reconstruct(vq, held_out)._asdict().items():
            # Convolutions round otherwise in the memory format of a training.
            assert report[when][path] == pytest.approx(likeness._asdict(), rel=1e-5, abs=1e-5)
    told = [e.message for e in events if isinstance(e, Note) and "held-out pictures" in e.message]
    assert len(told) == 2 and "before" in told[0] and "from codes" in told[0] and "dB" in told[1]


def test_the_card_and_the_configuration_say_how_good_the_decoder_is(finetuned):
    folder, _ = finetuned
    after = json.loads((folder / "quality.json").read_text())["after"]["features"]
    words = f"{after['psnr']:.2f} dB, SSIM {after['ssim']:.3f} from features"
    assert words in (folder / "README.md").read_text()
    assert words in json.loads((folder / "config.json").read_text())["origin"]["reconstruction"]


def test_every_training_measures_held_out_rows(finetuned, base):
    for folder in (finetuned[0], base):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [x["step"] for x in lines if "validation_total" in x] == [2, 4]


@pytest.mark.parametrize(
    "noise", [{"prefix_noise": 0.3, "prefix_clean": 0.4}, {"input_noise": 0.5}]
)
def test_the_loss_of_a_posttrain_has_every_setting_of_its_recipe(
    noise, tiny_folder, tmp_path, monkeypatch
):
    asked = {"text_weight": 0.7, "lambda_image": 3.0, "repeats": 3, "patch_share": 0.9, **noise}
    asked["timesteps"] = "logit-normal"
    made: list[JointLoss] = []
    begin = JointLoss.__init__

    def noted(self, *parts, **settings):
        begin(self, *parts, **settings)
        made.append(self)

    monkeypatch.setattr(JointLoss, "__init__", noted)
    source = pictures_with_words(tmp_path / "pictures", 8)
    sets = [f"{key}={json.dumps(value)}" for key, value in asked.items()]
    sets += [*SHORT, "optim.steps=1", f"data.source={json.dumps(str(source))}"]
    list(posttrain(load(PosttrainRecipe, None, sets), tiny_folder, tmp_path / "out"))
    (loss,) = made
    assert {key: getattr(loss, key) for key in asked} == asked
