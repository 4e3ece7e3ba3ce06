"""How a continuous image feature enters the token stream: softly, as a mixture of code embeddings.

Chameleon looks up the one nearest code; Orthus (2412.00127, eq. 1) weighs all codes by a softmax of
their squared distances, which is differentiable in the feature, the codes and the table. At
temperature 0 the two are the same.

Legend: N rows, C feature channels, K codes, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor


def code_squares(codes_KC: Tensor) -> Tensor:
    """|c|^2 of every code, in fp32: [K]."""
    return codes_KC.float().square().sum(-1)


def code_logits(z_NC: Tensor, codes_KC: Tensor, squares_K: Tensor | None = None) -> Tensor:
    """-|z - c|^2 up to a constant of the row, in fp32: [N, K].

    Args:
        squares_K: `code_squares`, where they are known.

    |z|^2 is the same for every code, so it leaves softmax and argmax alone, yet in fp32 its size
    drowns the differences between codes (40-220 times the rounding error): it is left out.
    """
    # Autocast would take the product to 16 bits and lose what leaving |z|^2 out has won.
    with torch.autocast(z_NC.device.type, enabled=False):
        if squares_K is None:
            squares_K = code_squares(codes_KC)
        return 2 * z_NC.float() @ codes_KC.float().T - squares_K


def released_code_logits(z_NC: Tensor, codes_KC: Tensor) -> Tensor:
    """-(|z|^2 + |c|^2 - 2 z.c) rounded as the release rounds it, in the dtype given: [N, K]."""
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
    """Mixture of table rows weighted by softmax(-|z - c|^2 / temperature): [N, D] in the table's
    dtype.

    Args:
        z_NC: Features.
        codes_KC: `codebook_in.weight`.
        table_KD: Input embeddings of the code tokens, row j for code j.
        temperature: tau, in squared feature units; small is close to the nearest code.
        distance: "exact" or "release" (see `released_code_logits`).
        squares_K: `code_squares`, where they are known; the exact distance uses them.

    Source: 2412.00127, eq. 1.
    """
    if distance == "exact":
        logits_NK = code_logits(z_NC, codes_KC, squares_K)
    else:
        logits_NK = released_code_logits(z_NC.to(codes_KC.dtype), codes_KC)
    weights_NK = torch.softmax(logits_NK / temperature, dim=-1)
    return weights_NK.to(table_KD.dtype) @ table_KD


def nearest_code(z_NC: Tensor, codes_KC: Tensor) -> Tensor:
    """Index of the code nearest to each feature, as Chameleon's quantiser picks it: int64 [N]."""
    return code_logits(z_NC, codes_KC).argmax(-1)


def argmin_embed(z_NC: Tensor, codes_KC: Tensor, table_KD: Tensor) -> Tensor:
    """Row of the nearest code: [N, D]. Chameleon's own embedding, the paper's first ablation."""
    return table_KD[nearest_code(z_NC, codes_KC)]
