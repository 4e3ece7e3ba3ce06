"""How much of a picture the soft embedding lets through, by its temperature.

The backbone sees a feature only through the weights of its mixture of codes. Here the feature is
predicted from those weights by ridge regression, which is about what a layer can do, and predicted
features of held-out pictures are decoded: the PSNR against the decoded true ones says what a
backbone can know of a patch that it reads.

    python benchmarks/soft_embedding.py runs/mini-base
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from orthus_core.checkpoint.model_folder import open_model
from orthus_core.evaluation.reconstruction import psnr
from orthus_core.model.soft_embedding import code_logits
from orthus_core.world.world import World
from orthus_core.world.world_pictures import WorldPictures

TEMPERATURES = (1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0)
FITTED, HELD_OUT, SHARE = 512, 64, 0.05
# Ridge of the regression, as a share of the weights' mean square.
RIDGE = 1e-6


def weights(z_NC: Tensor, codes_KC: Tensor, temperature: float) -> Tensor:
    return torch.softmax(code_logits(z_NC, codes_KC) / temperature, -1)


def with_one(weights_NK: Tensor) -> Tensor:
    return torch.cat([weights_NK, torch.ones(len(weights_NK), 1)], 1).double()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model folder or alias")
    vq = open_model(parser.parse_args().model, device="cpu", dtype="fp32").model.model.vqmodel
    codes_KC = vq.quantize.embedding.weight
    pictures = WorldPictures(World.open(held_out=SHARE), vq.config.resolution)
    seen = pictures.draw(FITTED, torch.Generator().manual_seed(0))
    held = pictures.held_out_M3HW[:: len(pictures.held_out_M3HW) // HELD_OUT]
    fitted_NC = torch.cat([vq.features(part).flatten(0, 1) for part in seen.split(64)])
    features_MPC = vq.features(held)
    decoded = vq.pixels(features_MPC).clamp(-1, 1)
    table = Table("temperature", "entropy, nats", "effective codes", "PSNR of what is read, dB")
    for temperature in TEMPERATURES:
        own_NK = weights(features_MPC.flatten(0, 1), codes_KC, temperature)
        entropy = float(-torch.xlogy(own_NK, own_NK).sum(-1).mean())
        seen_NX = with_one(weights(fitted_NC, codes_KC, temperature))
        square_XX = seen_NX.T @ seen_NX
        ridge = RIDGE * square_XX.diagonal().mean()
        square_XX.diagonal().add_(ridge)
        map_XC = torch.linalg.solve(square_XX, seen_NX.T @ fitted_NC.double())
        read_MPC = (with_one(own_NK) @ map_XC).float().view(features_MPC.shape)
        quality = psnr(vq.pixels(read_MPC).clamp(-1, 1), decoded, data_range=2.0).mean()
        effective = torch.tensor(entropy).exp()
        table.add_row(f"{temperature:g}", f"{entropy:.2f}", f"{effective:.0f}", f"{quality:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
