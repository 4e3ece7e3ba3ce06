"""Adapters of a model without a training: random ones, large enough to be seen in a picture."""

from __future__ import annotations

from pathlib import Path

import torch

from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.model_folder import open_orthus
from orthus_core.recipe.training import LoraRecipe
from orthus_core.train.lora import add_lora, save_adapters


def random_adapters(base: Path, folder: Path, seed: int = 0, **recipe) -> Path:
    """Adapters of the model in `base`, saved to `folder`."""
    model = open_orthus(base, device="cpu", dtype="fp32").model
    torch.manual_seed(seed)
    for parameter in add_lora(model, LoraRecipe(**{"rank": 2, **recipe})):
        with torch.no_grad():
            parameter += 0.1 * torch.randn_like(parameter)
    return save_adapters(
        model, folder, base=fingerprint(base), base_name=base.name, sampling={"steps": 3}
    )
