"""The released implementation's algorithm, written down straightforwardly, to measure against.

It draws one picture at a time, as a batch of two: with the prompt, and without. What makes it slow
is kept as it is there: the LM head runs on every position it reads, all features of the picture so
far are embedded anew at each patch, and each denoising step computes time embeddings and AdaLN
modulations again. What only its code is slow at is left out, in its favour: suppress lists made of
Python integers, weights cast at every step under autocast, a scheduler object.

Legend: B = 2, S sequence, D hidden, C feature channels, P patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from orthus_core.bench.clock import Clock
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.solvers import DDIMPlan, ddim_plan


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
    """One guided picture.

    Args:
        prompt: Guided against one context.
        noise: Of patch after patch, [C] each.
        patches: How many to draw; by default all. The others are zero.
        already: How many more features there would be to embed anew at each patch.

    Returns: Features [1, P, C] and pixels [1, 3, H, W].
    """
    config, plan = model.config, ddim_plan(model.schedule, steps)
    ids_BS, mask_BS = _padded([c.ids for c in prompt.contexts], config.pad_token_id or 0)
    ids_BS, mask_BS = ids_BS.to(model.device), mask_BS.to(model.device)
    boi_B1 = ids_BS.new_full((2, 1), _known(config.boi_token_id))
    image_B1 = ids_BS.new_full((2, 1), _known(config.image_token_id))
    # 1. Both prompts and [BOI]; logits of every position.
    with clock("prefill"):
        ids_BS = torch.cat([ids_BS, boi_B1], dim=1)
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(2, 1)], dim=1)
        output = model(ids_BS, attention_mask=mask_BS, use_cache=True)
        hidden_BD, cache = output.hidden_BSD[:, -1], output.past_key_values
        model.lm_head(output.hidden_BSD)
    made: list[Tensor] = []
    filler_NC = hidden_BD.new_zeros(already, config.feature_channels)
    for _ in range(patches or config.patches):
        # 2. A patch.
        with clock("head"):
            start_1C = next(noise).unsqueeze(0).to(model.device)
            made.append(denoise(model.mlp_head, plan, hidden_BD, start_1C, prompt.guidance.weights))
            made[-1] /= config.latent_scale
        # 3. All features so far, embedded anew for both rows; the newest is the next token.
        with clock("embed"):
            so_far_NC = torch.cat([filler_NC, *made])
            embeds_ND = model.embed_features(torch.cat([so_far_NC, so_far_NC]))
            newest_B1D = embeds_ND.unflatten(0, (2, -1))[:, -1:]
        # 4. The backbone reads it, and the LM head says which word would follow.
        with clock("backbone"):
            ids_BS = torch.cat([ids_BS, image_B1], dim=1)
            mask_BS = torch.cat([mask_BS, mask_BS.new_ones(2, 1)], dim=1)
            output = model(
                inputs_embeds=newest_B1D.to(hidden_BD.dtype),
                attention_mask=mask_BS,
                past_key_values=cache,
                use_cache=True,
            )
            hidden_BD = output.hidden_BSD[:, -1]
        with clock("lm head"):
            model.text_logits(hidden_BD)
    # 5. Pixels.
    with clock("decode"):
        features_1PC = torch.cat(made).unsqueeze(0)
        missing = config.patches - len(made)
        features_1PC = torch.nn.functional.pad(features_1PC, (0, 0, 0, missing))
        return features_1PC, model.decode_images(features_1PC).float()


@torch.no_grad()
def denoise(
    head: DiffusionHead,
    plan: DDIMPlan,
    hidden_RD: Tensor,
    noise_1C: Tensor,
    weights: Sequence[float],
) -> Tensor:
    """A patch with guidance: the whole head at every step. [1, C]"""
    weights_1R = torch.tensor([weights], device=hidden_RD.device)
    x_1C = noise_1C.float()
    for timestep, keep, push in zip(plan.timesteps_T, plan.keep, plan.push, strict=True):
        x_RC = x_1C.expand(len(hidden_RD), -1).to(hidden_RD.dtype)
        t_R = timestep.to(hidden_RD.device).expand(len(hidden_RD))
        prediction_RC = head(x_RC, t_R, hidden_RD).float()
        x_1C = keep * x_1C + push * (weights_1R @ prediction_RC)
    return x_1C


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the left: [B, S] each."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def _known(token: int | None) -> int:
    assert token is not None, "shapes that are measured have all tokens"
    return token
