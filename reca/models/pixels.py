"""Between stored pictures (uint8, 0 to 255) and what networks take (float, -1 to 1)."""

import torch
from torch import Tensor


def from_bytes(pixels: Tensor) -> Tensor:
    """Images float32 in [-1, 1] of uint8, any shape: x / 127.5 - 1."""
    return pixels.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """uint8 of images float, any shape: (x + 1) * 127.5, rounded. What leaves [-1, 1] is clamped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def check_size(pixels: Tensor, size: int) -> None:
    """Check pictures before they are encoded.

    Args:
        pixels: uint8 [B, 3, H, W].
        size: what H and W have to be, in pixels.

    Raises:
        ValueError: they are not [B, 3, size, size].
    """
    if tuple(pixels.shape[1:]) != (3, size, size):
        raise ValueError(f"pixels have shape {list(pixels.shape)}, expected [B, 3, {size}, {size}]; fit them first")
