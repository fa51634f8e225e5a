"""Small picture helpers shared by the evaluation modules."""

from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def png(image: Tensor, *, optimize: bool = True) -> bytes:
    """Encode a picture.

    Args:
        image: uint8 [3, H, W], RGB, on the CPU.
        optimize: look for the smallest file (64 px scenes: about 2 kB).

    Returns:
        A PNG file.
    """
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG", optimize=optimize)
    return buffer.getvalue()


def unpng(data: bytes) -> NDArray[np.uint8]:
    """Decode a PNG file to uint8 [3, H, W], RGB."""
    with Image.open(BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


def fitted(scenes: list[NDArray[np.uint8]], size: int) -> Tensor:
    """Bring pictures to one size.

    Args:
        scenes: B pictures, each uint8 [H, W, 3], RGB.
        size: side in pixels.

    Returns:
        uint8 [B, 3, size, size], resampled (bicubic) where a side differs.
    """
    pictures = [Image.fromarray(scene) for scene in scenes]
    sized = [p if p.size == (size, size) else p.resize((size, size), Image.Resampling.BICUBIC) for p in pictures]
    return torch.from_numpy(np.stack([np.asarray(p) for p in sized])).permute(0, 3, 1, 2).contiguous()
