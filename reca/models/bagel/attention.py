"""Joint attention of both experts over packed samples: block-diagonal, so no score between two samples is computed."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reca.models.bagel.packing import Layout, visible


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Masked attention with scale 1 / sqrt(D): the fused kernel on accelerators, an explicit softmax on CPUs.

    Args:
        query: float [B, H, Q, D].
        key: float [B, G, K, D], with H a multiple of G.
        value: float [B, G, K, D].
        mask: bool [B, 1, Q, K], True where visible; every row sees something.

    Returns:
        float [B, H, Q, D].
    """
    return (explicit if query.device.type == "cpu" else fused)(query, key, value, mask)


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """`attention` through PyTorch's fused kernels, with its arguments and result. Key and value heads are repeated,
    because not every kernel that takes a mask takes fewer of them.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def explicit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """`attention` as two matrix products and a softmax in float32, with its arguments and result."""
    groups = key.shape[1]
    grouped = query.unflatten(1, (groups, -1))
    scores = torch.matmul(grouped.flatten(2, 3) * query.shape[-1] ** -0.5, key.transpose(2, 3))
    scores = scores.unflatten(2, grouped.shape[2:4]).masked_fill(~mask[:, :, None], float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(weights.flatten(2, 3), value).unflatten(2, grouped.shape[2:4]).flatten(1, 2)


@dataclass(frozen=True)
class PackedAttention:
    """Attention over a packed batch. Samples of equal length are computed together, so nothing is padded.

    Attributes:
        order: int64 [S], row in expert order of each token, samples sorted by length.
        back: int64 [S], the inverse of `order`.
        masks: bool [B, 1, L, L] for each group of B samples of length L, in that order.
    """

    order: Tensor
    back: Tensor
    masks: list[Tensor]

    @classmethod
    def of(cls, layout: Layout) -> "PackedAttention":
        """Plan the attention of a packed batch, on the device of its tensors."""
        device = layout.positions.device
        starts = torch.tensor([0, *layout.lengths]).cumsum(0).tolist()
        by_length: dict[int, list[int]] = {}
        for number, length in enumerate(layout.lengths):
            by_length.setdefault(length, []).append(starts[number])
        places, masks = list[Tensor](), list[Tensor]()
        for length, firsts in sorted(by_length.items()):
            group = torch.tensor(firsts, device=device)[:, None] + torch.arange(length, device=device)
            masks.append(visible(layout.block[group], layout.noised[group])[:, None])
            places.append(group.flatten())
        expert_row = torch.argsort(layout.expert_order)
        order = expert_row[torch.cat(places)]
        return cls(order, torch.argsort(order), masks)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in every sample.

        Args:
            layer: number of the layer (not needed here).
            query: float [S, H, D] in expert order.
            key: float [S, G, D] in expert order.
            value: float [S, G, D] in expert order.

        Returns:
            float [S, H, D] in expert order.
        """
        query, key, value = query[self.order], key[self.order], value[self.order]
        done, first = list[Tensor](), 0
        for mask in self.masks:
            samples, length = mask.shape[0], mask.shape[-1]
            last = first + samples * length
            q, k, v = (each[first:last].unflatten(0, (samples, length)).transpose(1, 2) for each in (query, key, value))
            done.append(attention(q, k, v, mask).transpose(1, 2).flatten(0, 1))
            first = last
        return torch.cat(done)[self.back]
