"""The losses of a flow map head, whose teacher is a diffusion head.

With v-prediction, an angle phi with cos(phi) = sqrt(a) and the field w of the teacher, the paths of
denoising are dx / dphi = w(x, phi). The student F steps from angle s to angle e at once:

    X(x; s, e) = cos(e - s) x + sin(e - s) F(x, s, e)

    diagonal   F(x, s, s) = w(x, s)              a short step goes where the teacher goes
    jump       dX / de = w(X(x; s, e), e)        wherever a step ends, it goes on like a path

Both are squared errors. The right side of the second is held fixed; its left side is one forward
derivative by e alone. No path is followed and no solver is in it. Source: 2505.18825 (the
Lagrangian form), with a teacher in the place of the student's own diagonal.

Guidance stays outside of the head. Each branch learns the diagonal by itself, so that solvers which
ask for velocities draw as with the teacher, under any guidance. The jumps are learnt for the
weighted sum over the branches, as it is drawn with: a sum of unguided jumps is no guided one.

Legend: N contexts, Q draws of all of them, J of these that jump, R branches of a context, X
    branches of all draws, C feature channels, D hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from orthus_core.losses.diffusion import timesteps_at
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.flow_map_head import FlowMapHead
from orthus_core.model.schedule import Schedule, add_noise


class Angles(NamedTuple):
    """How the angles of steps are drawn.

    Attributes:
        mean, spread: A step starts at pi / 2 sigmoid(n), with n normal of this mean and standard
            deviation.
        noise_share: Share of the steps that start from noise alone, at the schedule's last time.
        jumps: Share of the steps that end elsewhere than they start: at a uniform share of the way
            to the clean feature.
    """

    mean: float
    spread: float
    noise_share: float
    jumps: float


@dataclass(frozen=True)
class Steps:
    """Steps to learn: a batch, whose jumps come last.

    Attributes:
        hidden_QRD: Hidden states of the branches of each step's context.
        weights_QR: Their weights in guidance; 0 for a branch that a context lacks.
        noisy_QC: Noisy features where the steps start.
        starts_Q: Timesteps where they start.
        ends_J: Timesteps where the last J of them end; -1 is the clean feature.
    """

    hidden_QRD: Tensor
    weights_QR: Tensor
    noisy_QC: Tensor
    starts_Q: Tensor
    ends_J: Tensor

    def __len__(self) -> int:
        return len(self.starts_Q)

    def to(self, device: torch.device | str) -> Steps:
        """The same steps with every tensor on a device."""
        return Steps(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def draw_steps(
    hidden_NRD: Tensor,
    weights_NR: Tensor,
    clean_NC: Tensor,
    schedule: Schedule,
    draws: int,
    random: torch.Generator,
    how: Angles,
) -> Steps:
    """Steps of some contexts, `draws` of each.

    Args:
        hidden_NRD, weights_NR: The contexts, as `Steps` has them.
        clean_NC: Their features, already multiplied by the config's latent_scale.
        random: What everything is drawn from, on the CPU.
        how: How angles are drawn.
    """
    count = draws * len(clean_NC)
    place_Q = (how.mean + how.spread * torch.randn(count, generator=random)).sigmoid()
    starts_Q = timesteps_at(schedule, place_Q * (math.pi / 2))
    last = schedule.num_timesteps - 1
    starts_Q[torch.rand(count, generator=random) < how.noise_share] = last
    # The draw is the slowest axis, so the jumps, which come last, are spread over the contexts.
    jumps = round(how.jumps * count)
    angles_T = schedule.alphas_cumprod_T.clamp(0, 1).sqrt().acos()
    ends_J = angles_T[starts_Q[count - jumps :]] * torch.rand(jumps, generator=random)
    ends_J = torch.where(ends_J < angles_T[0] / 2, -1, timesteps_at(schedule, ends_J))
    clean_QC = clean_NC.float().repeat(draws, 1)
    noise_QC = torch.randn(clean_QC.shape, generator=random)
    return Steps(
        hidden_NRD.repeat(draws, 1, 1),
        weights_NR.repeat(draws, 1),
        add_noise(schedule, clean_QC, noise_QC, starts_Q),
        starts_Q,
        ends_J,
    )


class FlowMapLosses(NamedTuple):
    """The sum that is minimised, and its two terms as they are; scalars. A term is the mean squared
    error of a channel; None without steps of its kind.
    """

    total: Tensor
    diagonal: Tensor | None
    jump: Tensor | None


class FlowMapLoss(nn.Module):
    """Both terms over a batch of steps, each weighted by its share of the steps.

    Args:
        student: Flow map head that is trained.
        teacher: Head whose field it learns; its weights stay.
        schedule: The teacher's noise schedule, with v-prediction.
    """

    def __init__(self, student: FlowMapHead, teacher: DiffusionHead, schedule: Schedule) -> None:
        super().__init__()
        assert schedule.prediction == "v", "checked before it begins"
        self.student = student
        self.teacher = teacher.requires_grad_(False)
        self.schedule = schedule

    def forward(self, steps: Steps) -> FlowMapLosses:
        """The losses of some steps."""
        count, jumps = len(steps), len(steps.ends_J)
        still = count - jumps
        diagonal = jump = None
        total = steps.noisy_QC.new_zeros(())
        if still:
            diagonal = self.diagonal(_Rows.of(steps, slice(still)))
            total = total + diagonal * still / count
        if jumps:
            jump = self.jump(_Rows.of(steps, slice(still, count)), steps.ends_J)
            total = total + jump * jumps / count
        return FlowMapLosses(total, diagonal, jump)

    def diagonal(self, rows: _Rows) -> Tensor:
        """Mean of |F(x, s, s) - w(x, s)|^2 over the branches of the contexts."""
        with torch.no_grad():
            wanted_XC = rows.predictions(self.teacher, rows.noisy_QC, rows.starts_Q)
        found_XC = rows.predictions(self.student, rows.noisy_QC, rows.starts_Q)
        return (found_XC - wanted_XC).square().mean()

    def jump(self, rows: _Rows, ends_Q: Tensor) -> Tensor:
        """Mean of |dX / de - w(X, e)|^2, where w is held fixed."""
        start_Q = self.student.angles_at(rows.starts_Q)
        end_Q = torch.where(ends_Q < 0, 0.0, self.student.angles_at(ends_Q))

        def landing(end_Q: Tensor) -> Tensor:
            found_XC = rows.predictions(self.student, rows.noisy_QC, rows.starts_Q, end_Q)
            way_Q1 = (end_Q - start_Q).unsqueeze(-1)
            return way_Q1.cos() * rows.noisy_QC + way_Q1.sin() * rows.mixed(found_XC)

        landed_QC, speed_QC, *_ = torch.func.jvp(landing, (end_Q,), (torch.ones_like(end_Q),))
        with torch.no_grad():
            # Beyond the first timestep the teacher goes on as there: so ends DDIM, too.
            there_Q = ends_Q.clamp(min=0)
            field_QC = rows.mixed(rows.predictions(self.teacher, landed_QC.detach(), there_Q))
        return (speed_QC - field_QC).square().mean()


class _Rows(NamedTuple):
    """Some steps, with a row for each branch of their contexts.

    Attributes:
        hidden_XD: Hidden states of the branches.
        weights_X: Their weights in guidance.
        owner_X: Number of the step that each belongs to.
        noisy_QC, starts_Q: As `Steps` has them.
    """

    hidden_XD: Tensor
    weights_X: Tensor
    owner_X: Tensor
    noisy_QC: Tensor
    starts_Q: Tensor

    @classmethod
    def of(cls, steps: Steps, part: slice) -> _Rows:
        hidden_QRD, weights_QR = steps.hidden_QRD[part], steps.weights_QR[part]
        owner_X, branch_X = weights_QR.nonzero(as_tuple=True)
        return cls(
            hidden_QRD[owner_X, branch_X],
            weights_QR[owner_X, branch_X],
            owner_X,
            steps.noisy_QC[part],
            steps.starts_Q[part],
        )

    def predictions(
        self, head: nn.Module, noisy_QC: Tensor, starts_Q: Tensor, ends_Q: Tensor | None = None
    ) -> Tensor:
        """A head's predictions for the branches: fp32 [X, C]."""
        ends = () if ends_Q is None else (ends_Q[self.owner_X],)
        noisy_XC, starts_X = noisy_QC[self.owner_X], starts_Q[self.owner_X]
        return head(noisy_XC.to(self.hidden_XD.dtype), starts_X, self.hidden_XD, *ends).float()

    def mixed(self, found_XC: Tensor) -> Tensor:
        """The weighted sums over the branches, as guidance takes them: [Q, C]."""
        weighted_XC = self.weights_X.unsqueeze(-1) * found_XC
        return torch.zeros_like(self.noisy_QC).index_add(0, self.owner_X, weighted_XC)
