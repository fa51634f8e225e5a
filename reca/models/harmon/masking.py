"""Which tokens are hidden, in training and while drawing (MAR, arXiv 2406.11838, sections 3.4 and 4)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MEAN, DEVIATION, HIGHEST = 1.0, 0.25, 1.0
"""Mask rates are normal with this mean and deviation, truncated to `mask_ratio_min`..HIGHEST."""


def mask_rate(uniform: Tensor, lowest: float) -> Tensor:
    """Mask rates, shares of the tokens in [lowest, 1], of uniform draws in [0, 1): the truncated normal distribution's
    inverse. float64 of one shape each, the result on the CPU.
    """
    low, high = _ends(lowest)
    rate = MEAN + DEVIATION * torch.special.ndtri(low + uniform.cpu() * (high - low))
    return rate.clamp(lowest, HIGHEST)


def share_below(rate: Tensor, lowest: float) -> Tensor:
    """The inverse of `mask_rate`: how much of the distribution lies below each rate, float64 in [0, 1]."""
    low, high = _ends(lowest)
    return ((torch.special.ndtr((rate.double().cpu() - MEAN) / DEVIATION) - low) / (high - low)).clamp(0, 1)


def _ends(lowest: float) -> Tensor:
    """How much of the untruncated distribution lies below `lowest` and below HIGHEST, float64 [2]."""
    return torch.special.ndtr(
        torch.tensor([(end - MEAN) / DEVIATION for end in (lowest, HIGHEST)], dtype=torch.float64)
    )


def split(order: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """Raster indices of the hidden tokens int64 [B, hidden] and of the visible ones [B, N - hidden], both ascending:
    the first `hidden` entries of each permutation int64 [B, N] are hidden.
    """
    return order[:, :hidden].sort(dim=1).values, order[:, hidden:].sort(dim=1).values


def hidden_counts(tokens: int, iterations: int) -> Sequence[int]:
    """Hidden tokens before each iteration of drawing, and 0 at the end.

    After iteration k of K, floor(N * cos(pi/2 * (k+1)/K)) tokens stay hidden, at least 1 and fewer than before while
    that is possible; the last iteration draws what is left.
    """
    counts = [tokens]
    for number in range(1, iterations):
        wanted = math.floor(tokens * math.cos(math.pi / 2 * number / iterations))
        counts.append(max(1, min(counts[-1] - 1, wanted)))
    return [*counts, 0]
