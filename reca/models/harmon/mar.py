"""The masked autoencoder: an encoder over visible latents and a decoder that fills in the masked ones.

Layout and names as published (MAR, arXiv 2406.11838, section 4.1, in Harmon's version: no class tokens, arXiv
2503.21979). Buffer tokens always stand in front of the image tokens here.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from reca.models.harmon.config import MarSizes
from reca.models.harmon.dropout import RowDropout
from reca.models.harmon.head import DiffusionHead

EPS = 1e-6


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: RowDropout | None) -> Tensor:
    """Full attention of query, key and value, float [B, heads, L, D] as is the result: fused on accelerators, matrix
    products and an explicit softmax on CPUs.

    On CPUs the backward pass of the fused kernel is slow for short sequences: 0.19 s against 0.13 s of one core for a
    reconstruction step of 64 pictures of 16 tokens (3 + 3 blocks of width 128, bfloat16 autocast).
    """
    if query.device.type != "cpu":
        if dropout is not None:
            return dropout.fused_attention(query, key, value)
        return functional.scaled_dot_product_attention(query, key, value)
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(2, 3))
    weights = scores.softmax(dim=-1, dtype=torch.float32)
    if dropout is not None:
        weights = dropout.drop(weights, dropout.attention)
    return torch.matmul(weights.to(value.dtype), value)


class Attention(nn.Module):
    """Full self-attention with one projection for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, dropout: RowDropout | None) -> Tensor:
        """float [B, L, W] to the same. `dropout`: random choices in training, else None."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = self.proj(attend(query, key, value, dropout and dropout.at("weights")).transpose(1, 2).flatten(2))
        return mixed if dropout is None else dropout.at("proj").drop(mixed, dropout.projection)


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, dropout: RowDropout | None) -> Tensor:
        """float [B, L, W] to the same. `dropout`: random choices in training, else None."""
        hidden = functional.gelu(self.fc1(x))
        if dropout is None:
            return self.fc2(hidden)
        hidden = dropout.at("fc1").drop(hidden, dropout.projection)
        return dropout.at("fc2").drop(self.fc2(hidden), dropout.projection)


class Block(nn.Module):
    """Pre-norm transformer block, as in timm's ViT."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, dropout: RowDropout | None) -> Tensor:
        """float [B, L, W] to the same. `dropout`: random choices in training, else None."""
        x = x + self.attn(self.norm1(x), dropout and dropout.at("attn"))
        return x + self.mlp(self.norm2(x), dropout and dropout.at("mlp"))


class DiffusionLoss(nn.Module):
    """Holds the head under its published name."""

    def __init__(self, sizes: MarSizes) -> None:
        super().__init__()
        self.net = DiffusionHead(
            sizes.token_channels,
            sizes.decoder_embed_dim,
            sizes.diffloss_w,
            sizes.diffloss_d,
            sizes.grad_checkpointing,
        )


class Mar(nn.Module):
    """Encoder, decoder and diffusion head. Position tables are made for a grid of `sizes.native_side` squared."""

    def __init__(self, sizes: MarSizes) -> None:
        super().__init__()
        self.sizes = sizes
        wide, deep, slots = sizes.encoder_embed_dim, sizes.decoder_embed_dim, sizes.native_side**2
        self.class_emb = nn.Embedding(sizes.class_num, wide)
        self.fake_latent = nn.Parameter(torch.zeros(1, wide))
        self.z_proj = nn.Linear(sizes.token_channels, wide)
        self.z_proj_ln = nn.LayerNorm(wide, eps=EPS)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, sizes.buffer_size + slots, wide))
        self.encoder_blocks = _blocks(wide, sizes.encoder_depth, sizes.encoder_num_heads, sizes.mlp_ratio)
        self.encoder_norm = nn.LayerNorm(wide, eps=EPS)
        self.decoder_embed = nn.Linear(wide, deep)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, deep))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, sizes.buffer_size + slots, deep))
        self.decoder_blocks = _blocks(deep, sizes.decoder_depth, sizes.decoder_num_heads, sizes.mlp_ratio)
        self.decoder_norm = nn.LayerNorm(deep, eps=EPS)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, slots, deep))
        self.diffloss = DiffusionLoss(sizes)
        # Nothing reads the class table; it exists because published checkpoints have it.
        self.class_emb.requires_grad_(False)
        self._reset()

    def encode(self, latents: Tensor, visible: Tensor | None, dropout: RowDropout | None) -> Tensor:
        """Encode an image.

        Args:
            latents: float [B, rows, cols, C].
            visible: int64 [B, K], raster indices of the visible tokens, ascending; None for all of them.
            dropout: random choices in training, else None.

        Returns:
            float [B, buffer + K, De]: buffers, then visible tokens.
        """
        rows, cols = latents.shape[1:3]
        buffer = self.sizes.buffer_size
        front = self.fake_latent.expand(len(latents), buffer, -1)
        x = torch.cat([front, self.z_proj(latents.flatten(1, 2))], dim=1)
        x = self.z_proj_ln(x + resized(self.encoder_pos_embed_learned, rows, cols, buffer))
        if visible is not None:
            picked = x[:, buffer:].gather(1, visible[..., None].expand(-1, -1, x.shape[-1]))
            x = torch.cat([x[:, :buffer], picked], dim=1)
        return self.encoder_norm(self._run(self.encoder_blocks, x, dropout and dropout.at("encoder")))

    def decode(self, x: Tensor, visible: Tensor, grid: tuple[int, int], dropout: RowDropout | None) -> Tensor:
        """Conditions of the diffusion head.

        Args:
            x: float [B, buffer + K, De], encoded buffers and visible tokens.
            visible: int64 [B, K], raster indices of those tokens.
            grid: rows and columns of the image.
            dropout: random choices in training, else None.

        Returns:
            float [B, rows * cols, Dd], of all tokens, visible ones included.
        """
        rows, cols = grid
        buffer = self.sizes.buffer_size
        x = self.decoder_embed(x)
        index = visible[..., None].expand(-1, -1, x.shape[-1])
        blank = self.mask_token.to(x.dtype).expand(len(x), rows * cols, -1)
        x = torch.cat([x[:, :buffer], blank.scatter(1, index, x[:, buffer:])], dim=1)
        x = x + resized(self.decoder_pos_embed_learned, rows, cols, buffer)
        x = self.decoder_norm(self._run(self.decoder_blocks, x, dropout and dropout.at("decoder")))
        return x[:, buffer:] + resized(self.diffusion_pos_embed_learned, rows, cols, 0)

    def _run(self, blocks: nn.ModuleList, x: Tensor, dropout: RowDropout | None) -> Tensor:
        for number, block in enumerate(blocks):
            here = dropout and dropout.at(str(number))
            if self.sizes.grad_checkpointing and self.training:
                x = checkpoint(block, x, here, use_reentrant=False)
            else:
                x = block(x, here)
        return x

    def _reset(self) -> None:
        """Tables from a normal distribution of deviation 0.02 and Xavier-uniform linear layers (MAR, section 5)."""
        for module in (self.z_proj, self.decoder_embed, self.encoder_blocks, self.decoder_blocks):
            for part in module.modules():
                if isinstance(part, nn.Linear):
                    nn.init.xavier_uniform_(part.weight)
                    nn.init.zeros_(part.bias)
        for table in (*self.parameters(recurse=False), self.class_emb.weight):
            nn.init.normal_(table, std=0.02)


def resized(table: Tensor, rows: int, cols: int, buffer: int) -> Tensor:
    """Position table for a grid of rows x cols tokens, float [1, buffer + rows * cols, W].

    The image part is resized bilinearly (corners not aligned, no antialiasing), the buffer part stays.

    Args:
        table: float [1, buffer + side * side, W].
        rows: rows of the grid.
        cols: its columns.
        buffer: entries of the table before its image part.
    """
    image = table[:, buffer:]
    side = math.isqrt(image.shape[1])
    if (rows, cols) == (side, side):
        return table
    grid = image.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid.float(), size=(rows, cols), mode="bilinear", align_corners=False)
    return torch.cat([table[:, :buffer], grid.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def _blocks(width: int, depth: int, heads: int, mlp_ratio: float) -> nn.ModuleList:
    return nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
