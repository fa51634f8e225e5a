"""MAGVITv2, Show-o's image tokenizer: a convolutional autoencoder with a look-up-free (sign) quantiser.

Formulas and parameter names follow the published `models/modeling_magvitv2.py` of Show-o, so its weights load by name.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reca.models.finite import TOKENIZED, Watch
from reca.models.showo.config import MagvitConfig

WEIGHT = 0.1
"""Published weight of both quantiser losses."""

BETA = 0.25
"""Published weight of the second term of the commitment loss."""


class MagvitLosses(NamedTuple):
    """Quantiser losses, scalars, already multiplied by their published weights (0.1 each).

    Attributes:
        commit: scalar of the latents' type.
        entropy: scalar float32.
    """

    commit: Tensor
    entropy: Tensor


class MagvitOutput(NamedTuple):
    """What a training step of the tokenizer needs.

    Attributes:
        reconstruction: float [B, 3, S, S], about [-1, 1], not clamped.
        z_q: float [B, code_bits, S/factor, S/factor], -1 or +1, with straight-through gradient to the encoder.
        codes: int64 [B, N], row-major, in [0, codebook_size).
        losses: quantiser losses.
    """

    reconstruction: Tensor
    z_q: Tensor
    codes: Tensor
    losses: MagvitLosses


class Magvit(nn.Module):
    """Encoder, quantiser and decoder with the published parameter names."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = SignQuantizer(config.code_bits)

    def forward(self, pixels: Tensor) -> MagvitOutput:
        """Encode, quantise and decode `pixels`, float [B, 3, S, S] in [-1, 1], with gradients throughout."""
        z = self.encoder(pixels)
        z_q = self.quantize(z)
        return MagvitOutput(self.decoder(z_q), z_q, self.quantize.codes(z), quantizer_losses(z))

    def encode(self, pixels: Tensor, watch: Watch | None = None) -> Tensor:
        """Codes int64 [B, N] (row-major) of `pixels`, float [B, 3, S, S] in [-1, 1]; S is a multiple of the factor.

        A NaN latent is a bit like any other (0): who cannot be sure of the pixels or the weights gives a `watch`.
        """
        z = self.encoder(pixels)
        return self.quantize.codes(z if watch is None else watch.see(TOKENIZED, z))

    def decode(self, codes: Tensor) -> Tensor:
        """Pixels float [B, 3, S, S] in about [-1, 1], not clamped, of square row-major `codes`, int64 [B, N]."""
        return self.decoder(self.quantize.latents(codes))


class SignQuantizer(nn.Module):
    """Look-up-free quantiser: each latent channel is one bit, the first channel the most significant.

    `embedding` and `power_vals` are buffers only because the published checkpoint stores them.
    """

    embedding: Tensor
    power_vals: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        powers = 2 ** torch.arange(bits - 1, -1, -1)
        signs = (torch.arange(2**bits)[:, None] & powers).ne(0).float() * 2 - 1
        self.register_buffer("embedding", signs)
        self.register_buffer("power_vals", powers)

    def forward(self, z: Tensor) -> Tensor:
        """Signs -1 or +1 of latents float [B, bits, H, W] (zero counts as negative) in their shape and type, with
        straight-through gradient.
        """
        return z + (torch.where(z > 0, 1.0, -1.0).to(z.dtype) - z).detach()

    def codes(self, z: Tensor) -> Tensor:
        """Codes int64 [B, H*W] of latents float [B, bits, H, W]."""
        bits = (z > 0).long() * self.power_vals.view(1, -1, 1, 1)
        return bits.sum(dim=1).flatten(1)

    def latents(self, codes: Tensor) -> Tensor:
        """Latents float [B, bits, H, H] (+1/-1) of codes int64 [B, H*H].

        Raises:
            ValueError: when the codes do not fill a square.
        """
        side = round(codes.shape[1] ** 0.5)
        if side * side != codes.shape[1]:
            raise ValueError(f"{codes.shape[1]} codes per image do not fill a square grid")
        return self.embedding[codes].view(codes.shape[0], side, side, -1).permute(0, 3, 1, 2).contiguous()


def quantizer_losses(z: Tensor) -> MagvitLosses:
    """Commitment and entropy loss of latents `z`, float [B, bits, H, W].

    Commitment: WEIGHT * (mse(sign, z) + BETA * mse(straight-through sign, z)). As published, the second term carries
    gradient through the straight-through path, so it pulls against the first: the net pull is (1 - beta) of one.
    Entropy: WEIGHT * (mean entropy of each bit - entropy of each channel's mean bit), with P(bit = 1) = sigmoid(4 z),
    the softmax over the squared distances to +1 and -1.
    """
    signs = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
    straight_through = z + (signs - z).detach()
    commit = (signs - z).pow(2).mean() + BETA * (straight_through - z.detach()).pow(2).mean()
    logits = 4 * z.float()
    each = _bit_entropy(logits.sigmoid(), logits).mean()
    mean = logits.sigmoid().mean(dim=(0, 2, 3))
    return MagvitLosses(WEIGHT * commit, WEIGHT * (each - _bit_entropy(mean, torch.logit(mean, eps=1e-7)).mean()))


def _bit_entropy(probability: Tensor, logit: Tensor) -> Tensor:
    return -(probability * functional.logsigmoid(logit) + (1 - probability) * functional.logsigmoid(-logit))


class _Encoder(nn.Module):
    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        sizes = [config.channels * multiplier for multiplier in (1, *config.encoder_multipliers)]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        last = len(config.encoder_blocks) - 1
        for level, blocks in enumerate(config.encoder_blocks):
            resample = _Downsample(sizes[level + 1]) if level < last else None
            self.down.append(_Level(config, sizes[level], sizes[level + 1], blocks, "downsample", resample))
        self.mid = _Middle(config, sizes[-1])
        self.norm_out = _norm(config, sizes[-1])
        self.conv_out = nn.Conv2d(sizes[-1], config.code_bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.code_bits, config.code_bits, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        h = self.conv_in(pixels)
        for level in self.down:
            h = level(h)
        h = functional.silu(self.norm_out(self.mid(h)))
        return self.quant_conv(self.conv_out(h))


class _Decoder(nn.Module):
    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        sizes = [config.channels * multiplier for multiplier in config.decoder_multipliers]
        self.post_quant_conv = nn.Conv2d(config.code_bits, config.code_bits, 1)
        self.conv_in = nn.Conv2d(config.code_bits, sizes[-1], 3, padding=1)
        self.mid = _Middle(config, sizes[-1])
        inputs = [*sizes[1:], sizes[-1]]
        self.up = nn.ModuleList()
        for level, blocks in enumerate(config.decoder_blocks):
            resample = _Upsample(sizes[level]) if level > 0 else None
            self.up.append(_Level(config, inputs[level], sizes[level], blocks, "upsample", resample))
        self.norm_out = _norm(config, sizes[0])
        self.conv_out = nn.Conv2d(sizes[0], 3, 3, padding=1)

    def forward(self, z_q: Tensor) -> Tensor:
        h = self.mid(self.conv_in(self.post_quant_conv(z_q)))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(functional.silu(self.norm_out(h)))


class _Level(nn.Module):
    """Residual blocks, then (except at one end) a change of resolution stored under its published name."""

    def __init__(
        self, config: MagvitConfig, inputs: int, outputs: int, blocks: int, name: str, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Residual(config, inputs if i == 0 else outputs, outputs) for i in range(blocks))
        if resample is not None:
            self.add_module(name, resample)

    def forward(self, h: Tensor) -> Tensor:
        for block in self.block:
            h = block(h)
        for name, resample in self.named_children():
            if name != "block":
                h = resample(h)
        return h


class _Middle(nn.Module):
    def __init__(self, config: MagvitConfig, channels: int) -> None:
        super().__init__()
        self.block_1 = _Residual(config, channels, channels)
        self.attn_1 = _Attention(config, channels)
        self.block_2 = _Residual(config, channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h)))


class _Residual(nn.Module):
    def __init__(self, config: MagvitConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = _norm(config, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = _norm(config, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class _Attention(nn.Module):
    def __init__(self, config: MagvitConfig, channels: int) -> None:
        super().__init__()
        self.norm = _norm(config, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(mixed)


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(functional.pad(h, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(functional.interpolate(h, scale_factor=2.0, mode="nearest"))


def _norm(config: MagvitConfig, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(config.norm_groups, channels, eps=config.norm_eps)
