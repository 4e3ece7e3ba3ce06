"""What happens on a GPU, as far as it can be shown without one: torch's fake tensors know their
devices, autocast to bf16 works on a CPU, and what makes the CPU wait for a GPU is seen in calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from orthus_core.data.collate import Batch
from orthus_core.device import moved
from orthus_core.events import PatchDone
from orthus_core.losses.joint import JointLoss
from orthus_core.model.packed_attention import packed_mask
from orthus_core.model.soft_embedding import soft_embed
from orthus_core.samplers import decode, generate
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Branch, Context, Guidance, Prompt
from orthus_core.train import distributed, freeze, heartbeat, sample_grid
from orthus_core.train.features import pictures_together
from tests.conftest import make_tiny_model

BOS, BOI, SEP, IMAGE, WORD = 0, 37, 38, 39, 40
FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


# Encoding


def test_a_pass_of_the_encoder_takes_as_much_memory_for_large_pictures_and_is_full_for_small_ones():
    on_gpu = {side: pictures_together(side, FIRST) for side in (32, 64, 128, 256, 512, 1024, 4096)}
    assert on_gpu == {32: 64, 64: 64, 128: 64, 256: 16, 512: 4, 1024: 1, 4096: 1}
    cpu = torch.device("cpu")
    assert [pictures_together(side, cpu) for side in (32, 64, 128, 256, 512)] == [16, 16, 4, 1, 1]


# Frozen weights


def rows_of_pictures(model) -> Batch:
    ids = [BOS, BOI, *[IMAGE] * 4, 2]
    ids_BS = torch.tensor([ids] * 3)
    slots_N = (ids_BS.flatten() == IMAGE).nonzero().flatten()
    random = torch.Generator().manual_seed(1)
    return Batch(
        ids_BS,
        torch.ones_like(ids_BS),
        torch.arange(len(ids)).expand(3, -1),
        torch.full_like(ids_BS, -100),
        slots_N - 1,
        torch.randn(len(slots_N), 8, generator=random),
    )


def build_base_step(*, held: bool) -> tuple[Tensor, list[Tensor], int]:
    """Loss and gradients of a step of build-base, and bytes that are saved for its backward pass
    and are no weights."""
    model = make_tiny_model().bfloat16().float()  # as a folder in bf16 is opened
    trainable = freeze.only_image_parts(model)
    if held:
        assert freeze.convert_exact(model, torch.bfloat16) > 0
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    objective = JointLoss(model, lambda_image=1, text_weight=0, repeats=2).train()
    torch.manual_seed(0)
    with (
        torch.autocast("cpu", torch.bfloat16),
        saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        total = objective(rows_of_pictures(model)).total
    taken = sum(saved.values())
    total.backward()
    gradients = [p.grad for p in trainable if p.grad is not None]
    return total.detach(), gradients, taken


def test_frozen_weights_in_bf16_change_no_gradient_and_are_not_kept_twice():
    total, gradients, taken = build_base_step(held=False)
    again, others, less = build_base_step(held=True)
    assert torch.equal(total, again)
    assert len(gradients) == len(others) > 5
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    layers = make_tiny_model().model.layers.modules()
    copies = sum(2 * each.weight.numel() for each in layers if isinstance(each, torch.nn.Linear))
    assert taken - less >= copies


def test_weights_that_bf16_does_not_hold_and_those_on_a_cpu_stay_as_they_are():
    model = make_tiny_model()
    freeze.only_image_parts(model)
    matrix, exact = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(2))
    with torch.no_grad():
        model.get_parameter(matrix).fill_(1 / 3)
        model.get_parameter(exact).fill_(0.25)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert freeze.hold_frozen_in_bf16(model, torch.device("cpu")) == 0
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    freeze.convert_exact(model, torch.bfloat16)
    assert model.get_parameter(matrix).dtype == torch.float32
    assert model.get_parameter(exact).dtype == torch.bfloat16
    assert all(torch.equal(weight.float(), before[n]) for n, weight in model.named_parameters())


# The sample sheet


def test_a_sample_sheet_takes_no_more_pictures_at_once_than_fit(tiny_folder, monkeypatch):
    from orthus_core.checkpoint.model_folder import open_orthus

    opened = open_orthus(tiny_folder, device="cpu")
    assert opened.processor is not None
    tokenizer = opened.processor.tokenizer
    run, sizes = generate.run_batch, []
    monkeypatch.setattr(
        generate, "run_batch", lambda job, rows: sizes.append(len(rows)) or run(job, rows)
    )
    words = ["a snowman", "a red fox", "a snowman"]

    def draw():
        return sample_grid.draw_words(opened.model, tokenizer, words, steps=1)

    sheet = draw()
    monkeypatch.setattr(generate, "free_bytes", lambda _: 0)
    assert draw().size == sheet.size
    assert sizes == [3, 1, 1, 1]


# Several devices


def test_features_find_codes_and_table_on_two_devices():
    with FakeTensorMode():
        codes_KC = torch.empty(32, 8, device=SECOND)
        table_KD = torch.empty(32, 16, device=FIRST)
        for z_NC in (torch.empty(2, 8, device=SECOND), torch.empty(2, 8, device=FIRST)):
            for distance in ("exact", "release"):
                assert soft_embed(z_NC, codes_KC, table_KD, distance=distance).device == FIRST


@torch.no_grad()
def test_a_model_spread_over_two_devices_decodes_where_its_decoder_is():
    model = make_tiny_model()
    with FakeTensorMode():
        for module_name, module in model.named_modules():
            # As `device_map="auto"` cuts it: what comes after the layers is elsewhere.
            first = module_name.startswith(("model.embed_tokens", "model.layers", "model.norm"))
            for name, weight in list(module.named_parameters(recurse=False)):
                fake = torch.empty(weight.shape, device=FIRST if first else SECOND)
                setattr(module, name, torch.nn.Parameter(fake))
        assert model.device == FIRST and Backbone(model, records=False)._adds_mask
        for place in (FIRST, SECOND):
            features_MPC = torch.empty(1, 4, 8, device=place)
            assert decode.decode(model, features_MPC).device == SECOND


# Streams


class Streams:
    """CUDA streams that are counted, and do nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        monkeypatch.setattr(torch.cuda, "Stream", self.make)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        decode._decoding_stream.cache_clear()

    def make(self, device: torch.device) -> Streams:
        self.made += 1
        return self

    def record_event(self) -> None: ...
    def wait_event(self, event: object) -> None: ...
    def synchronize(self) -> None: ...


def test_all_pictures_are_decoded_in_one_stream(tiny_model, monkeypatch):
    streams = Streams(monkeypatch)
    features_MPC = torch.zeros(3, 4, 8)
    for _ in range(2):
        with decode.ImageDecoder(tiny_model, beside=True) as decoder:
            decoder._device = FIRST
            monkeypatch.setattr(decoder, "_pixels", lambda features_MPC: [*features_MPC])
            for _ in range(3):
                waiting = decoder.submit([0, 1, 2], [0, 0, 0], features_MPC)
                assert waiting[2].pixels.result() is not None
    decode._decoding_stream.cache_clear()
    assert streams.made == 1


# Waiting


def test_processes_wait_for_the_one_that_writes(monkeypatch):
    asked: dict[str, Any] = {}

    class Asked(Exception):
        pass

    def init(*_: Any, **settings: Any) -> None:
        asked.update(settings)
        raise Asked

    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    monkeypatch.setattr(distributed, "_connected", lambda place: None)
    monkeypatch.setattr(distributed, "_wait_for_all", lambda place, store: None)
    monkeypatch.setattr(heartbeat, "begin", lambda shard, shards: None)
    with pytest.raises(Asked):
        distributed.meet.__wrapped__()
    assert asked["timeout"] >= timedelta(hours=1)


class Waits(TorchFunctionMode):
    """Collects the calls after which a CPU waits for a GPU: values that are read, indices and data
    that come from ordinary memory.
    """

    READING = (
        *(Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.nonzero),
        *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, torch.nonzero, Tensor.masked_select),
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.watching = False

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.watching and (func in self.READING or self.has_copy(func, args, kwargs)):
            self.seen.append(func.__name__)
        return func(*args, **kwargs)

    @staticmethod
    def has_copy(func: Callable, args: tuple, kwargs: dict) -> bool:
        if func in (torch.tensor, torch.as_tensor):
            return kwargs.get("device") is not None
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            # A list is copied, and of a mask the number of its ones is read.
            return any(
                isinstance(each, list) or (isinstance(each, Tensor) and each.dtype == torch.bool)
                for each in index
            )
        return False


def test_no_patch_waits_for_the_gpu(tiny_model):
    prompts = [
        Prompt(Context((BOS, WORD + n, SEP)), n, Guidance.text(3.0), (Context((BOS, SEP)),))
        for n in range(2)
    ]
    params = SamplingParams(max_images=1, steps=2)
    job, rows = generate.prepare_batch(tiny_model, prompts, params)
    waits, patches = Waits(), 0
    with torch.no_grad(), waits, job.decoder:
        for event in generate.run_batch(job, rows):
            if isinstance(event, PatchDone):
                patches += 1
                waits.watching = 2 <= patches < 8  # all of it between the first patch and the last
    assert patches == 8 and waits.seen == []


def test_what_goes_to_a_gpu_comes_from_pinned_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: asked.append("pinned") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, *args, **more: asked.append((args, more)))
    moved(torch.zeros(3), FIRST)
    assert asked == ["pinned", ((FIRST,), {"non_blocking": True})]


# Attention


@torch.no_grad()
def test_a_mask_that_is_added_is_the_boolean_one(tiny_model):
    streams = [Branch((BOS, WORD, SEP)), Branch((BOS, *range(WORD, WORD + 9), SEP))]
    hidden = []
    for adds in (False, True):
        backbone = Backbone(tiny_model)
        backbone._adds_mask = adds
        cache, hidden_RD = backbone.read(streams, 20)
        embeds_RD = tiny_model.embed(torch.tensor([[WORD, WORD + 1]]))[0]
        hidden.append((hidden_RD, backbone.step(cache, embeds_RD, [3, 11])))
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)
    assert backbone._mask(torch.zeros(2, 1), 8, torch.bfloat16).dtype == torch.bfloat16


@torch.no_grad()
def test_rows_of_one_document_need_no_mask_where_flash_attention_is_used(tiny_model):
    documents_BS = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    ids_BS = torch.randint(WORD, WORD + 50, documents_BS.shape)
    masked = packed_mask(documents_BS, torch.float32)
    causal = packed_mask(documents_BS, torch.float32, flash=True)
    assert masked.mask is documents_BS and causal.mask is None
    real_BS, seen = documents_BS > 0, []

    def watched(*tensors: Tensor, attn_mask: Tensor | None = None, **more: Any) -> Tensor:
        seen.append((attn_mask is None, more.get("is_causal")))
        return attention(*tensors, attn_mask=attn_mask, **more)

    attention = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        hidden = [
            tiny_model.run_backbone(
                ids_BS, attention_mask=each.mask, position_ids=each.position_ids_BS
            ).hidden_BSD[real_BS]
            for each in (masked, causal)
        ]
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)
    assert seen[-1] == (True, True), "causal without a mask: what flash kernels take"
    assert packed_mask(torch.tensor([[1, 1, 2, 2]]), torch.float32, flash=True).mask is not None


# fp16


def test_distances_as_in_the_release_are_finite_in_fp16():
    random = torch.Generator().manual_seed(0)
    z_NC, codes_KC = 20 * torch.randn(3, 256, generator=random), torch.randn(32, 256)
    table_KD = torch.randn(32, 16, generator=random)
    assert not z_NC.half().square().sum(-1).isfinite().all(), "as far as it goes, fp16 overflows"
    halves = [tensor.half() for tensor in (z_NC, codes_KC, table_KD)]
    embedded = soft_embed(*halves, distance="release")
    assert embedded.dtype == torch.float16 and embedded.isfinite().all()
    expected = soft_embed(*(tensor.float() for tensor in halves), distance="release")
    torch.testing.assert_close(embedded.float(), expected, atol=1e-2, rtol=1e-2)
