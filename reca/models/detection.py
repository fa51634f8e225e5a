"""Which family a checkpoint folder belongs to, by the files and fields that only its published layout has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from reca.models import FAMILIES
from reca.models.errors import CheckpointError

MODEL_TYPES = {"harmon": "harmon", "janus": "janus", "multi_modality": "janus", "bagel": "bagel"}
"""Field `model_type` of a published `config.json` -> family. `multi_modality` is DeepSeek's own layout of Janus."""

LAYOUTS = {
    "showo": ("magvitv2/config.json", "clip/config.json"),
    "openuni": ("lmm/config.json", "transformer/config.json"),
    "bagel": ("llm_config.json", "vit_config.json"),
}
"""Files that only this family's folders have together."""


def detect_family(folder: Path) -> str | None:
    """Family of a checkpoint folder, or None where nothing tells it."""
    main = _fields(folder / "config.json")
    if main.get("family") in FAMILIES:
        return str(main["family"])
    if main.get("model_type") in MODEL_TYPES:
        return MODEL_TYPES[str(main["model_type"])]
    if "num_vq_tokens" in main:
        return "showo"
    return next((name for name, files in LAYOUTS.items() if all((folder / file).is_file() for file in files)), None)


def refuse_other_family(folder: Path, expected: str) -> None:
    """Check that a folder is there and is not a checkpoint of another family.

    Raises:
        CheckpointError: naming both families.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give the folder that holds the checkpoint's files")
    found = detect_family(folder)
    if found not in (None, expected):
        raise CheckpointError(
            f"{folder}: this is a checkpoint of family {found!r}, expected {expected!r}; set model.family={found} or "
            f"give a checkpoint of {expected!r}"
        )


def _fields(path: Path) -> Mapping[str, Any]:
    """Fields of a JSON object; none where there is none, which the family's own reader reports."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}
