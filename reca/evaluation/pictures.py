"""Small picture helpers shared by the evaluation modules."""

from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def png(image: Tensor) -> bytes:
    """uint8 [3, S, S] to PNG bytes (64 px scenes: about 2 kB)."""
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def unpng(data: bytes) -> NDArray[np.uint8]:
    """PNG bytes to uint8 [3, S, S]."""
    with Image.open(BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


def fitted(scenes: list[NDArray[np.uint8]], size: int) -> Tensor:
    """Pictures uint8 [H, W, 3] to uint8 [B, 3, size, size], resampled (bicubic) where the side differs."""
    pictures = [Image.fromarray(scene) for scene in scenes]
    sized = [p if p.size == (size, size) else p.resize((size, size), Image.Resampling.BICUBIC) for p in pictures]
    return torch.from_numpy(np.stack([np.asarray(p) for p in sized])).permute(0, 3, 1, 2).contiguous()
