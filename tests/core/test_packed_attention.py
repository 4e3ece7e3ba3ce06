"""Each way to attend to packed rows equals the dense mask, and those of a card make no mask over
all pairs of positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen
import transformers.integrations.flex_attention as flex
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import modeling_utils

from orthus_core.data.collate import Batch
from orthus_core.losses.joint import DiscreteLoss, JointLoss
from orthus_core.model import packed_attention
from orthus_core.model.config import PACKED_ATTENTION
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.packed_attention import (
    Documents,
    Way,
    document_inputs,
    document_positions,
    use_packed_attention,
    way_to_attend,
)
from orthus_core.recipe.training import LoraRecipe
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.prompt import Branch
from orthus_core.train.lora import add_lora
from tests.conftest import make_tiny_model

IMAGE, WORD, P, C = 39, 40, 4, 8


def varlen_by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """torch's varlen_attn by its documentation, for numbers of any precision."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and window_size == (-1, 0)
    assert int(cu_seq_q.diff().max()) == max_q == max_k
    assert query.shape == key.shape == value.shape and len(query) == int(cu_seq_q[-1])
    scale = scale or query.shape[-1] ** -0.5
    found = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        scores_HTT = torch.einsum("qhd,khd->hqk", query[start:end], key[start:end]) * scale
        future_TT = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        weights_HTT = scores_HTT.masked_fill(future_TT, -math.inf).softmax(-1)
        found.append(torch.einsum("hqk,khd->qhd", weights_HTT, value[start:end]))
    return torch.cat(found)


@pytest.fixture
def on_a_cpu(monkeypatch):
    """What a card's ways call, as a CPU can do it."""
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_by_hand)
    monkeypatch.setattr(flex, "WrappedFlexAttention", lambda training: lambda: flex_attention)


def rows_of_documents() -> Batch:
    """Three rows: documents with and without a picture and padding, one document, padding alone."""
    text, picture = [0, WORD, WORD + 1, WORD + 2, 2], [0, WORD + 3, 37, *[IMAGE] * P, 38, 2]
    numbers_BS = torch.tensor([[1] * 9 + [2] * 5 + [3] * 9 + [0] * 3, [1] * 26, [0] * 26])
    ids_BS = torch.full((3, 26), 1)
    ids_BS[0, :23] = torch.tensor([*picture, *text, *picture])
    ids_BS[1] = torch.tensor([0, *range(WORD, WORD + 24), 2])
    targets_BS = torch.full((3, 26), -100)
    targets_BS[:, :-1] = ids_BS[:, 1:]
    inside_BS = (numbers_BS > 0) & (numbers_BS == numbers_BS.roll(-1, 1))
    targets_BS[~inside_BS | (targets_BS == IMAGE)] = -100
    slots_N = (ids_BS.flatten() == IMAGE).nonzero().flatten()
    features_NC = torch.randn(len(slots_N), C, generator=torch.Generator().manual_seed(0))
    positions_BS = document_positions(numbers_BS)
    return Batch(ids_BS, numbers_BS, positions_BS, targets_BS, slots_N - 1, features_NC)


def recompute(model: OrthusForConditionalGeneration) -> None:
    """Have each layer forget its activations, and compute them again for its gradients."""
    for layer in model.model.layers:
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )


def joint_loss(*, checkpoints: bool, lora: bool) -> JointLoss:
    model = make_tiny_model(num_key_value_heads=2)
    if lora:
        torch.manual_seed(1)
        add_lora(model, LoraRecipe(rank=2, dropout=0.0))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    if checkpoints:
        recompute(model)
    return JointLoss(model, lambda_image=2.0, repeats=2).train()


def discrete_loss() -> DiscreteLoss:
    model = make_tiny_model()
    return DiscreteLoss(model.model, model.lm_head).train()


def losses_and_gradients(
    objective: JointLoss | DiscreteLoss, monkeypatch, way: Way
) -> dict[str, Tensor]:
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(packed_attention, "way_to_attend", lambda *_: seen.append(way) or way)
        torch.manual_seed(3)
        total = objective(rows_of_documents()).total
        total.backward()
    assert seen, "the layers ask for the way"
    gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    return {"total": total.detach(), **gradients}


@pytest.mark.parametrize("way", ["varlen", "loop"])
@pytest.mark.parametrize("kind", ["plain", "checkpoints", "lora", "discrete"])
def test_losses_and_gradients_are_those_of_a_dense_mask(kind, way, on_a_cpu, monkeypatch):
    def found(way: Way) -> dict[str, Tensor]:
        # In the order of the kinds of training: all parameters, recomputed layers, adapters.
        objective = (
            discrete_loss()
            if kind == "discrete"
            else joint_loss(checkpoints=kind == "checkpoints", lora=kind == "lora")
        )
        return losses_and_gradients(objective, monkeypatch, way)

    dense, other = found("dense"), found(way)
    assert any(("lora_A" if kind == "lora" else "q_proj") in name for name in dense)
    torch.testing.assert_close(other, dense, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=["fp32", "autocast"]
)
@pytest.mark.parametrize("way", ["varlen", "flex", "loop"])
@torch.no_grad()
def test_hidden_states_are_those_of_a_dense_mask(way, dtype, limit, on_a_cpu):
    model = make_tiny_model(num_key_value_heads=2)
    use_packed_attention(model)
    batch, hidden = rows_of_documents(), []
    for each in ("dense", way):
        inputs = document_inputs(model, batch.attention_mask_BS, model.dtype, way=each)
        assert inputs["position_ids"][0].tolist() == [*range(9), *range(5), *range(9), *range(3)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden.append(model.run_backbone(batch.ids_BS, batch.features_NC, **inputs).hidden_BSD)
    assert float((hidden[1] - hidden[0]).norm() / hidden[0].norm()) < limit
    # As those of a model that was never told of documents and is given a dense mask.
    plain = make_tiny_model(num_key_value_heads=2)
    inputs = document_inputs(plain, batch.attention_mask_BS, plain.dtype)
    assert inputs["attention_mask"].shape == (3, 1, 26, 26) and "documents" not in inputs
    alone = plain.run_backbone(batch.ids_BS, batch.features_NC, **inputs).hidden_BSD
    assert float((hidden[0] - alone).norm() / alone.norm()) < limit


@pytest.mark.parametrize("length", [1, 128, 300, 384])
def test_blocks_are_those_of_every_pair_of_positions(length):
    random = torch.Generator().manual_seed(length)
    numbers_BS = (torch.rand(4, length, generator=random) < 0.01).cumsum(1) + 1
    numbers_BS[1] = 1
    numbers_BS[2, length // 2 :] = 0
    starts_BS = packed_attention.document_starts(numbers_BS).cumsum(1)
    ours = Documents(numbers_BS).block_mask()

    def every(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (starts_BS[row, query] == starts_BS[row, key])

    theirs = create_block_mask(every, 4, None, length, length, device="cpu")
    assert ours.shape == theirs.shape and ours.seq_lengths == theirs.seq_lengths
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for kind in ("kv", "full_kv"):
        order, counts = (getattr(ours, f"{kind}_{name}") for name in ("indices", "num_blocks"))
        listed = counts[..., None] > torch.arange(order.shape[-1])
        assert torch.equal(order[listed], getattr(theirs, f"{kind}_indices")[listed])


@contextmanager
def autocast_of_a_card() -> Iterator[None]:
    """autocast to bf16; torch.autocast itself stays off where there is no card."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


class Shapes(TorchDispatchMode):
    """The largest second size of what each call makes: S for a tensor over pairs of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self.calls = 0, set[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.add(str(func))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(each, Tensor) and each.ndim > 1:
                self.most = max(self.most, sorted(each.shape)[-2])
        return made


@pytest.mark.parametrize("way", ["varlen", "dense"])
def test_a_card_makes_no_tensor_over_all_pairs_of_positions(way):
    """By torch's own kernel, of which fake tensors know the shapes: forward, recomputed, backward.
    They are not those of a card, which without CUDA cannot be cut.
    """
    length = 512
    numbers_BS = torch.tensor([[1] * 200 + [2] * 300 + [0] * 12] * 2)
    model = make_tiny_model()
    use_packed_attention(model)
    recompute(model)
    with Shapes() as making:
        inputs = document_inputs(model, numbers_BS, model.dtype, way=way)
        inputs["documents"].block_mask()
    assert making.most < length, "nor are they made of the documents"
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in model.model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(mode.from_tensor(weight.detach())))
        embeds_BSD = torch.empty(2, length, 32)
        with Shapes() as running, torch.autocast("cpu", torch.bfloat16):
            model.run_backbone(inputs_embeds=embeds_BSD, **inputs).hidden_BSD.sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad is not None
    kernels = {call for call in running.calls if "_varlen_attn" in call}
    if way == "varlen":
        assert len(kernels) == 2 and running.most < length, (kernels, running.most)
    else:
        assert running.most == length and not kernels, "as is seen of a dense mask"


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("way", ["loop", "dense"])
def test_a_processor_without_amx_attends_in_fp32(amx, way, monkeypatch):
    """Under autocast to bf16, in which its backward pass is slow."""
    monkeypatch.setattr(packed_attention, "has_amx", lambda: amx)
    computed: list[torch.dtype] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def listed(query, *others, **more):
        computed.append(query.dtype)
        return attention(query, *others, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", listed)
    model = make_tiny_model()
    use_packed_attention(model)
    inputs = document_inputs(model, torch.tensor([[1] * 6 + [2] * 6]), model.dtype, way=way)
    with torch.autocast("cpu", torch.bfloat16):
        model.run_backbone(inputs_embeds=torch.randn(1, 12, 32), **inputs)
    assert set(computed) == {torch.bfloat16 if amx else torch.float32}


def test_the_way_is_that_of_device_precision_and_documents(monkeypatch):
    can = {"varlen": True, "flex": True}
    for name in can:
        monkeypatch.setattr(packed_attention, f"has_{name}", lambda device, name=name: can[name])

    def way(device: str, dtype=torch.bfloat16, channels=128, dropout=0.0, numbers=None) -> Way:
        numbers = [[1] * 100 + [2] * 100 + [3] * 100] if numbers is None else numbers
        documents = Documents(torch.tensor(numbers))
        with FakeTensorMode():
            query = torch.empty(1, 2, 300, channels, device=device, dtype=dtype)
            return way_to_attend(documents, query, dropout)

    assert way("cuda") == way("cuda", torch.float16) == "varlen"
    assert way("cuda", torch.float32) == way("cuda", channels=20) == "flex"
    with autocast_of_a_card():
        assert way("cuda", torch.float32) == "varlen", "what autocast computes in"
    assert way("cuda", dropout=0.1) == way("cuda", torch.float32, channels=8) == "dense"
    can["varlen"] = False
    assert way("cuda") == "flex"
    can["flex"] = False
    assert way("cuda") == "dense"
    assert way("cpu", torch.float32) == way("cpu", dropout=0.1) == "loop"
    assert way("cpu", numbers=[[1] * 40 + [2] * 24]) == "dense", "a call costs more than it saves"
    assert way("cpu", numbers=[[1] * 290 + [2] * 10]) == "dense", "nearly all pairs are seen"


def test_an_attention_that_knows_no_documents_fails_rather_than_seeing_all():
    model, batch = make_tiny_model(), rows_of_documents()
    use_packed_attention(model)
    inputs = document_inputs(model, batch.attention_mask_BS, model.dtype)
    for other in ("sdpa", "eager"):
        model.set_attn_implementation(other)
        with pytest.raises(RuntimeError, match="attn_mask dtype|size of tensor"):
            model.run_backbone(batch.ids_BS, batch.features_NC, **inputs)


@torch.no_grad()
def test_a_model_that_trained_draws_as_before_and_says_nothing_of_it_in_its_config():
    model, branches = make_tiny_model(), [Branch((0, WORD, 38)), Branch((0, *range(WORD, 49), 38))]
    rows_BS = torch.tensor([[0, WORD, WORD + 1], [0, WORD, 1]])
    mask_BS = (rows_BS != 1).long()
    before = (
        Backbone(model).read(branches, 20)[1],
        model.run_backbone(rows_BS, attention_mask=mask_BS)[0],
    )
    JointLoss(model)
    after = (
        Backbone(model).read(branches, 20)[1],
        model.run_backbone(rows_BS, attention_mask=mask_BS)[0],
    )
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert packed_attention.PACKED_ATTENTION not in model.config.to_json_string()


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["varlen", "flex", "dense"])
def test_a_card_attends_as_a_cpu_does(way):
    """Attention alone, with gradients: rows of 320 positions, 4 heads of 64."""
    numbers_BS = torch.tensor([[1] * 100 + [2] * 150 + [0] * 70, [1] * 320])
    module = torch.nn.Identity()
    module.num_key_value_groups, module.is_causal = 1, True  # type: ignore[assignment]
    tensors = torch.randn(3, 2, 4, 320, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for device, each, dtype in (
        ("cpu", "dense", torch.float32),
        ("cuda", way, torch.float32 if way == "flex" else torch.bfloat16),
    ):
        leaves = [t.to(device, dtype).requires_grad_() for t in tensors]
        documents = Documents(numbers_BS.to(device), each)
        out_BSHD, _ = packed_attention.attend(module, *leaves, None, documents=documents)
        out_BSHD.float().square().sum().backward()
        found.append([out_BSHD, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(found[1], found[0], strict=True):
        apart = (ours.detach().cpu().float() - theirs.detach()).norm() / theirs.detach().norm()
        assert apart < 2e-2


def test_a_transformer_without_its_autoencoder_is_told_nothing_of_it(monkeypatch):
    """transformers warns of undefined behaviour where a config describes what is not there."""
    warnings = []
    monkeypatch.setattr(modeling_utils.logger, "warning", warnings.append)
    model = make_tiny_model().model
    del model.vqmodel
    before = model.config.vq_config._attn_implementation
    use_packed_attention(model)
    assert model.config._attn_implementation == PACKED_ATTENTION
    assert model.config.vq_config._attn_implementation == before and not warnings
