"""Between stored pictures (uint8) and what networks take (float in [-1, 1]). `images` are float [B, 3, S, S]."""

import torch
from torch import Tensor


def from_bytes(pixels: Tensor) -> Tensor:
    """Images of uint8 [B, 3, S, S]."""
    return pixels.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] of images, which may leave [-1, 1] a little."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def check_size(pixels: Tensor, size: int) -> None:
    """Check pictures before they are encoded.

    Raises:
        ValueError: they are not [B, 3, size, size].
    """
    if tuple(pixels.shape[1:]) != (3, size, size):
        raise ValueError(f"pixels have shape {list(pixels.shape)}, expected [B, 3, {size}, {size}]; fit them first")
