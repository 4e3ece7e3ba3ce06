"""The release's side of the race: `samplers/reference.py` with a clock around its parts, and with
what the release computes besides.

One image at a time, as a batch of two. The release runs its LM head on every position it reads and
embeds all features of the image anew at each patch (`ReleasedModel`), and each denoising step
computes time embeddings and AdaLN modulations again, as the reference does. What only the release's
code is slow at is left out, in its favour: suppress lists made of Python integers, weights cast at
every step under autocast, a scheduler object.

Legend: B = 2, D hidden, C feature channels, N features so far, P patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from orthus_core.bench.clock import Clock
from orthus_core.model.interleaved import OrthusOutput
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.reference import ddim_steps, denoise_patch, image_features


class ReleasedModel:
    """A model that does the release's extra work and times each part, otherwise unchanged.

    Args:
        model: The model that does the work.
        clock: Measures "prefill", "backbone", "lm head" and "embed".
        already: Number of further features to embed anew at each patch.
    """

    def __init__(self, model: OrthusForConditionalGeneration, clock: Clock, already: int) -> None:
        self._model, self._clock = model, clock
        channels = model.config.feature_channels
        self._features_NC = torch.zeros(already, channels, device=model.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *inputs: Any, **options: Any) -> OrthusOutput:
        reads_prompts = options.get("past_key_values") is None
        with self._clock("prefill" if reads_prompts else "backbone"):
            output = self._model(*inputs, **options)
        # The logits of every position that was read, though a patch follows and not a word.
        with self._clock("prefill" if reads_prompts else "lm head"):
            if reads_prompts:
                self._model.lm_head(output.hidden_BSD)
            else:
                self._model.text_logits(output.hidden_BSD[:, -1])
        return output

    def embed_features(self, newest_1C: Tensor) -> Tensor:
        """The newest feature embedded, [1, D], with all before it, for both sequences."""
        with self._clock("embed"):
            self._features_NC = torch.cat([self._features_NC, newest_1C])
            embeds_ND = self._model.embed_features(self._features_NC.repeat(2, 1))
            return embeds_ND[-1:]


@torch.no_grad()
def draw(
    model: OrthusForConditionalGeneration,
    prompt: Prompt,
    noise: Iterator[Tensor],
    steps: int,
    clock: Clock,
    *,
    patches: int | None = None,
    already: int = 0,
) -> tuple[Tensor, Tensor]:
    """One guided image.

    Args:
        model: The model that draws.
        prompt: The prompt, with one context for guidance.
        noise: Noise of one patch after another, [C] each.
        steps: Denoising steps of a patch.
        clock: Measures the parts.
        patches: Number of patches to draw, by default all. The others are zero.
        already: Number of further features to embed anew at each patch.

    Returns:
        Features [1, P, C] and pixels [1, 3, H, W].
    """
    config, plan = model.config, ddim_steps(model.schedule, steps)
    guidance, _ = prompt.guidance.weights
    assert config.boi_token_id is not None, "shapes that are measured have all tokens"

    def denoise(hidden_BD: Tensor, noise_1C: Tensor) -> Tensor:
        with clock("head"):
            return denoise_patch(model.diffusion_head, plan, hidden_BD, noise_1C, guidance)

    made = image_features(
        cast(OrthusForConditionalGeneration, ReleasedModel(model, clock, already)),
        [[*context.ids, config.boi_token_id] for context in prompt.contexts],
        (noise_C.unsqueeze(0) for noise_C in islice(noise, patches or config.patches)),
        denoise,
    )
    features_1PC = torch.stack(list(made), dim=1)
    with clock("decode"):
        missing = config.patches - features_1PC.shape[1]
        features_1PC = torch.nn.functional.pad(features_1PC, (0, 0, 0, missing))
        return features_1PC, model.decode_images(features_1PC).float()
