"""Published layouts of Harmon's weights.

Two are read: one set of weights with everything (`wusize/Harmon-1_5B`: safetensors or a pickle of tensors, whole or in
shards, the autoencoder under `vae.`), and the original release or raw training output (`harmon_1.5b.pth` without
autoencoder, beside MAR's `kl16.ckpt`). Safetensors in the first layout are written.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from reca.models.autoencoder import published_state
from reca.models.checkpoint import Types, find_weights_or_pth, load_strict, read_tensors, write_tensors
from reca.models.errors import CheckpointError
from reca.models.harmon.network import HarmonNetwork

HEAD = "llm.lm_head.weight"
"""The output matrix: the input embeddings under another name where the configuration ties them, as both releases do."""

EMBEDDINGS = "llm.model.embed_tokens.weight"

COMPARED_ROWS = 1024
"""Rows of a matrix compared at once, so that no second copy of it is held."""

VAE = "vae."
VAE_FILE = "kl16.ckpt"
VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


def read_weights(network: HarmonNetwork, autoencoder: AutoencoderKL, folder: Path) -> dict[str, torch.dtype]:
    """Fill network and autoencoder from a checkpoint folder. A tied output matrix need not be there; where it is, it
    must equal the input embeddings.

    Args:
        network: filled in place.
        autoencoder: filled in place.
        folder: in either layout.

    Returns:
        Types in the files, by the names that `write_weights` uses.

    Raises:
        CheckpointError: naming file and key, on missing, extra or misshaped keys, values that are not finite, or a tied
            output matrix of its own.
    """
    wanted = network_state(network)
    path, vae_path = find_weights_or_pth(folder), folder / VAE_FILE
    images = published_state(autoencoder)

    def own(name: str) -> str | None:
        return None if name == HEAD and HEAD not in wanted else name

    if vae_path.is_file():
        types = load_strict(wanted, path, lambda name: None if name.startswith(VAE) else own(name))
        vae = load_strict(images, vae_path, lambda name: name if name.startswith(VAE_PARTS) else None)
        return types | _tied(path, wanted, types) | {f"{VAE}{name}": kind for name, kind in vae.items()}
    wanted |= {f"{VAE}{name}": value for name, value in images.items()}
    try:
        types = load_strict(wanted, path, own)
    except CheckpointError as error:
        if f"{VAE}encoder.conv_in.weight: missing" not in str(error):
            raise
        raise CheckpointError(f"{error}. Weights without {VAE} keys need {VAE_FILE} in the same folder") from error
    return types | _tied(path, wanted, types)


def _tied(path: Path, wanted: Mapping[str, Tensor], types: Types) -> dict[str, torch.dtype]:
    """Type of an output matrix that is stored beside the embeddings it is tied to; it was not copied, only compared."""
    if HEAD in types:
        return {}
    embeddings = wanted[EMBEDDINGS]
    for name, found in read_tensors(path):
        if name != HEAD:
            continue
        rows = zip(found.split(COMPARED_ROWS), embeddings.split(COMPARED_ROWS), strict=False)
        if found.shape != embeddings.shape or not all(torch.equal(part.to(held), held) for part, held in rows):
            raise CheckpointError(
                f"{path}: {HEAD} differs from {EMBEDDINGS}, but the configuration ties them; set "
                "llm.tie_word_embeddings to false in config.json, or take the weights that belong to it"
            )
        return {HEAD: found.dtype}
    return {}


def write_weights(
    network: HarmonNetwork, autoencoder: AutoencoderKL, folder: Path, dtype: torch.dtype | None, stored: Types
) -> None:
    """Write `model.safetensors` with all published keys, the tied output matrix included unless the files that the
    model came from had none.

    Args:
        network: what is written.
        autoencoder: written under `vae.`.
        folder: where.
        dtype: see `reca.models.checkpoint.storage_types`.
        stored: what `read_weights` gave, or nothing.
    """
    state = network_state(network)
    if HEAD not in state and (HEAD in stored or not stored):
        state[HEAD] = network.llm.lm_head.weight.detach().clone()
    state |= {f"{VAE}{name}": value for name, value in published_state(autoencoder).items()}
    write_tensors(state, folder / "model.safetensors", dtype, stored)


def network_state(network: HarmonNetwork) -> dict[str, Tensor]:
    """Weights by published name, of any shape and type, without a tied output matrix; memory is shared."""
    tied = network.config.llm.tie_word_embeddings
    return {name: value for name, value in network.state_dict().items() if name != HEAD or not tied}
