"""The diffusion head: a small MLP that predicts noise and variance of one token from its condition.

Layout and names as in the published `diffloss.net` (MAR, "Autoregressive Image Generation without Vector Quantization",
arXiv 2406.11838, section 4.2 and appendix; DiT's adaptive layer norm).
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FREQUENCIES = 256
"""Sinusoidal features of a timestep."""

EPS = 1e-6


class TimeEmbedding(nn.Module):
    """Timestep to a vector: cosines, then sines of frequencies 10000^(-k/128), then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: Tensor) -> Tensor:
        """Embedding float [..., W] of timesteps int64 [...] of the training schedule, 0 to 999."""
        half = FREQUENCIES // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
        angles = timestep[..., None].float() * rates
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class ResidualBlock(nn.Module):
    """x + gate * MLP(LN(x) * (1 + scale) + shift), with shift, scale and gate from the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """float [..., W] of x float [..., W] and condition float [..., W]."""
        shift, scale, gate = self.adaLN_modulation(condition).chunk(3, dim=-1)
        return x + gate * self.mlp(self.in_ln(x) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    """LN(x) * (1 + scale) + shift, then a linear layer; the norm has no weights of its own."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=EPS, elementwise_affine=False)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Outputs float [..., O] of x float [..., W] and condition float [..., W]."""
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class DiffusionHead(nn.Module):
    """The whole MLP.

    Args:
        channels: C, latent channels.
        condition: width of a token's condition.
        width: W.
        depth: residual blocks.
        recompute: recompute the residual blocks in the backward pass.
    """

    def __init__(self, channels: int, condition: int, width: int, depth: int, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(condition, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * channels)
        self._reset()

    def forward(self, noised: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Predict noise and variance fraction.

        Args:
            noised: float [..., C], latents with noise.
            timestep: int64 [...], timesteps of the training schedule.
            condition: float [..., Dd].

        Returns:
            float [..., 2C]: noise, then the place v in [-1, 1] of the log variance between its two bounds.
        """
        x = self.input_proj(noised)
        y = self.time_embed(timestep) + self.cond_embed(condition)
        for block in self.res_blocks:
            x = checkpoint(block, x, y, use_reentrant=False) if self.recompute and self.training else block(x, y)
        return self.final_layer(x, y)

    def _reset(self) -> None:
        """Every block starts as the identity and the output at 0 (DiT, arXiv 2212.09748, section 3.2)."""
        for module in (*self.res_blocks, self.final_layer):
            for parameter in module.get_submodule("adaLN_modulation").parameters():
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.final_layer.linear.weight)
        nn.init.zeros_(self.final_layer.linear.bias)
