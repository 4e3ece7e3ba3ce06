"""LoRA: adapters train and resume alone, mean to us what they mean to peft, and merge exactly."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthus_core import Orthus
from orthus_core.api.loaded import load_model
from orthus_core.checkpoint.adapters import path_and_scale
from orthus_core.checkpoint.headers import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_folder
from orthus_core.checkpoint.merge import merge
from orthus_core.checkpoint.model_folder import open_model, open_orthus
from orthus_core.data.known_words import VOCABULARY
from orthus_core.errors import CheckpointError, OrthusError, RecipeError, TrainingError
from orthus_core.events import StepDone
from orthus_core.recipe import PosttrainRecipe, load
from orthus_core.recipe.training import LoraRecipe
from orthus_core.train.lora import add_lora, merged_layers
from orthus_core.train.trainings import posttrain
from tests.adapters import random_adapters
from tests.core.toy_data import interleaved

SETS = (
    "lora.rank=2",
    "lora.dropout=0.1",
    "optim.steps=12",
    "optim.lr=0.01",
    "optim.batch_size=4",
    "optim.warmup_steps=0",
    "optim.ema_decay=0.5",
    "log.every=1",
    "log.sample_every=0",
    "log.save_every=0",
    "log.validate_every=0",
    "data.held_out=0",
)
IDS_BS = torch.tensor([[0, 44, 37, 45, 46, 47]])


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return interleaved(tmp_path_factory.mktemp("data") / "rows", count=6)


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory) -> Path:
    return random_adapters(tiny_folder, tmp_path_factory.mktemp("adapters") / "mine")


@pytest.fixture(scope="module")
def half_folder(tiny_folder, tmp_path_factory) -> Path:
    """The tiny model, stored in bf16."""
    folder = tmp_path_factory.mktemp("models") / "half"
    opened = open_orthus(tiny_folder, device="cpu", dtype="bf16")
    opened.model.save_pretrained(folder)
    assert opened.processor is not None
    opened.processor.save_pretrained(folder)
    return folder


def train(base: Path, source: Path, output: Path, *sets: str, stop_at: int = 0, **options):
    """The losses of a training of adapters, which is stopped after so many steps if not 0."""
    losses: list[float] = []
    recipe = load(PosttrainRecipe, None, (*SETS, f"data.source={json.dumps(str(source))}", *sets))
    options["should_stop"] = lambda: len(losses) == stop_at > 0
    for event in posttrain(recipe, base, output, **options):
        if isinstance(event, StepDone):
            losses.append(event.metrics["total"])
    return losses


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_layers_that_are_computed_again_drop_the_same(tiny_folder, source, tmp_path):
    sets = ("optim.steps=4", "lora.dropout=0.5")
    again = "devices.checkpoint_activations=true"
    kept = train(tiny_folder, source, tmp_path / "kept", *sets)
    assert train(tiny_folder, source, tmp_path / "again", *sets, again) == kept
    assert train(tiny_folder, source, tmp_path / "other", *sets, "lora.dropout=0") != kept


@pytest.mark.gradients
def test_adapters_train_alone_and_a_stopped_training_goes_on_to_the_bit(
    tiny_folder, source, tmp_path
):
    base = {path: path.read_bytes() for path in tiny_folder.iterdir()}
    losses = train(tiny_folder, source, tmp_path / "whole")
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert base == {path: path.read_bytes() for path in tiny_folder.iterdir()}
    made = {path.name for path in (tmp_path / "whole").iterdir()}
    assert made == {
        *(ADAPTER_CONFIG, ADAPTER_WEIGHTS, "README.md"),
        *("recipe.toml", "run.json", "metrics.jsonl"),
    }
    tensors = load_file(tmp_path / "whole" / ADAPTER_WEIGHTS)
    assert {name.split(".")[2] for name in tensors} == {"model", "mlp_head"}
    assert all(".lora_" in name or ".mlp_head." in name for name in tensors)
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    (part,) = tmp_path.glob("whole.training/states/step-000012/part-*")
    assert len([name for name in load_file(part) if name.startswith("objective.")]) == len(tensors)

    assert train(tiny_folder, source, tmp_path / "parts", stop_at=5) == losses[:5]
    assert not (tmp_path / "parts").exists()
    rest = train(tiny_folder, source, tmp_path / "parts", resume=True)
    assert rest == losses[5:]
    assert same(load_file(tmp_path / "parts" / ADAPTER_WEIGHTS), tensors)
    assert train(tiny_folder, source, tmp_path / "parts", resume=True) == []
    assert len(train(tiny_folder, source, tmp_path / "parts", "optim.steps=13", resume=True)) == 1


@pytest.mark.gradients
@pytest.mark.parametrize(
    ("recipe", "objective", "whole"),
    [
        ({"head": "lora"}, "both", set()),
        ({"head": "frozen", "targets": ("q_proj",)}, "both", set()),
        ({}, "both", {"mlp_head"}),
        ({}, "understanding", set()),
        ({"embeddings": True}, "both", {"mlp_head", "embed_tokens", "codebook_in", "lm_head"}),
    ],
)
def test_a_recipe_says_what_moves(tiny_folder, recipe, objective, whole):
    model = open_orthus(tiny_folder, device="cpu", dtype="fp32").model
    recipe = {"rank": 3, "alpha": 12.0, "dropout": 0.25, **recipe}
    moving = {id(p) for p in add_lora(model, LoraRecipe(**recipe), objective)}
    for module in (m for m in model.modules() if hasattr(m, "lora_A")):
        assert module.scaling == {"default": 4.0} and module.r == {"default": 3}
        assert module.lora_dropout["default"].p == 0.25
    names = [name for name, p in model.named_parameters() if id(p) in moving]
    assert {id(p) for p in model.parameters() if p.requires_grad} == moving
    adapted = {name.partition(".lora_")[0] for name in names if ".lora_" in name}
    targets = {name.rpartition(".")[2] for name in adapted if name.startswith("model.")}
    assert targets == set(recipe.get("targets", LoraRecipe().targets))
    has_head = any(name.startswith("mlp_head.") for name in adapted)
    assert has_head == (recipe.get("head") == "lora")
    parts = {part for name in names if ".lora_" not in name for part in name.split(".")}
    assert parts & {"mlp_head", "embed_tokens", "codebook_in", "lm_head", "vqmodel"} == whole


@pytest.mark.parametrize("stored", ["fp32", "bf16"])
@pytest.mark.parametrize("opened_in", ["fp32", "bf16"])
def test_merged_equals_loaded(tiny_folder, half_folder, adapters, tmp_path, stored, opened_in):
    base = {"fp32": tiny_folder, "bf16": half_folder}[stored]
    if stored == "bf16":
        adapters = random_adapters(base, tmp_path / "mine")
    other = random_adapters(base, tmp_path / "other", seed=1, head="lora", targets=("q_proj",))
    lora = [f"{adapters}:0.5", str(other)]
    list(merge(base, lora, tmp_path / "merged"))
    merged = open_model(tmp_path / "merged", device="cpu", dtype=opened_in)
    loaded = open_model(base, device="cpu", dtype=opened_in, lora=lora)
    plain = open_model(base, device="cpu", dtype=opened_in)
    assert same(weights_of(merged.model), weights_of(loaded.model))
    assert not same(weights_of(merged.model), weights_of(plain.model))
    then, now = (
        {name: header.dtype for name, header in read_folder(folder).items()}
        for folder in (base, tmp_path / "merged")
    )
    assert then == now
    assert merged.model.config.sampling["steps"] == 3 == loaded.model.config.sampling["steps"]
    assert merged.processor is not None


def test_adapters_bring_what_was_measured_when_their_training_began(tiny_folder, source, tmp_path):
    sets = ("sampling.patch_norm=measured", "sampling.steps=3")
    train(tiny_folder, source, tmp_path / "mine", *sets)
    lora = [str(tmp_path / "mine")]
    sampling = open_model(tiny_folder, device="cpu", dtype="fp32", lora=lora).model.config.sampling
    low, high = sampling["patch_norm"]
    assert 0 < low < high and sampling["steps"] == 3


def test_a_scale_multiplies_and_0_is_the_model_itself(tiny_folder, adapters):
    none, half, full = (
        weights_of(open_model(tiny_folder, device="cpu", lora=[f"{adapters}:{scale}"]).model)
        for scale in (0, 0.5, 1)
    )
    plain = weights_of(open_model(tiny_folder, device="cpu").model)
    assert same(none, plain)
    for name in ("model.layers.1.mlp.up_proj.weight", "mlp_head.cond_embed.bias"):
        change = full[name] - plain[name]
        assert change.abs().max() > 1e-3
        torch.testing.assert_close(half[name] - plain[name], change / 2, rtol=1e-3, atol=1e-6)
    trained = load_file(adapters / ADAPTER_WEIGHTS)["base_model.model.mlp_head.cond_embed.bias"]
    assert full["mlp_head.cond_embed.bias"].equal(trained)


def test_peft_opens_them_and_computes_the_same(tiny_folder, adapters):
    from peft import PeftModel

    ours = open_model(tiny_folder, device="cpu", lora=[adapters]).model
    base = open_model(tiny_folder, device="cpu").model
    before_BSD = base.run_backbone(IDS_BS).hidden_BSD
    theirs = PeftModel.from_pretrained(base, str(adapters)).base_model.model
    hidden_BSD = theirs.run_backbone(IDS_BS).hidden_BSD
    torch.testing.assert_close(
        hidden_BSD, ours.run_backbone(IDS_BS).hidden_BSD, rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(before_BSD, hidden_BSD, atol=1e-2)
    x_NC, t_N = torch.randn(3, 8), torch.tensor([5, 50, 500])
    torch.testing.assert_close(
        theirs.mlp_head(x_NC, t_N, hidden_BSD[0, :3]), ours.mlp_head(x_NC, t_N, hidden_BSD[0, :3])
    )


def test_quantised_layers_hold_the_adapters(tiny_folder, adapters, tmp_path):
    list(merge(tiny_folder, [adapters], tmp_path / "merged"))
    one = open_model(tiny_folder, device="cpu", quantize=8, lora=[adapters]).model
    other = open_model(tmp_path / "merged", device="cpu", quantize=8).model
    assert same(one.state_dict(), other.state_dict())


@pytest.mark.gradients
def test_samples_of_a_training_are_drawn_with_the_adapters(tiny_folder):
    model = open_orthus(tiny_folder, device="cpu", dtype="fp32").model
    for parameter in add_lora(model, LoraRecipe(rank=2, head="lora")):
        parameter.data += 0.1
    with torch.no_grad():
        model.lm_head.bfloat16()
        trained_BSD = model.run_backbone(IDS_BS).hidden_BSD
        with merged_layers(model):
            assert not any("lora" in name for name, _ in model.named_modules())
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            torch.testing.assert_close(model.run_backbone(IDS_BS).hidden_BSD, trained_BSD)
        assert model.run_backbone(IDS_BS).hidden_BSD.equal(trained_BSD)
    assert model.lm_head.weight.dtype == torch.bfloat16


def broken(adapters: Path, folder: Path, how: str) -> tuple[str, str]:
    """A folder that cannot be added, or a path that names none, and what is said of it."""
    shutil.copytree(adapters, folder)
    weights, config = folder / ADAPTER_WEIGHTS, folder / ADAPTER_CONFIG
    if how == "missing":
        return str(folder / "elsewhere"), "there is no such folder of adapters"
    if how == "no weights":
        weights.unlink()
        return str(folder), f"there is no {ADAPTER_WEIGHTS}"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
        return str(folder), "damaged or cut short"
    if how == "config":
        config.write_text("{")
        return str(folder), "does not read"
    if how == "kind":
        table = json.loads(config.read_text()) | {"use_dora": True}
        config.write_text(json.dumps(table))
        return str(folder), "a kind that is not read here: use_dora"
    if how == "scale":
        return f"{folder}:strong", "must be a number, not 'strong'"
    if how == "infinite":
        return f"{folder}:inf", "must be a number, not 'inf'"
    tensors = load_file(weights)
    if how == "nan":
        tensors = {name: tensor * float("nan") for name, tensor in tensors.items()}
        said = "no numbers"
    else:
        name = next(name for name in tensors if name.endswith("lora_B.weight"))
        tensors[name] = tensors[name][:-1].contiguous()
        said = "of these adapters do not fit"
    save_file(tensors, weights)
    return str(folder), said


@pytest.mark.parametrize(
    "how",
    ["missing", "no weights", "cut", "config", "kind", "scale", "infinite", "nan", "shapes"],
)
def test_what_cannot_be_added_is_told(tiny_folder, adapters, tmp_path, how):
    typed, said = broken(adapters, tmp_path / "broken", how)
    with pytest.raises(CheckpointError) as told:
        open_model(tiny_folder, device="cpu", lora=[typed])
    assert said in told.value.message and told.value.hint


def test_adapters_of_another_model_are_refused(tiny_folder, half_folder, adapters, tmp_path):
    with pytest.raises(CheckpointError, match=f"trained on {tiny_folder.name} with the hash"):
        open_model(half_folder, device="cpu", lora=[adapters])
    with pytest.raises(CheckpointError, match="holds a model, and no adapters"):
        open_model(tiny_folder, device="cpu", lora=[half_folder])
    with pytest.raises(CheckpointError, match="these are adapters") as told:
        open_model(adapters)
    assert "--lora" in told.value.hint
    with pytest.raises(CheckpointError, match="stay in their files") as told:
        open_model(tiny_folder, device="cpu", lora=[adapters], low_memory=True)
    assert "orthus merge" in told.value.hint


def test_a_path_may_hold_a_colon(tmp_path):
    (tmp_path / "mine:2").mkdir()
    assert path_and_scale(f"{tmp_path}/mine:2") == (f"{tmp_path}/mine:2", 1.0)
    assert path_and_scale(f"{tmp_path}/mine:2:-0.5") == (f"{tmp_path}/mine:2", -0.5)
    assert path_and_scale("C:\\mine") == ("C:\\mine", 1.0)


def test_a_recipe_that_trains_no_adapters_is_told(tiny_folder, monkeypatch):
    with pytest.raises(RecipeError, match="rank is 0"):
        load(PosttrainRecipe, None, ('lora.head="frozen"',))
    with pytest.raises(RecipeError, match="interpolation 0.5 is of whole weights"):
        load(PosttrainRecipe, None, ("lora.rank=2", "interpolation=0.5"))
    model = open_orthus(tiny_folder, device="cpu", dtype="fp32").model
    with pytest.raises(TrainingError, match="no projection 'query'") as told:
        add_lora(model, LoraRecipe(rank=2, targets=("query",)))
    assert "q_proj" in told.value.hint
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TrainingError, match="trained with peft") as told:
        add_lora(model, LoraRecipe(rank=2))
    assert "pip install 'orthus-kit[lora]'" in told.value.hint


def test_words_that_adapters_were_trained_on_come_along(tiny_folder, adapters, tmp_path):
    taught = shutil.copytree(adapters, tmp_path / "taught")
    (taught / VOCABULARY).write_text("zebra\n")
    known = load_model(tiny_folder, device="cpu", lora=[adapters, f"{taught}:0.5"]).known
    assert known is not None and "zebra" in known.words
    list(merge(tiny_folder, [taught, adapters], tmp_path / "merged"))
    assert (tmp_path / "merged" / VOCABULARY).read_text() == "zebra\n"


def test_python_opens_adapters_and_records_them(tiny_folder, adapters):
    plain = Orthus.open(tiny_folder, device="cpu")
    opened = Orthus.open(tiny_folder, device="cpu", lora=f"{adapters}:0.5")
    (told,) = opened.about["lora"]
    assert told["name"] == adapters.name and told["scale"] == 0.5
    assert opened.about["hash"] != plain.about["hash"]
    info = opened.generate("a snowman", seed=1).infos[0]
    assert info.recipe["lora"] == [f"{adapters}:0.5"] and info.model["lora"] == [told]
    assert "lora" not in plain.generate("a snowman", seed=1).infos[0].recipe
    with pytest.raises(OrthusError, match="chosen when the model is opened"):
        opened.generate("a snowman", lora=str(adapters))
    with pytest.raises(OrthusError, match="lora must be"):
        Orthus.open(tiny_folder, lora=3)  # type: ignore[arg-type]
