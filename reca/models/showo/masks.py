"""Attention masks of Show-o's tasks ("omni attention"): each is bool [B, 1, L, L], True where the row sees the column.

Every row of every layout sees at least one column (a left pad sees itself, a right pad the first id), so a softmax
over a masked row is never empty. Rules follow the published `training/prompting_utils.py` of Show-o and of RecA's
Show-o.
"""

import torch
from torch import Tensor


def caption_mask(ids: Tensor, pad: int, image_tokens: int) -> Tensor:
    """Text-to-image: text is causal, soi, image and eoi see everything; left pads see and are seen by pads only.

    Args:
        ids: int64 [B, L] of `caption_tokens`.
        pad: id of the pads.
        image_tokens: N.
    """
    _, causal = _causal(ids)
    column = torch.arange(ids.shape[1], device=ids.device)
    picture = column >= ids.shape[1] - image_tokens - 2
    return _with_left_pads(ids == pad, causal | picture[:, None], causal)


def text_mask(ids: Tensor) -> Tensor:
    """Plain text, int64 [B, L]: causal; pads are not hidden."""
    _, causal = _causal(ids)
    return causal.expand(ids.shape[0], 1, -1, -1)


def understanding_mask(ids: Tensor, first: int, features: int) -> Tensor:
    """Understanding: causal, and every row, earlier ones too, sees all feature columns; right pads are not hidden.

    Args:
        ids: int64 [B, L] of `understanding_tokens`.
        first: first feature column (S + 2).
        features: C.
    """
    column, causal = _causal(ids)
    return (causal | _between(column, first, features)).expand(ids.shape[0], 1, -1, -1)


def reconstruction_mask(ids: Tensor, pad: int, features: int, image_tokens: int) -> Tensor:
    """Reconstruction from CLIP: causal, all rows see the features, image positions see each other, pads are hidden.

    soi and eoi of the drawn picture do not join its two-way block.

    Args:
        ids: int64 [B, L] of `reconstruction_tokens`.
        pad: id of the pads.
        features: C; they start at column 2.
        image_tokens: N.
    """
    column, causal = _causal(ids)
    image = _between(column, ids.shape[1] - image_tokens - 1, image_tokens)
    visible = causal | _between(column, 2, features) | (image[:, None] & image)
    return (visible & (ids != pad)[:, None])[:, None]


def code_reconstruction_mask(ids: Tensor, pad: int, condition_tokens: int, image_tokens: int) -> Tensor:
    """Reconstruction from codes: the condition (soi to eoi) sees itself both ways, text is causal.

    soi, image and eoi of the drawn picture see everything but pads.

    Args:
        ids: int64 [B, L] of `code_reconstruction_tokens`.
        pad: id of the pads.
        condition_tokens: Nc.
        image_tokens: N.
    """
    column, causal = _causal(ids)
    pads = ids == pad
    soi = pads.sum(dim=1, keepdim=True) + 1
    condition = (column >= soi) & (column < soi + condition_tokens + 2)
    picture = column >= ids.shape[1] - image_tokens - 2
    both_ways = condition[:, :, None] & condition[:, None]
    return _with_left_pads(pads, causal | picture[:, None] | both_ways, causal)


def _causal(ids: Tensor) -> tuple[Tensor, Tensor]:
    column = torch.arange(ids.shape[1], device=ids.device)
    return column, column[:, None] >= column


def _between(column: Tensor, first: int, count: int) -> Tensor:
    return (column >= first) & (column < first + count)


def _with_left_pads(pads: Tensor, visible: Tensor, causal: Tensor) -> Tensor:
    rows = pads[:, :, None]
    columns = pads[:, None]
    return torch.where(rows, causal & columns, visible & ~columns)[:, None]
