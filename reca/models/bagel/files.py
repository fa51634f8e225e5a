"""Published files and names of the weights: `ema.safetensors` (or RecA's `model_bf16.safetensors`), `ae.safetensors`.

Names inside the latter: `reca.models.autoencoder`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from reca.models.checkpoint import find_weights
from reca.models.errors import CheckpointError

NETWORK = "ema.safetensors"
"""Published name of the network's weights. Those that RecA writes there are raw weights, no moving average."""

RECA_NETWORK = "model_bf16.safetensors"
"""The same of the authors' BAGEL-RecA, which takes everything else from the base release."""

AUTOENCODER = "ae.safetensors"


def network_name(name: str) -> str:
    """Published name of a tensor of `Bagel`: weights of the generation expert end their module's name in `_moe_gen`."""
    name = name.replace(".und.", ".")
    return re.sub(r"\.gen\.(self_attn\.)?(\w+)", r".\1\2_moe_gen", name)


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """State of `Bagel` by published name, in its shapes and types; the tensors are the network's own."""
    return {network_name(name): value for name, value in network.state_dict().items()}


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
