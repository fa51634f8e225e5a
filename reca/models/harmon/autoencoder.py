"""The KL-16 image autoencoder: diffusers' AutoencoderKL. Its published names: `reca.models.autoencoder`."""

from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from reca.models.harmon.config import HarmonConfig, VaeSizes


def build_autoencoder(sizes: VaeSizes, latent_channels: int) -> AutoencoderKL:
    """Autoencoder with attention in the encoder levels that the sizes name and in both middle blocks."""
    attention = [sizes.resolution >> level in sizes.attn_resolutions_encoder for level in range(len(sizes.ch_mult))]
    down = tuple("AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attention)
    # diffusers annotates these tuples as having one element.
    autoencoder = AutoencoderKL(
        down_block_types=down,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * len(down),  # pyright: ignore[reportArgumentType]
        block_out_channels=tuple(sizes.ch * factor for factor in sizes.ch_mult),  # pyright: ignore[reportArgumentType]
        layers_per_block=sizes.num_res_blocks,
        latent_channels=latent_channels,
        sample_size=sizes.resolution,
    )
    if sizes.ch_mult[0] != 1:
        # The published encoder starts with `ch` channels and widens in its first block; diffusers' starts wide.
        wide = sizes.ch * sizes.ch_mult[0]
        autoencoder.encoder.conv_in = nn.Conv2d(3, sizes.ch, 3, padding=1)
        first: Any = ResnetBlock2D  # which takes None for no time embedding, against its annotation
        block = first(in_channels=sizes.ch, out_channels=wide, temb_channels=None, eps=1e-6)
        autoencoder.set_submodule("encoder.down_blocks.0.resnets.0", block)
    return autoencoder


def encode_pixels(autoencoder: AutoencoderKL, pixels: Tensor, config: HarmonConfig) -> Tensor:
    """Latents float32 [B, rows, cols, C] of images float [B, 3, S, S] in [-1, 1]: posterior mean times `vae_scale`. The
    latents of a token of several (`mar.patch_size`) follow each other row by row within each channel.
    """
    mean = image_moments(autoencoder, pixels).chunk(2, dim=1)[0].float()
    return functional.pixel_unshuffle(mean * config.vae_scale, config.mar.patch_size).permute(0, 2, 3, 1).contiguous()


def image_moments(autoencoder: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Posterior mean, then log variance, float [B, 2C, rows, cols], of images float [B, 3, S, S] in [-1, 1]."""
    assert autoencoder.quant_conv is not None
    return autoencoder.quant_conv(autoencoder.encoder(pixels))


def decode_latents(autoencoder: AutoencoderKL, latents: Tensor, config: HarmonConfig) -> Tensor:
    """Images float [B, 3, S, S], about in [-1, 1], of latents float [B, rows, cols, C]."""
    assert autoencoder.post_quant_conv is not None
    scaled = functional.pixel_shuffle((latents / config.vae_scale).permute(0, 3, 1, 2), config.mar.patch_size)
    return autoencoder.decoder(autoencoder.post_quant_conv(scaled))
