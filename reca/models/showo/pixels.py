"""From pixels to what tokenizer and vision tower take. `images` are float [B, 3, S, S] in [-1, 1]."""

import torch
from torch import Tensor
from torch.nn import functional

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def from_bytes(pixels: Tensor) -> Tensor:
    """Images of uint8 [B, 3, S, S]."""
    return pixels.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] of images, which may leave [-1, 1] a little."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def plain_resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, no antialiasing: what RecA feeds CLIP (still in [-1, 1]) and the VQ condition."""
    return functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def clip_resize(images: Tensor, side: int) -> Tensor:
    """Bicubic with antialiasing, then CLIP's mean and standard deviation, as CLIP's own preprocessing."""
    resized = functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    mean, std = (resized.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std
