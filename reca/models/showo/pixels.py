"""Resizing for tokenizer and vision tower."""

from torch import Tensor
from torch.nn import functional

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def plain_resize(images: Tensor, side: int) -> Tensor:
    """Images float32 [B, 3, side, side] in [-1, 1] of images float32 [B, 3, S, S] in [-1, 1]: bilinear, without
    antialiasing, as RecA feeds CLIP and the VQ condition.
    """
    return functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def clip_resize(images: Tensor, side: int) -> Tensor:
    """CLIP's input float32 [B, 3, side, side] of images float32 [B, 3, S, S] in [-1, 1]: bicubic with antialiasing,
    then CLIP's mean and standard deviation, as CLIP's own preprocessing.
    """
    resized = functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    mean, std = (resized.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std
