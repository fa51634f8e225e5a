"""Published names of all weights: `ema.safetensors` (or RecA's `model_bf16.safetensors`) and `ae.safetensors`."""

import re
from collections.abc import Mapping
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from reca.models.checkpoint import find_weights
from reca.models.errors import CheckpointError

NETWORK = "ema.safetensors"
"""Published name of the network's weights. Those that RecA writes there are raw weights, no moving average."""

RECA_NETWORK = "model_bf16.safetensors"
"""The same of the authors' BAGEL-RecA, which takes everything else from the base release."""

AUTOENCODER = "ae.safetensors"

_VAE_RULES = (
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2"),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", r"decoder.up.\1.block.\2"),
    (r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0", r"decoder.up.\1.upsample"),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)
"""diffusers' names to those of the FLUX release; the decoder's levels are counted from the other end."""


def network_name(name: str) -> str:
    """Published name of a tensor of `Bagel`: weights of the generation expert end their module's name in `_moe_gen`."""
    name = name.replace(".und.", ".")
    return re.sub(r"\.gen\.(self_attn\.)?(\w+)", r".\1\2_moe_gen", name)


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """State of `Bagel` by published name; the tensors are the network's own."""
    return {network_name(name): value for name, value in network.state_dict().items()}


def autoencoder_tensors(autoencoder: AutoencoderKL) -> dict[str, Tensor]:
    """State of the autoencoder by published name, as views; attention matrices are stored as 1 x 1 convolutions."""
    last = len(autoencoder.config["block_out_channels"]) - 1
    found: dict[str, Tensor] = {}
    for ours, value in autoencoder.state_dict().items():
        name = ours
        for pattern, replacement in _VAE_RULES:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"^decoder\.up\.(\d+)", lambda match: f"decoder.up.{last - int(match[1])}", name)
        matrix = ".attn_1." in name and value.ndim == 2
        found[name] = value[:, :, None, None] if matrix else value
    return found


def find_network(folder: Path) -> Path:
    """The network's weights in a checkpoint folder.

    Raises:
        CheckpointError: there are none, or two.
    """
    found = [folder / name for name in (NETWORK, RECA_NETWORK) if (folder / name).is_file()]
    if len(found) > 1:
        raise CheckpointError(f"{folder}: has both {NETWORK} and {RECA_NETWORK}; move the one you do not mean away")
    return found[0] if found else find_weights(folder)


def generation_side(tensors: Mapping[str, object]) -> list[str]:
    """Published names of what RecA trains: generation expert, its bridges to the latents, and the time embedding."""
    bridges = ("vae2llm.", "llm2vae.", "time_embedder.")
    return [name for name in tensors if "_moe_gen" in name or name.startswith(bridges)]
