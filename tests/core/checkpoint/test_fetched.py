"""Layers that stay in their files: the same pictures, and hardly any weights in memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from accelerate.utils import OffloadedWeightsLoader

from orthus_core.checkpoint.model_folder import open_model
from orthus_core.device import DTYPES
from orthus_core.errors import CheckpointError
from orthus_core.events import ImageDone
from orthus_core.model import quantised
from orthus_core.model.quantised import quantise
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Guidance, Prompt


def pictures(model) -> torch.Tensor:
    context = Context((0, 40, 41, model.config.sep_token_id))
    against = (Context((0, model.config.sep_token_id)),)
    prompts = [Prompt(context, seed, Guidance.text(2.0), against) for seed in (1, 2)]
    events = generate(model, prompts, SamplingParams(max_images=1, steps=4))
    return torch.stack([event.features_PC for event in events if isinstance(event, ImageDone)])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_layers_that_are_fetched_draw_the_same(tiny_folder, dtype):
    fetched, held = (
        open_model(tiny_folder, device="cpu", dtype=dtype, low_memory=low).model
        for low in (True, False)
    )
    assert all(weight.is_meta for weight in fetched.model.layers.parameters())
    others = [w for name, w in fetched.named_parameters() if not name.startswith("model.layers.")]
    assert others and not any(weight.is_meta for weight in others)
    assert torch.equal(pictures(fetched), pictures(held))
    # Nothing that was fetched has stayed.
    assert all(weight.is_meta for weight in fetched.model.layers.parameters())


def test_no_more_than_one_part_of_a_layer_is_held(tiny_folder, monkeypatch):
    model = open_model(tiny_folder, device="cpu", low_memory=True).model
    held: list[int] = []
    fetch = OffloadedWeightsLoader.__getitem__

    def watched(self, name):
        held.append(sum(not weight.is_meta for weight in model.model.layers.parameters()))
        return fetch(self, name)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", watched)
    pictures(model)
    weights = sum(1 for _ in model.model.layers.parameters())
    assert len(held) >= weights and max(held) <= 2


def test_layers_to_be_quantised_do_not_stay_in_their_files(tiny_folder):
    with pytest.raises(CheckpointError, match="cannot be quantised"):
        open_model(tiny_folder, device="cpu", low_memory=True, quantize=8)


@pytest.mark.parametrize("dtype", ["auto", "fp32"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_is_quantised_layer_by_layer_as_it_is_opened(tiny_folder, monkeypatch, bits, dtype):
    whole: list[int] = []

    def watched(model, bits, *, bring):
        def counted(layer):
            bring(layer)
            linears = [m for m in model.model.layers.modules() if type(m) is torch.nn.Linear]
            whole.append(sum(not linear.weight.is_meta for linear in linears))

        quantise(model, bits, bring=counted)

    monkeypatch.setattr(quantised, "quantise", watched)
    opened = open_model(tiny_folder, device="cpu", dtype=dtype, quantize=bits).model
    # Seven linear layers a layer; those before are quantised when the next is brought in.
    assert whole == [7] * opened.config.num_hidden_layers
    assert not any(weight.is_meta for weight in opened.parameters())
    usual = "bf16" if dtype == "auto" else dtype
    assert opened.dtype == DTYPES[usual]
    at_once = open_model(tiny_folder, device="cpu", dtype=usual).model
    quantise(at_once, bits)
    assert torch.equal(pictures(opened), pictures(at_once))


def test_weights_that_were_quantised_are_let_go_at_once(tiny_folder, monkeypatch):
    """Not when the garbage collector comes by: until then the whole model would be in memory."""
    whole: list[weakref.ref] = []

    def watched(model, bits, *, bring):
        def counted(layer):
            bring(layer)
            linears = [m for m in layer.modules() if type(m) is torch.nn.Linear]
            whole.extend(weakref.ref(linear) for linear in linears)

        quantise(model, bits, bring=counted)
        assert len(whole) == 7 * model.config.num_hidden_layers
        assert not any(linear() for linear in whole)

    monkeypatch.setattr(quantised, "quantise", watched)
    gc.disable()
    try:
        open_model(tiny_folder, device="cpu", quantize=8)
    finally:
        gc.enable()
    assert whole
