"""Which codes are hidden in training: MaskGIT's cosine (arXiv 2202.04200, section 3.3), as published in Show-o."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reca.models.losses import IGNORED
from reca.models.showo.config import Vocabulary


@dataclass(frozen=True)
class MaskedCodes:
    """A picture with some of its codes hidden.

    Attributes:
        ids: int64 [B, N], vocabulary ids; the mask id at hidden positions.
        labels: int64 [B, N], the true id at hidden positions, `IGNORED` elsewhere.
        ratio: float32 [B] in [0, 1], the share that was asked for.
    """

    ids: Tensor
    labels: Tensor
    ratio: Tensor


def mask_codes(
    codes: Tensor, timestep: Tensor, order: Tensor, vocabulary: Vocabulary, min_masking_rate: float = 0.0
) -> MaskedCodes:
    """Hide max(1, round(N * cos(pi/2 * timestep))) codes (half to even).

    Position i is hidden when argsort(order)[i] is below that number; the permutation is used as it is, not its inverse.

    Args:
        codes: int32 or int64 [B, N], image codes without vocabulary offset.
        timestep: float32 [B] in [0, 1).
        order: float32 [B, N] in [0, 1).
        vocabulary: layout of the vocabulary.
        min_masking_rate: least share of hidden positions, in place of the cosine where that is smaller.
    """
    ratio = torch.cos(timestep * (math.pi / 2)).clamp(min=min_masking_rate)
    count = (codes.shape[1] * ratio).round().clamp(min=1)
    hidden = order.argsort(dim=-1) < count[:, None]
    ids = codes.long() + vocabulary.image_offset
    return MaskedCodes(ids.masked_fill(hidden, vocabulary.mask), ids.masked_fill(~hidden, IGNORED), ratio)
