"""The three weight files of a Show-o checkpoint: language model and projector, `clip/`, `magvitv2/`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from reca.models.checkpoint import Types, find_weights, load_strict, write_tensors

_VISION = "vision_model."


def published(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Tensors of each weight file by published name, of any shape and type, under the file's folder; memory is shared
    with the model's parts `showo` and `mm_projector`, `clip`, and `magvit`.
    """
    files: dict[str, dict[str, Tensor]] = {"": {}, "clip": {}, "magvitv2": {}}
    for name, value in model.state_dict().items():
        part, _, inner = name.partition(".")
        if part == "clip":
            files["clip"][_VISION + inner] = value
        elif part == "magvit":
            files["magvitv2"][inner] = value
        else:
            files[""][name] = value
    return files


def read_weights(model: nn.Module, folder: Path) -> dict[str, torch.dtype]:
    """Fill the model from a checkpoint folder.

    Returns:
        Types in the files, by published name.

    Raises:
        CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite.
    """
    types: dict[str, torch.dtype] = {}
    for part, tensors in published(model).items():
        types |= load_strict(tensors, find_weights(folder / part), clip_name if part == "clip" else lambda name: name)
    return types


def write_weights(model: nn.Module, folder: Path, dtype: torch.dtype | None, stored: Types) -> None:
    """Write the three files as safetensors.

    Args:
        model: what is written.
        folder: where.
        dtype: see `reca.models.checkpoint.storage_types`.
        stored: what `read_weights` gave, or nothing.
    """
    for part, tensors in published(model).items():
        write_tensors(tensors, folder / part / "model.safetensors", dtype, stored)


def clip_name(stored: str) -> str | None:
    """Full name of a published key of CLIP's vision tower; None for CLIP's text half and its old buffers."""
    text_half = stored.startswith(("text_model.", "text_projection.", "visual_projection.", "logit_scale"))
    if text_half or stored.endswith(".position_ids"):
        return None
    return _VISION + stored.removeprefix(_VISION)
