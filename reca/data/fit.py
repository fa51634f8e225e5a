"""Pictures of any size to the square a model wants."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from reca.data.decode import DecodeError, decode
from reca.data.files import DatasetError

Fit = Literal["squash", "crop"]


def fit(rgb: NDArray[np.uint8], size: int, mode: Fit) -> NDArray[np.uint8]:
    """Resize with an antialiased bicubic filter to a square.

    Torch's uint8 kernel is within 1 grey level of Pillow's bicubic when shrinking (mean difference 0.005 on 256 ->
    224), within 2 when enlarging, and takes 0.2 ms where Pillow takes 1.0 (256 -> 224, one core): it needs no copy to
    and from Pillow's four-byte pixels.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        size: side S of the result in pixels.
        mode: `squash` scales both sides to S; `crop` scales the short side to S, the long side to int(S x long /
            short), and cuts the centre, as torchvision's Resize and CenterCrop do.

    Returns:
        uint8 [3, S, S], RGB. Memory may be strided (channels last); copying it into a batch makes it contiguous.
    """
    height, width = rgb.shape[:2]
    if mode == "squash":
        tall, wide = size, size
    else:
        short = min(height, width)
        tall, wide = int(size * height / short), int(size * width / short)
    picture = torch.from_numpy(rgb).permute(2, 0, 1)
    if (tall, wide) != (height, width):
        picture = interpolate(picture[None], size=(tall, wide), mode="bicubic", antialias=True)[0]
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    return picture[:, top : top + size, left : left + size].numpy()


def fitted(image: bytes, key: str, size: int, mode: Fit) -> NDArray[np.uint8]:
    """Decode and fit a picture of canonical shards.

    Args:
        image: encoded picture.
        key: its key, for the message.
        size: side S of the result in pixels.
        mode: as of `fit`.

    Returns:
        uint8 [3, S, S], RGB; see `fit`.

    Raises:
        DatasetError: it cannot be decoded, which it could when the shards were made.
    """
    try:
        return fit(decode(image, target=size), size, mode)
    except DecodeError as error:
        raise DatasetError(
            f"image {key!r} was fine when the shards were made and is not now ({error}): run `prepare` again"
        ) from error
