"""Learning-rate shape shared by the pre-training loops."""

import math

WARMUP = 0.05
"""Share of the updates over which the rate grows."""


def cosine(update: int, updates: int) -> float:
    """Factor in (0, 1] of the peak rate: linear warm-up over the first `WARMUP` of the updates, then cosine to 0.

    Args:
        update: number of updates done, below `updates`.
        updates: in all.
    """
    start = max(1, round(WARMUP * updates))
    if update < start:
        return (update + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (update - start) / max(1, updates - start)))
