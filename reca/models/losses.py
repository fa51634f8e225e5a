"""Cross entropy of ids, for the families that predict them."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from reca.models.base import LossTerm

IGNORED = -100
"""Label that no loss counts."""


def next_labels(labels: Tensor) -> Tensor:
    """What each position has to predict, int64 [B, L], of the labels int64 [B, L] of the positions themselves: every
    label one place to the left, `IGNORED` at the end.
    """
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def cross_entropy(head: Callable[[Tensor], Tensor], states: Tensor, labels: Tensor) -> LossTerm:
    """Cross entropy in nats, summed over the positions that have a label; the head runs on those only.

    Args:
        head: logits float [n, V] of hidden states float [n, D].
        states: float [B, L, D].
        labels: int64 [B, L], the id in 0..V-1 that each position predicts, or `IGNORED`.
    """
    counted = labels != IGNORED
    logits = head(states[counted]).float()
    return LossTerm(functional.cross_entropy(logits, labels[counted], reduction="sum"), counted.sum().float())
