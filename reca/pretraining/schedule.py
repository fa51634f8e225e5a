"""Learning-rate shape shared by the pre-training loops."""

import math


def cosine(update: int, updates: int, warmup: float = 0.05) -> float:
    """Factor in (0, 1] of the peak rate: linear warm-up over the first `warmup` share, then cosine to 0."""
    start = max(1, round(warmup * updates))
    if update < start:
        return (update + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (update - start) / max(1, updates - start)))
