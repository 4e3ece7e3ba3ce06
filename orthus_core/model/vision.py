"""The vision autoencoder: from pixels to continuous features and back.

It keeps Chameleon's codebook, which a discrete Chameleon needs.

Legend: M images, P patches an image, C feature channels, K codes, h w the patch grid.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import ChameleonVQVAE

from orthus_core.errors import CheckpointError
from orthus_core.model.config import OrthusVQConfig
from orthus_core.model.decoder import PixelDecoder
from orthus_core.model.soft_embedding import nearest_code


class OrthusVQ(ChameleonVQVAE):
    """Chameleon's autoencoder, without quantisation and with a pixel decoder.

    Attributes:
        decoder: The pixel decoder; None when `config.has_decoder` is False.
    """

    config: OrthusVQConfig
    config_class = OrthusVQConfig

    def __init__(self, config: OrthusVQConfig) -> None:
        super().__init__(config)
        self.decoder = PixelDecoder(config) if config.has_decoder else None
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):  # transformers' blocks have 32 groups
                module.num_groups = config.norm_num_groups
        self.post_init()

    def features(self, pixels_M3HW: Tensor) -> Tensor:
        """quant_conv(encoder(pixels)), patches in reading order: [M, P, C].

        Source: 2412.00127, section 3.1.
        """
        grid_MChw = self.quant_conv(self.encoder(pixels_M3HW))
        return grid_MChw.flatten(2).transpose(1, 2)

    def codes(self, pixels_M3HW: Tensor) -> Tensor:
        """Chameleon's discrete codes, the nearest code for each patch: int64 [M, P]."""
        features_MPC = self.features(pixels_M3HW)
        codes_N = nearest_code(features_MPC.flatten(0, 1), self.quantize.embedding.weight)
        return codes_N.view(features_MPC.shape[:2])

    def pixels(self, features_MPC: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """decoder(post_quant_conv(features)): [M, 3, H, W], nominally in [-1, 1], unclipped.

        Args:
            features_MPC: Continuous features, or rows of the codebook for a discrete Chameleon.
            grid: Number of rows and columns of patches; by default a square.

        Raises: CheckpointError when the model has no pixel decoder.
        """
        if self.decoder is None:
            raise CheckpointError(
                "this model has no pixel decoder, so it can read pictures but draw none",
                where="model.vqmodel.decoder",
                hint="convert again with --vqgan vqgan.ckpt",
            )
        side = round(features_MPC.shape[1] ** 0.5)
        grid_MChw = features_MPC.transpose(1, 2).unflatten(2, grid or (side, side))
        return self.decoder(self.post_quant_conv(grid_MChw))

    def pixels_of_codes(self, codes_MP: Tensor) -> Tensor:
        """Pixels of Chameleon's discrete codes: [M, 3, H, W]."""
        return self.pixels(self.quantize.embedding(codes_MP))
