"""Weights in 8 and 4 bits: nearly the same numbers in a half and a quarter of the memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orthus_core.errors import CheckpointError
from orthus_core.events import ImageDone
from orthus_core.model.quantised import (
    MANY_ROWS,
    KernelLinear,
    QuantisedLinear,
    has_kernel,
    packed,
    quantise,
    quantised,
    unpacked,
)
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Guidance, Prompt
from tests.conftest import make_tiny_model

BOS, SEP, WORD = 0, 38, 40


def layer(inputs: int = 256, outputs: int = 96, dtype: torch.dtype = torch.float32) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    with torch.no_grad():
        made.weight.normal_(generator=torch.Generator().manual_seed(0))
    return made.to(dtype)


def size(module: nn.Module) -> int:
    """Bytes of all that it holds."""
    held = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


@pytest.mark.parametrize("inputs", [256, 50])
@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_is_further_off_than_half_a_step(inputs, bits):
    weight_OI = layer(inputs).weight.detach()
    whole_OGW, scale_OG1 = quantised(weight_OI, bits)
    off = ((whole_OGW * scale_OG1).flatten(1) - weight_OI).abs().view_as(whole_OGW)
    assert (off <= scale_OG1 / 2 + 1e-6).all()
    assert whole_OGW.abs().max() == 2 ** (bits - 1) - 1


def test_two_numbers_lie_in_a_byte_and_come_out_again():
    whole = torch.arange(-8, 8, dtype=torch.int8).repeat(4).view(2, 1, 32)
    assert packed(whole).shape == (2, 1, 16)
    assert torch.equal(unpacked(packed(whole)), whole)


def test_weights_of_nothing_stay_nothing():
    empty = layer()
    nn.init.zeros_(empty.weight)
    assert not QuantisedLinear(empty, 4).weight.any()


@pytest.mark.parametrize(("bits", "error", "share"), [(8, 0.01, 0.6), (4, 0.15, 0.35)])
def test_a_layer_gives_nearly_the_same_in_less_memory(bits, error, share):
    whole = layer(dtype=torch.bfloat16)
    less = QuantisedLinear(whole, bits)
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = whole(x).float()
    assert (less(x).float() - expected).norm() < error * expected.norm()
    assert less(x).dtype == torch.bfloat16
    assert size(less) < share * size(whole)


@pytest.mark.parametrize("rows", [1, 6, MANY_ROWS, 3 * MANY_ROWS])
@pytest.mark.parametrize(("bits", "error", "share"), [(8, 0.015, 0.6), (4, 0.15, 0.35)])
def test_torchs_kernels_give_nearly_the_same_whatever_the_rows(bits, error, share, rows):
    whole = layer(dtype=torch.bfloat16)
    assert has_kernel(whole, bits)
    less = KernelLinear(whole, bits)
    x = torch.randn(rows, 2, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = whole(x).float()
    assert less(x).shape == expected.shape and less(x).dtype == torch.bfloat16
    assert (less(x).float() - expected).norm() < error * expected.norm()
    assert size(less) < share * size(whole)


def test_a_row_of_4_bits_is_what_it_is_put_together_to_be():
    """How the kernel lays its numbers out is torch's own affair; they are those of `quantised`."""
    whole = layer(dtype=torch.bfloat16)
    eye = torch.eye(256, dtype=torch.bfloat16)
    put_together = QuantisedLinear(whole, 4).weight
    whole.bias = None
    # bf16 keeps eight bits of a number.
    torch.testing.assert_close(KernelLinear(whole, 4)(eye).t(), put_together, atol=0, rtol=2**-8)


def test_there_are_kernels_for_bf16_on_a_cpu_in_sizes_that_fit():
    assert not has_kernel(layer(), 8) and not has_kernel(layer(), 4)
    odd = layer(50, 90, torch.bfloat16)
    assert not has_kernel(odd, 8) and not has_kernel(odd, 4)
    model = make_tiny_model().bfloat16()
    quantise(model, 4)
    assert any(isinstance(module, KernelLinear) for module in model.model.layers.modules())


@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.3)])
def test_a_quantised_model_draws_nearly_the_same_picture(bits, error):
    prompt = Prompt(Context((BOS, WORD, SEP)), 1, Guidance.text(2.0), (Context((BOS, SEP)),))

    def drawn(model) -> torch.Tensor:
        events = generate(model, [prompt], SamplingParams(max_images=1, steps=5))
        (done,) = (event for event in events if isinstance(event, ImageDone))
        return done.features_PC

    model = make_tiny_model()
    whole, before = drawn(model), size(model.model.layers)
    head, words = size(model.mlp_head), size(model.lm_head)
    quantise(model, bits)
    less = drawn(model)
    assert 0 < (less - whole).norm() < error * whole.norm()
    assert size(model.model.layers) < 0.4 * before
    assert (size(model.mlp_head), size(model.lm_head)) == (head, words), (
        "the heads stay as they are"
    )


def test_a_model_is_quantised_once():
    model = make_tiny_model()
    quantise(model, 8)
    with pytest.raises(CheckpointError, match="quantised already"):
        quantise(model, 4)
