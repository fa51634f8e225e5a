"""FLUX's autoencoder: diffusers' AutoencoderKL, with latents scaled as BAGEL wants them."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D
from torch import Tensor, nn

from reca.models.bagel.config import VaeSizes


class Vae(nn.Module):
    """Frozen autoencoder between images in [-1, 1] and scaled latents.

    Args:
        sizes: sizes, scale and shift.
    """

    def __init__(self, sizes: VaeSizes) -> None:
        super().__init__()
        levels = len(sizes.multipliers)
        self.sizes = sizes
        settings: dict[str, Any] = {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": tuple(sizes.channels * multiplier for multiplier in sizes.multipliers),
            "layers_per_block": sizes.blocks,
            "latent_channels": sizes.latent_channels,
            "norm_num_groups": sizes.norm_groups,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        }
        self.autoencoder = AutoencoderKL(**settings)
        if sizes.multipliers[0] != 1:
            self._start_at_base_width()
        self.requires_grad_(False)

    def _start_at_base_width(self) -> None:
        """The published encoder begins with `channels`; diffusers' begins with the width of its first level."""
        sizes, encoder = self.sizes, self.autoencoder.encoder
        encoder.conv_in = nn.Conv2d(3, sizes.channels, 3, padding=1)
        encoder.down_blocks[0] = DownEncoderBlock2D(
            in_channels=sizes.channels,
            out_channels=sizes.channels * sizes.multipliers[0],
            num_layers=sizes.blocks,
            resnet_groups=sizes.norm_groups,
            add_downsample=len(sizes.multipliers) > 1,
            downsample_padding=0,
        )

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the scaled latents.

        Args:
            images: float32 [B, 3, H, W] in [-1, 1]; H and W multiples of `sizes.factor`.

        Returns:
            Two float32 [B, C, H / factor, W / factor].
        """
        mean, log_variance = self.autoencoder.encoder(images).chunk(2, dim=1)
        return self.sizes.scale * (mean - self.sizes.shift), self.sizes.scale * torch.exp(0.5 * log_variance)

    def decode(self, latents: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W], about [-1, 1], of scaled latents float32 [B, C, h, w]."""
        return self.autoencoder.decoder(latents / self.sizes.scale + self.sizes.shift)
