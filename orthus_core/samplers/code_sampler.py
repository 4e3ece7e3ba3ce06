"""One patch of a discrete Chameleon: a code, chosen among codes alone.

Guidance adds logits up as an Orthus adds predictions up: l = lu + s (lc - lu), or with a picture
l = lu + si (li - lu) + st (lc - li) (facebookresearch/chameleon, `logits_processor.py`). The noise
is Gumbel's, because the largest of logits / temperature + Gumbel noise is a draw from their softmax
(Gumbel 1954; 1411.0030, section 2). So a picture's noise can be drawn from its seed before anything
is known, here as for an Orthus, and a seed is a picture whatever else is in the batch.

Legend: N pictures, R streams of all of them (guidance), C feature channels, K codes, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.text import warpers


def choose_codes(
    logits_NK: Tensor,
    gumbel_NK: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """A code for each row, drawn from softmax(logits / temperature): int64 [N].

    Args:
        logits_NK: Guided already.
        gumbel_NK: The randomness (see `seeded_gumbel`).
        temperature: 0 takes the likeliest code.
        top_k, top_p: As for text; 0 and 1 leave all codes in.
    """
    if temperature == 0:
        return logits_NK.argmax(-1)
    nothing_said = torch.empty(len(logits_NK), 0, dtype=torch.long, device=logits_NK.device)
    kept_NK = warpers(temperature, top_k, top_p)(nothing_said, logits_NK)  # type: ignore[arg-type]
    return (kept_NK + gumbel_NK).argmax(-1)


def seeded_gumbel(seed: int, codes: int) -> Iterator[Tensor]:
    """Gumbel noise of patch after patch, fp32 [K], the same on every device, in every batch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield -torch.empty(codes).exponential_(generator=generator).log()


class CodeSampler:
    """Fills slots with the features of chosen codes (a `PatchSampler`)."""

    def __init__(self, model: DiscreteChameleon, params: SamplingParams) -> None:
        self._model, self._params = model, params

    def noise(self, seed: int) -> Iterator[Tensor]:
        """Gumbel noise: [K] each."""
        return seeded_gumbel(seed, self._model.config.num_codes)

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NK: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
    ) -> Tensor:
        """The features of the next code of each picture, at whatever place: fp32 [N, C]."""
        logits_RK = self._model.image_logits(hidden_RD).float()
        codes_N = choose_codes(
            mix_NR.to(logits_RK) @ logits_RK,
            noise_NK.to(logits_RK),
            temperature=self._params.noise_scale,
            top_k=self._params.code_top_k,
            top_p=self._params.code_top_p,
        )
        codebook_KC = self._model.codebook_KC
        return codebook_KC[codes_N.to(codebook_KC.device)].float()
