"""Attention of packed rows: each way that there is beside a dense mask, at the shape of a 7B's
layer and 4,096 positions; right, seconds forward and backward, and memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from card_parts.findings import Asked, Finding, compared, gib, the_device
from orthus_core.bench.clock import Clock, peak_memory
from orthus_core.model.packed_attention import (
    Documents,
    Way,
    attend,
    has_flex,
    has_varlen,
    way_to_attend,
)

# Documents of one 512 x 512 picture and of words alone, and padding.
LENGTHS = (1090, 1060, 300, 1075, 180, 200)
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def findings(asked: Asked) -> Iterator[Finding]:
    device = the_device()
    scale, rows, heads, channels = (16, 2, 2, 16) if asked.toy else (1, 4, 32, 128)
    lengths = [length // scale for length in LENGTHS]
    numbers_S = torch.repeat_interleave(torch.arange(1, 7), torch.tensor(lengths))
    numbers_S = nn.functional.pad(numbers_S, (0, 4096 // scale - len(numbers_S)))
    numbers_BS = numbers_S.expand(rows, -1).to(device)
    on_card = device.type == "cuda"
    there: dict[Way, bool] = {
        "varlen": on_card and has_varlen(device),
        "flex": on_card and has_flex(device),
        "loop": not on_card,
    }
    for dtype in (torch.bfloat16, torch.float32) if on_card else (torch.float32,):
        tensors = torch.randn(3, rows, heads, 4096 // scale, channels).to(device, dtype).unbind()
        chosen = way_to_attend(Documents(numbers_BS), tensors[0], 0.0)
        name = str(dtype).removeprefix("torch.")
        yield Finding(f"packed, {name}: chosen", chosen, "right" if there.get(chosen) else "wrong")
        dense, text = measured("dense", tensors, numbers_BS)
        yield Finding(f"packed, {name}: dense", text)
        for way, is_there in there.items():
            if not is_there or (way == "varlen" and dtype == torch.float32):
                yield Finding(f"packed, {name}: {way}", "not run: it is not there")
                continue
            found, text = measured(way, tensors, numbers_BS)
            yield compared(f"packed, {name}: {way} and dense", found, dense, LIMITS[dtype])
            yield Finding(f"packed, {name}: {way}", text)


def measured(way: Way, tensors: tuple[Tensor, ...], numbers_BS: Tensor) -> tuple[Tensor, str]:
    """Output and gradients as one list of numbers, and what one layer's attention takes. The mask
    is made once for all calls, as for the layers of a model.
    """
    device, module = numbers_BS.device, nn.Identity()
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    found = Tensor()

    def run() -> None:
        nonlocal found
        for leaf in leaves:
            leaf.grad = None
        out_BSHD, _ = attend(module, *leaves, None, documents=documents)
        out_BSHD.backward(torch.ones_like(out_BSHD))
        gradients = [leaf.grad.flatten() for leaf in leaves if leaf.grad is not None]
        found = torch.cat([out_BSHD.detach().flatten(), *gradients])

    with peak_memory(device) as peak:
        documents = Documents(numbers_BS, way)
        run()
        clock = Clock(device)
        seconds = min(clock.time(run)[0] for _ in range(3))
        most = peak()
    memory = "" if most is None else f", {gib(most)} at most"
    return found, f"{seconds * 1e3:.3g} ms a layer{memory}"
