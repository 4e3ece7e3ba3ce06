"""The soft embedding: a continuous image feature becomes a weighted mean of code embeddings.

Chameleon looks up the one nearest code. Orthus weights all codes by a softmax over their squared
distances (2412.00127, eq. 1), which is differentiable in the feature, the codes and the table. At
temperature 0 the two are the same.

Legend: N rows, C feature channels, K codes, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def code_squares(codes_KC: Tensor) -> Tensor:
    """|c|^2 of every code, in fp32: [K]."""
    return codes_KC.float().square().sum(-1)


def code_logits(z_NC: Tensor, codes_KC: Tensor, squares_K: Tensor | None = None) -> Tensor:
    """-|z - c|^2 up to a constant of each row, in fp32: [N, K].

    |z|^2 is the same for every code, so it changes neither softmax nor argmax. It is left out,
    because it is large: with it, the fp32 rounding error is 40 to 220 times as large.

    Args:
        z_NC: Features.
        codes_KC: Codes.
        squares_K: `code_squares` of the codes, if known.
    """
    # Autocast would compute the product in 16 bits, and lose the precision won without |z|^2.
    with torch.autocast(z_NC.device.type, enabled=False):
        if squares_K is None:
            squares_K = code_squares(codes_KC)
        return 2 * z_NC.float() @ codes_KC.float().T - squares_K


def released_code_logits(z_NC: Tensor, codes_KC: Tensor) -> Tensor:
    """-(|z|^2 + |c|^2 - 2 z.c), rounded as in the release, in the given dtype: [N, K]."""
    square_N1 = z_NC.square().sum(-1, keepdim=True)
    return -(square_N1 + codes_KC.square().sum(-1) - 2 * z_NC @ codes_KC.T)


def soft_embed(
    z_NC: Tensor,
    codes_KC: Tensor,
    table_KD: Tensor,
    *,
    temperature: float = 1.0,
    distance: str = "exact",
    squares_K: Tensor | None = None,
) -> Tensor:
    """softmax(-|z - c|^2 / temperature) @ table: [N, D] in the table's dtype.

    Args:
        z_NC: Features, on any device.
        codes_KC: Codes, `codebook_in.weight`.
        table_KD: Input embeddings of the code tokens, row j for code j; the result is on its
            device.
        temperature: tau, in squared feature units; at small values the nearest code dominates, and
            at 0 it is the only one (`argmin_embed`).
        distance: "exact" or "release" (see `released_code_logits`).
        squares_K: `code_squares` of the codes, if known, for the exact distance.

    Source: 2412.00127, eq. 1.
    """
    if temperature == 0:
        return argmin_embed(z_NC, codes_KC, table_KD)
    z_NC = z_NC.to(codes_KC.device)
    if distance == "exact":
        logits_NK = code_logits(z_NC, codes_KC, squares_K)
    else:
        # |z|^2 of some hundred channels exceeds fp16's range; the release itself draws in bf16.
        codes_KC = codes_KC.float() if codes_KC.dtype == torch.float16 else codes_KC
        logits_NK = released_code_logits(z_NC.to(codes_KC.dtype), codes_KC)
    weights_NK = torch.softmax(logits_NK / temperature, dim=-1)
    # Where a model is spread over devices, the table may lie on another one than the codes.
    return weights_NK.to(table_KD.device, table_KD.dtype) @ table_KD


def nearest_code(z_NC: Tensor, codes_KC: Tensor) -> Tensor:
    """Index of the code nearest to each feature, as in Chameleon's quantiser: int64 [N]."""
    return code_logits(z_NC, codes_KC).argmax(-1)


def argmin_embed(z_NC: Tensor, codes_KC: Tensor, table_KD: Tensor) -> Tensor:
    """The table's row for the nearest code: [N, D].

    This is Chameleon's own embedding, and the paper's first ablation. Gradients reach the rows that
    are looked up; neither codes nor features have any.
    """
    return table_KD[nearest_code(z_NC.to(codes_KC.device), codes_KC).to(table_KD.device)]


class MixtureFigures(NamedTuple):
    """How far soft embeddings are from lookups, as means over features; scalars.

    Attributes:
        mixture_entropy: Entropy of the softmax over codes, in nats: 0 where one code has all the
            weight, ln K where all codes have the same.
        argmin_distance: Distance of the embedding to the nearest code's row of the table, as a
            share of that row's length.
    """

    mixture_entropy: Tensor
    argmin_distance: Tensor


def mixture_figures(
    z_NC: Tensor, codes_KC: Tensor, table_KD: Tensor, *, temperature: float
) -> MixtureFigures:
    """The figures for features; arguments as for `soft_embed`, without rows of no features."""
    logits_NK = code_logits(z_NC, codes_KC)
    nearest_ND = table_KD[logits_NK.argmax(-1).to(table_KD.device)].float()
    if temperature == 0:
        zero = logits_NK.new_zeros(())
        return MixtureFigures(zero, zero)
    logs_NK = torch.log_softmax(logits_NK / temperature, dim=-1)
    weights_NK = logs_NK.exp()
    entropy_N = -(weights_NK * logs_NK).sum(-1)
    soft_ND = weights_NK.to(table_KD.device) @ table_KD.float()
    apart_N = (soft_ND - nearest_ND).norm(dim=-1)
    return MixtureFigures(entropy_N.mean(), (apart_N / nearest_ND.norm(dim=-1)).mean())


class _Known(NamedTuple):
    """The squared norms of codes at one time.

    Attributes:
        squares_K: |c|^2 of each code.
        codes_KC: The codes; held, so that no other tensor can take their place in memory.
        version: Number of writes to the codes before that time.
    """

    squares_K: Tensor
    codes_KC: Tensor
    version: int


class CodeSquares:
    """Computes `code_squares`, and keeps the result for as long as the codes do not change.

    An image grows by one patch at a time. For one patch, computing these anew takes longer than the
    rest of its soft embedding.
    """

    def __init__(self) -> None:
        self._known: _Known | None = None

    def forget(self) -> None:
        """Compute them anew at the next call: fused AdamW moves codes, and FSDP gathers
        them into the same memory, and neither counts as a write.
        """
        self._known = None

    def __call__(self, codes_KC: Tensor) -> Tensor | None:
        """|c|^2 of every code, [K]; None while the codes are trained, which changes them."""
        if torch.is_grad_enabled() or codes_KC.is_inference():
            return None
        known, version = self._known, codes_KC._version
        if (
            known is None
            or known.version != version
            or known.codes_KC.dtype != codes_KC.dtype
            or known.codes_KC.data_ptr() != codes_KC.data_ptr()
        ):
            known = _Known(code_squares(codes_KC), codes_KC.detach(), version)
            self._known = known
        return known.squares_K
