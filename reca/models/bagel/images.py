"""Pictures in and out: the published resize rule, normalisation, and bytes."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reca.models.bagel.config import ImageRule


def fitted_size(width: int, height: int, rule: ImageRule, pictures: int = 1) -> tuple[int, int]:
    """Width and height after the published resize (`data/transforms.py`).

    The area limit is applied by an area ratio used as a side ratio; that is how the released code does it.

    Args:
        width: pixels of the picture.
        height: pixels of the picture.
        rule: limits.
        pictures: pictures that share the area limit.
    """
    scale = max(min(rule.longest / max(width, height), 1.0), rule.shortest / min(width, height))
    wide, tall = _scaled(width, height, scale, rule.stride)
    if wide * tall > rule.most / pictures:
        wide, tall = _scaled(wide, tall, rule.most / pictures / (wide * tall), rule.stride)
    if max(wide, tall) > rule.longest:
        wide, tall = _scaled(wide, tall, rule.longest / max(wide, tall), rule.stride)
    return wide, tall


def resize(picture: NDArray[np.uint8], rule: ImageRule) -> NDArray[np.uint8]:
    """Pillow's bicubic resize of a picture uint8 [H, W, 3] to the size of the rule."""
    height, width = picture.shape[:2]
    size = fitted_size(width, height, rule)
    if size == (width, height):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def resized(pixels: Tensor, rule: ImageRule) -> Tensor:
    """The same for a batch uint8 [B, 3, H, W]: uint8 [B, 3, H', W'] on the CPU.

    Raises:
        ValueError: the batch has another form.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        raise ValueError(
            f"pixels are {str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}, expected uint8 [B, 3, H, W] "
            "with at least one picture of one pixel; convert pictures to RGB first"
        )
    rows = [resize(picture.numpy(), rule) for picture in pixels.cpu().permute(0, 2, 3, 1).contiguous()]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def normalised(pixels: Tensor) -> Tensor:
    """float32 in [-1, 1] of uint8 pixels, any shape; the same mean and deviation, 0.5, for both encoders."""
    return (pixels.float() / 255 - 0.5) / 0.5


def to_bytes(images: Tensor) -> Tensor:
    """uint8 of images float in [-1, 1], any shape, clamped; cut off, not rounded, as the released inferencer does."""
    return ((images.float() * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8)


def _scaled(width: int, height: int, scale: float, stride: int) -> tuple[int, int]:
    wide, tall = (max(stride, stride * round(round(side * scale) / stride)) for side in (width, height))
    return wide, tall
