"""Which head a model draws patches with: the diffusion head of an Orthus, or one that regresses
features, which it is compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from orthus_core.errors import CheckpointError
from orthus_core.model.config import OrthusConfig
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.schedule import make_schedule

if TYPE_CHECKING:
    from orthus_core.model.regression_head import RegressionHead


NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "zero_terminal_snr")


def image_head(config: OrthusConfig) -> DiffusionHead | RegressionHead:
    """The head of the config's kind, with new weights."""
    sizes = config.feature_channels, config.hidden_size, config.head_width, config.head_depth
    if config.denoises and config.flow_map_head:
        from orthus_core.model.flow_map_head import FlowMapHead, angles

        noise = {name: getattr(config, name) for name in NOISE}
        with torch.device("cpu"):  # a model that is built without memory has these numbers, too
            of_timesteps = angles(make_schedule(**noise))
        return FlowMapHead(*sizes, of_timesteps)
    if config.denoises:
        return DiffusionHead(*sizes)
    # Imported here, because other models need none of it.
    from orthus_core.model.regression_head import RegressionHead

    return RegressionHead(*sizes)


class ImageHeadOfKind:
    """A model's `mlp_head`, by its kind."""

    mlp_head: nn.Module

    @property
    def diffusion_head(self) -> DiffusionHead:
        """The head that denoises. Raises: CheckpointError for a model that regresses features."""
        head = self._used_head
        if isinstance(head, DiffusionHead):
            return head
        raise CheckpointError(
            "the head of this model regresses features, and denoises none",
            where='config.json: image_head = "mse"',
            hint="take a model with a diffusion head",
        )

    @property
    def regression_head(self) -> RegressionHead:
        """The head that regresses features, of a model whose `image_head` is "mse"."""
        from orthus_core.model.regression_head import RegressionHead

        head = self._used_head
        assert isinstance(head, RegressionHead), "the caller read the configuration"
        return head

    @property
    def _used_head(self) -> nn.Module:
        """The head, or its copy that peft trains (`modules_to_save`)."""
        wrapper: Any = self.mlp_head
        if not hasattr(wrapper, "modules_to_save"):
            return self.mlp_head
        if wrapper.disable_adapters:
            return wrapper.original_module
        return wrapper.modules_to_save[wrapper.active_adapters[0]]
