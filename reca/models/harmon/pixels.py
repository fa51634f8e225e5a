"""From images to what the autoencoder takes, and back.

The two ways to a square are the published data sets'. Recorded tensors are checked against them; the pipeline itself
resizes once (`reca.data.fit`).
"""

import torch
from PIL import Image
from torch import Tensor

GREY = (127, 127, 127)


def from_bytes(pixels: Tensor) -> Tensor:
    """Images float32 in [-1, 1] of uint8, any shape: x / 255 * 2 - 1, in this order, as published."""
    return pixels.float() / 255 * 2 - 1


def to_bytes(images: Tensor) -> Tensor:
    """uint8 of images float, about in [-1, 1], any shape: 127.5 * x + 128, clamped and truncated, as published."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def squashed(image: Image.Image, size: int) -> Image.Image:
    """Square image as the published reconstruction data set makes it, aspect ratio not kept: to the longer side first,
    then to `size`, both with Pillow's bicubic filter.
    """
    longer = max(image.size)
    return image.convert("RGB").resize((longer, longer)).resize((size, size))


def padded_square(image: Image.Image, size: int) -> Image.Image:
    """Square image as the published understanding data set makes it: grey bars around the centred image, then to `size`
    with Pillow's bicubic filter.
    """
    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), GREY)
    square.paste(image.convert("RGB"), ((longer - image.width) // 2, (longer - image.height) // 2))
    return square.resize((size, size))
