"""The next patch of a discrete Chameleon: one code, chosen among image codes only.

Guidance is a weighted sum of logits, as it is of predictions in an Orthus: l = lu + s (lc - lu), or
with an image l = lu + si (li - lu) + st (lc - li) (facebookresearch/chameleon,
`logits_processor.py`). The noise has a Gumbel distribution, because the argmax of
logits / temperature + Gumbel noise is a sample from their softmax (Gumbel 1954; 1411.0030, section
2). So the noise of an image can be drawn from its seed alone, as for an Orthus, and the image does
not depend on its batch.

Legend: N images, R guidance branches of all of them, C feature channels, K codes, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.seeds import image_stream
from orthus_core.samplers.text import warpers


def choose_codes(
    logits_NK: Tensor,
    gumbel_NK: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """A code for each row, sampled from softmax(logits / temperature): int64 [N].

    Args:
        logits_NK: Logits after guidance.
        gumbel_NK: Gumbel noise (see `seeded_gumbel`).
        temperature: Temperature; 0 chooses the most likely code.
        top_k, top_p: Limits as for text; 0 and 1 allow all codes.
    """
    if temperature == 0:
        return logits_NK.argmax(-1)
    nothing_said = torch.empty(len(logits_NK), 0, dtype=torch.long, device=logits_NK.device)
    kept_NK = warpers(temperature, top_k, top_p)(nothing_said, logits_NK)  # type: ignore[arg-type]
    return (kept_NK + gumbel_NK).argmax(-1)


def seeded_gumbel(seed: int, codes: int) -> Iterator[Tensor]:
    """Gumbel noise of one patch after another, fp32 [K]; it depends on the seed alone."""
    generator = torch.Generator().manual_seed(image_stream(seed))
    while True:
        yield -torch.empty(codes).exponential_(generator=generator).log()


class CodeSampler:
    """A `PatchSampler` that chooses a code and returns its feature.

    Args:
        model: Model that predicts the codes.
        settings: Temperature (`noise_scale`), `code_top_k` and `code_top_p`.
    """

    def __init__(self, model: DiscreteChameleon, params: SamplingParams) -> None:
        self._model, self._params = model, params

    def noise(self, seed: int) -> Iterator[Tensor]:
        """Gumbel noise of one patch after another: [K] each."""
        return seeded_gumbel(seed, self._model.config.num_codes)

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NK: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
    ) -> Tensor:
        """The feature of the next code of each image: fp32 [N, C]. `drawn_N` has no effect."""
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
