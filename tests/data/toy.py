"""A small encoder and pictures it can be checked on."""

from pathlib import Path

import torch
from torch import Tensor, nn

from reca.data.sets import unlabeled_row
from reca.data.shards import ImageDataset


class ToyEncoder(nn.Module):
    """Mean brightness of 16 px patches as codes, and their mean colours as features."""

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        patches = nn.functional.avg_pool2d(pixels.float(), 16).flatten(2).transpose(1, 2)
        return {"codes": patches.mean(-1).long(), "features": (patches / 255).to(torch.bfloat16)}


class BrokenEncoder(ToyEncoder):
    """Gives NaN from the third picture on."""

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        out = super().encode(pixels)
        out["features"][2:] = torch.nan
        return out


class RefusingEncoder(ToyEncoder):
    """Refuses the third and the fourth picture."""

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        from reca.models.finite import NonFiniteOutputError

        raise NonFiniteOutputError(dict.fromkeys((2, 3), "toy: NaN in the latents"), len(pixels), {})


def expected(images: Path, index: int) -> dict[str, Tensor]:
    """What `ToyEncoder` makes of one row, computed here."""
    import numpy as np

    from reca.data.decode import decode

    pixels = decode(ImageDataset(str(images)).take([index])[0].image).transpose(2, 0, 1)
    return ToyEncoder().encode(torch.from_numpy(np.ascontiguousarray(pixels))[None])


def first_image() -> bytes:
    return unlabeled_row(0, 0).image
