"""One patch from noise to feature for those who would rather stop early (`--step-tolerance`).

The loop is that of `denoise`, and a patch stops when its clean feature has settled. Patches settle
within a few steps of each other, so none leaves the batch early: to take rows out at every step
cost more than the steps that were saved. The loop ends when the last patch has settled.

Legend: N pictures, R streams of all of them (guidance), C feature channels, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orthus_core.samplers.patch import PatchPlan
from orthus_core.samplers.solvers import LinearSolver


def denoise_until_settled(
    plan: PatchPlan, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor, *, tolerance: float
) -> tuple[Tensor, Tensor]:
    """`denoise`, but each patch stops when its clean feature has settled.

    That is when the estimate, if it went on changing at its present pace to the end, would change
    by no more than `tolerance` of its size. Each patch is judged by itself, so which others are in
    the batch changes nothing.

    Returns: Features, fp32 [N, C], and the steps that each took, int64 [N].
    """
    solver = plan.solver
    assert isinstance(solver, LinearSolver), "only these say what a step implies (see Denoising)"
    features_NC, clean_before_NC = noise_NC, None
    going_N = torch.ones(len(noise_NC), dtype=torch.bool, device=noise_NC.device)
    steps_N = torch.zeros_like(going_N, dtype=torch.long)
    condition_RW = plan.head.condition(hidden_RD)
    owner_R = mix_NR.abs().argmax(dim=0)
    known = solver.start(noise_NC)
    for stretch, times_TW in plan.stretches(len(hidden_RD)):
        # Of all steps at once, though some may not be taken: one product is cheaper than several.
        amounts_TRA = plan.head.modulation(times_TW, condition_RW)
        for step, amounts in zip(stretch, plan.head.by_step(amounts_TRA), strict=True):
            seen_NC = solver.seen(step, known)
            prediction_NC = mix_NR @ plan.head.step(seen_NC, amounts, owner_R)
            clean_NC = solver.clean_estimate(step, known, prediction_NC)
            known = solver.advance(step, known, prediction_NC)
            steps_N += going_N
            if clean_before_NC is not None:
                change_N = (clean_NC - clean_before_NC).norm(dim=-1) * solver.ahead[step]
                settled_N = going_N & (change_N <= tolerance * clean_NC.norm(dim=-1))
                features_NC = torch.where(settled_N.unsqueeze(-1), clean_NC, features_NC)
                going_N = going_N & ~settled_N
                if not going_N.any():
                    return features_NC / plan.latent_scale, steps_N
            clean_before_NC = clean_NC
    features_NC = torch.where(going_N.unsqueeze(-1), known[0], features_NC)
    return features_NC / plan.latent_scale, steps_N
