"""The attention kernel that is fastest where the tensors are, under transformers' interface.

It is chosen at every call, so a model that was built or loaded on one device may be moved to another.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

BY_DEVICE = "reca_by_device"
"""Name under which `by_device` is registered; the masks it takes are additive."""

EAGER_BY_DEVICE = "reca_eager_by_device"
"""Name under which `eager_by_device` is registered; transformers makes its masks (`mask_by_device`)."""


def by_device(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Fused attention on accelerators, matrix products and an explicit softmax on CPUs.

    On CPUs the backward pass of the fused kernel is slow for short sequences: a step of 64 + 64 sequences of 58 and 35
    positions (width 128, 4 layers, bfloat16 autocast) takes 0.45 s of one core with it and 0.24 s without.

    Args:
        module: the attention module.
        query: float [B, H, L, D].
        key: float [B, G, L', D], with H a multiple of G.
        value: float [B, G, L', D].
        attention_mask: float, broadcastable to [B, H, L, L'], added to the scores; None hides nothing.
        dropout: must be 0, which the models that use this have; on CPUs it is not read.
        scaling: factor of the scores; None for 1 / sqrt(D).
        options: passed on to the fused kernel.

    Returns:
        float [B, L, H, D], and no attention weights.
    """
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scaling is None else scaling), key.transpose(2, 3))
    weights = (scores if attention_mask is None else scores + attention_mask).softmax(dim=-1, dtype=torch.float32)
    return torch.matmul(weights.to(value.dtype), value).transpose(1, 2).contiguous(), None


def eager_by_device(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """`by_device` for models that leave their masks to transformers: on CPUs it is the model's own `eager`, bit for bit
    (models differ in where they round under autocast).

    On CPUs the fused kernel makes an update of OpenUni's tiny pre-training take 0.54 s of a core, this 0.33 s; a
    training step of 64 + 64 of Harmon's tiny pictures takes a fifth longer with it.

    Arguments and result are those of `by_device`, but for the mask: what `mask_by_device` made, float [B, 1, L, L'] on
    CPUs, bool [B, 1, L, L'] (True where visible) elsewhere, or None.
    """
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    # Every model file of transformers has this function; it is what the name "eager" stands for.
    eager: Any = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    return eager(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options)


def mask_by_device(*sizes: Any, device: torch.device | str = "cpu", **options: Any) -> Tensor | None:
    """transformers' mask for `eager_by_device` on a device.

    Args:
        sizes: passed on, as transformers gives them.
        device: where the scores will be.
        options: passed on.

    Returns:
        On CPUs float [B, 1, L, L'], to be added to the scores; elsewhere bool of that shape, True where visible. None
        where the kernel hides what is to be hidden without one.
    """
    make = eager_mask if torch.device(device).type == "cpu" else sdpa_mask
    return make(*sizes, device=device, **options)


def additive(visible: Tensor) -> Tensor:
    """Additive float32 mask of a bool one, any shape: 0 where True (visible), -1e30 elsewhere, which is finite, so that
    a row that sees nothing gives no NaN.
    """
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -1e30)


AttentionInterface.register(BY_DEVICE, by_device)
AttentionInterface.register(EAGER_BY_DEVICE, eager_by_device)
AttentionMaskInterface.register(EAGER_BY_DEVICE, mask_by_device)
