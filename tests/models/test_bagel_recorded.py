"""What is read from a reference folder's `config.json`."""

from pathlib import Path
from typing import Any

import pytest

from reca.models.bagel.recorded import recorded_config
from reca.models.errors import CheckpointError


def settings(**changes: Any) -> dict[str, dict[str, Any]]:
    """Settings of a folder; a change is named `part__name`."""
    parts: dict[str, dict[str, Any]] = {
        "llm": {"vocab_size": 50, "hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 1},
        "vit": {"hidden_size": 12, "num_attention_heads": 3, "image_size": 40, "patch_size": 8},
        "bagel": {"latent_patch_size": 3, "max_latent_size": 7, "vit_max_num_patch_per_side": 4},
        "vae": {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 2, "z_channels": 5},
    }
    parts["vae"] |= {"scale_factor": 0.5, "shift_factor": -0.25}
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        parts[part][inner] = value
    return parts


def test_sizes_are_read_from_the_folder() -> None:
    config = recorded_config(settings(), Path("case"))
    assert (config.language.head_dim, config.language.num_key_value_heads) == (4, 1)
    assert (config.token_pixels, config.token_values, config.max_latent_size) == (6, 45, 7)
    assert (config.vision.side, config.seen_side) == (5, 4)
    assert (config.vae.scale, config.vae.shift) == (0.5, -0.25)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("llm__tie_word_embeddings", True),
        ("llm__layer_module", "Qwen2DecoderLayer"),
        ("vit__rope", True),
        ("bagel__interpolate_pos", True),
    ],
)
def test_settings_that_are_not_implemented_are_refused_by_name(change: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=change.replace("__", r"\.")):
        recorded_config(settings(**{change: value}), Path("case"))
