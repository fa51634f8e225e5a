"""Published names of the weights of diffusers' AutoencoderKL: those of the first latent diffusion code, which KL-16
(`kl16.ckpt`, Harmon) and FLUX's autoencoder (`ae.safetensors`, BAGEL) keep.
"""

import re
from collections.abc import Mapping

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def published_state(autoencoder: AutoencoderKL) -> dict[str, Tensor]:
    """The autoencoder's weights by published name, in the shapes they have in those files; memory is shared."""
    levels = len(autoencoder.decoder.up_blocks)
    state: Mapping[str, Tensor] = autoencoder.state_dict()
    return {
        published: value[..., None, None] if _is_attention_matrix(name) else value
        for name, value in state.items()
        for published in [published_name(name, levels)]
    }


def published_name(name: str, levels: int) -> str:
    """Published name of a weight of AutoencoderKL with this many levels.

    In the files the decoder's levels count from the finest (diffusers: in the order they run), and attention is made of
    1 x 1 convolutions (diffusers: linear layers).
    """

    def level(match: re.Match[str]) -> str:
        return f"up.{levels - 1 - int(match[1])}."

    name = re.sub(r"up_blocks\.(\d+)\.", level, name)
    name = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)\.", lambda match: f"mid.block_{int(match[1]) + 1}.", name)
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
    name = re.sub(r"\.resnets\.(\d+)\.", r".block.\1.", name)
    name = re.sub(r"\.attentions\.(\d+)\.", r".attn.\1.", name)
    name = re.sub(r"\.(down|up)samplers\.0\.conv\.", r".\1sample.conv.", name)
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    for ours, theirs in _ATTENTION.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name


def _is_attention_matrix(name: str) -> bool:
    return name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
