"""The understanding tower: SigLIP with a linear patch embedding for pictures of any size (NaViT), and its connector."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from reca.models.bagel.config import VisionSizes


class PatchEmbedding(nn.Module):
    """Linear embedding of patches plus a learned table of positions."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(3 * sizes.patch_size**2, sizes.hidden_size)
        self.position_embedding = nn.Embedding(sizes.side**2, sizes.hidden_size)

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """float [B, P, D] of patches float32 [B, P, 3 p p] and positions int64 [P]."""
        return self.patch_embedding(patches) + self.position_embedding(positions)


class Encoder(nn.Module):
    """transformers' SigLIP blocks."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        config = SiglipVisionConfig(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            layer_norm_eps=sizes.layer_norm_eps,
            hidden_act="gelu_pytorch_tanh",
        )
        config._attn_implementation = "sdpa"  # pyright: ignore[reportPrivateUsage]
        self.layers = nn.ModuleList(SiglipEncoderLayer(config) for _ in range(sizes.num_hidden_layers))


class VisionTransformer(nn.Module):
    """The tower proper, without pooling."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.embeddings = PatchEmbedding(sizes)
        self.encoder = Encoder(sizes)
        self.post_layernorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)


class VisionTower(nn.Module):
    """SigLIP, named as published."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(sizes)

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Features of pictures of one size; each attends to itself only.

        Args:
            patches: float32 [B, P, 3 p p] of `to_patches`.
            positions: int64 [P], row * side + column.

        Returns:
            float32 [B, P, D], after the last norm.
        """
        hidden = self.vision_model.embeddings(patches, positions)
        for layer in self.vision_model.encoder.layers:
            hidden = layer(hidden, None)
        return self.vision_model.post_layernorm(hidden)


class Connector(nn.Module):
    """Two layers from features to the width of the language model."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """float [..., E] of features float [..., D]."""
        return self.fc2(functional.gelu(self.fc1(features), approximate="tanh"))


def to_patches(images: Tensor, side: int) -> Tensor:
    """Cut images into patches, row-major; numbers inside a patch are ordered row, column, channel.

    Args:
        images: float [B, C, rows * side, columns * side]; a picture or a latent.
        side: side of a patch.

    Returns:
        float [B, rows * columns, side * side * C].

    Raises:
        ValueError: the image is smaller than a patch or no multiple of it.
    """
    height, width = images.shape[-2:]
    if height < side or width < side or height % side or width % side:
        raise ValueError(f"an image of {width} x {height} cannot be cut into patches of {side} x {side}; resize it")
    cut = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Inverse of `to_patches`: float [B, C, rows * side, columns * side].

    Args:
        patches: float [B, rows * columns, side * side * C].
        rows: rows of patches.
        columns: columns of patches.
        side: side of a patch.
    """
    cut = patches.unflatten(2, (side, side, -1)).unflatten(1, (rows, columns))
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def sincos_table(side: int, width: int) -> Tensor:
    """Fixed positions float32 [side * side, width]: first half the column, second half the row, sines before cosines.

    Frequencies are 10000^(-k / (width / 4)), as in the published `modeling/bagel/modeling_utils.py`.
    """
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = line.repeat(side, 1), line.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float()
