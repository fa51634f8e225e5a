"""From the language model's states to Sana's context: a connector and one or two linear layers."""

from dataclasses import asdict
from typing import Any

from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from reca.models.attention import EAGER_BY_DEVICE
from reca.models.openuni.config import OpenUniConfig


def build_connector(config: OpenUniConfig) -> SiglipEncoder:
    """The published connector: SigLIP's encoder without embeddings and final norm, names of parameters included."""
    values: dict[str, Any] = {**asdict(config.connector), "hidden_size": config.connector_width}
    sizes: Any = SiglipVisionConfig(**values)
    sizes._attn_implementation = EAGER_BY_DEVICE
    return SiglipEncoder(sizes)


def build_projector(config: OpenUniConfig) -> nn.Linear | nn.ModuleList:
    """The linear layers around the connector, named as published: one, or a list of the one before and the one after
    (`proj_type` of OpenUni's `internvl3_sana_hf.py`).
    """
    before = (config.language.hidden_size, config.connector_width)
    after = (config.connector_width, config.sana.caption_channels)
    if config.proj_type == "proj_enc_proj":
        return nn.ModuleList([nn.Linear(*before), nn.Linear(*after)])
    return nn.Linear(*(before if config.proj_type == "proj_enc" else after))


def ends(projector: nn.Module, kind: str) -> tuple[nn.Module, nn.Module]:
    """What comes before and after the connector, of the layers that `build_projector` made for a `proj_type`."""
    if isinstance(projector, nn.ModuleList):
        return projector[0], projector[1]
    return (projector, nn.Identity()) if kind == "proj_enc" else (nn.Identity(), projector)
