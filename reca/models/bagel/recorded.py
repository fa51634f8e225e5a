"""Configuration and resize cases of a folder of tensors recorded from the published BAGEL code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from reca.models.bagel.config import BagelConfig, ImageRule, LanguageSizes, VaeSizes, VisionSizes
from reca.models.errors import CheckpointError
from reca.models.settings import check_fixed, known_fields

_ALWAYS: dict[str, dict[str, Any]] = {
    "llm": {
        "hidden_act": "silu",
        "qk_norm": True,
        "layer_module": "Qwen2MoTDecoderLayer",
        "tie_word_embeddings": False,
        "rope_scaling": None,
    },
    "vit": {"num_channels": 3, "hidden_act": "gelu_pytorch_tanh", "rope": False},
    "bagel": {"connector_act": "gelu_pytorch_tanh", "interpolate_pos": False},
    "vae": {"in_channels": 3, "out_ch": 3},
}
"""What no released BAGEL varies and this implementation does not offer."""


def recorded_config(settings: Mapping[str, Any], folder: Path) -> BagelConfig:
    """The configuration that a reference folder's `config.json` describes. What concerns no recorded number is set so
    that it fits the sizes.

    Raises:
        CheckpointError: naming a setting that this implementation does not offer.
    """
    for part, wanted in _ALWAYS.items():
        check_fixed(settings[part], wanted, folder / "config.json", part)
    llm, vit, vae, bagel = (settings[name] for name in ("llm", "vit", "vae", "bagel"))
    sizes = VaeSizes(
        channels=vae["ch"],
        multipliers=tuple(vae["ch_mult"]),
        blocks=vae["num_res_blocks"],
        latent_channels=vae["z_channels"],
        scale=vae["scale_factor"],
        shift=vae["shift_factor"],
    )
    token, patch = sizes.factor * bagel["latent_patch_size"], vit["patch_size"]
    drawn, seen = ImageRule(token, token, token), ImageRule(patch, patch, patch)
    return BagelConfig(
        image_size=token,
        latent_patch_size=bagel["latent_patch_size"],
        max_latent_size=bagel["max_latent_size"],
        max_seen_size=bagel["vit_max_num_patch_per_side"],
        condition=seen,
        seen=seen,
        drawn=drawn,
        language=LanguageSizes(**known_fields(llm, LanguageSizes)),
        vision=VisionSizes(**known_fields(vit, VisionSizes)),
        vae=sizes,
    )


def resize_cases(path: Path) -> list[dict[str, Any]]:
    """Cases of the published resize: sizes and limits that went in (pixels), and the size that came out.

    Raises:
        CheckpointError: the file is missing or no list of JSON objects.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: file is missing; copy it from where the folder came from") from error
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: no list of JSON objects: {error}") from error
