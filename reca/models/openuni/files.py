"""OpenUni on disk: configurations and weights of the published parts.

A folder holds OpenUni's own file (a released `.pth`, or safetensors), `config.json`, and the parts it stands on, each
as downloaded: `lmm/` (InternVL3, with its tokenizer), `transformer/` and `scheduler/` (of a Sana pipeline), `vae/`
(DC-AE). What OpenUni's file does not hold of `lmm.*`, `transformer.*` and `vae.*` is read from the folder of that name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from reca.models.checkpoint import Target, find_weights, find_weights_or_pth, load_strict, stored_names
from reca.models.errors import CheckpointError
from reca.models.openuni.config import (
    AutoencoderSizes,
    FlowSettings,
    LanguageSizes,
    OpenUniConfig,
    SanaSizes,
    VisionSizes,
)
from reca.models.settings import (
    Kind,
    check_fixed,
    converted,
    known_fields,
    read_json,
    with_rope_theta,
    write_json,
)

Json = dict[str, Any]

PARTS = ("lmm", "transformer", "vae")
"""Prefixes of keys that a base model's folder of the same name can fill in."""

INNER = {"language": "lmm", "vision": "lmm", "sana": "transformer", "vae": "vae", "flow": "scheduler"}
"""Fields of the configuration that are stored with a part, and its folder."""

LMM = {"model_type": "internvl_chat", "ps_version": "v2", "select_layer": -1}
LANGUAGE = {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False, "tie_word_embeddings": False}
VISION = {"norm_type": "layer_norm", "qk_normalization": False}
SANA = {
    "_class_name": "SanaTransformer2DModel",
    "dropout": 0.0,
    "guidance_embeds": False,
    "timestep_scale": 1.0,
}
VAE = {"_class_name": "AutoencoderDC", "in_channels": 3}
FLOW = {
    "_class_name": "DPMSolverMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "thresholding": False,
    "variance_type": None,
}
"""What the files of the parts must say where they say anything: other values are not built here."""


def write_config(config: OpenUniConfig, folder: Path) -> None:
    """Write `config.json` and the configuration file of every part under `folder`."""
    values = msgspec.to_builtins(config)
    main = {name: value for name, value in values.items() if name not in {*INNER, "merge"}}
    lmm = {
        **LMM,
        "downsample_ratio": 1 / config.merge,
        "llm_config": {**LANGUAGE, **values["language"]},
        "vision_config": {**VISION, **values["vision"]},
    }
    parts = {
        "config.json": {"family": "openuni", **main},
        "lmm/config.json": lmm,
        "transformer/config.json": {**SANA, **values["sana"]},
        "vae/config.json": {**VAE, **values["vae"]},
        "scheduler/scheduler_config.json": {**FLOW, **values["flow"]},
    }
    for name, content in parts.items():
        write_json(content, folder / name)


def read_config(folder: Path) -> OpenUniConfig:
    """Read what `write_config` writes, or published configurations of the parts beside a `config.json` of OpenUni's own
    sizes (`{"family": "openuni"}` for OpenUni-B-512).

    Raises:
        CheckpointError: a file is missing, is no JSON, holds an unknown field or a wrong type, or describes a model
            that is not built here.
    """
    main = read_json(folder / "config.json")
    if main.pop("family", None) != "openuni":
        raise CheckpointError(f'{folder / "config.json"}: no OpenUni configuration (its "family" is not "openuni")')
    lmm_path = folder / "lmm" / "config.json"
    lmm = read_json(lmm_path)
    check_fixed(lmm, LMM, lmm_path)
    known: Json = {
        "merge": _merge(lmm.get("downsample_ratio", 0.5), lmm_path),
        "language": _language(_section(lmm, "llm_config", lmm_path), lmm_path),
        "vision": _sizes(VisionSizes, _section(lmm, "vision_config", lmm_path), VISION, lmm_path),
        "sana": _read(SanaSizes, folder / "transformer" / "config.json", SANA),
        "vae": _read(AutoencoderSizes, folder / "vae" / "config.json", VAE),
        "flow": _read(FlowSettings, folder / "scheduler" / "scheduler_config.json", FLOW),
    }
    unknown = sorted(set(main) - (set(OpenUniConfig.__dataclass_fields__) - set(known)))
    if unknown:
        raise CheckpointError(f"{folder / 'config.json'}: unknown fields {', '.join(unknown)}")
    return converted({**main, **known}, OpenUniConfig, folder / "config.json")


def load_weights(state: Mapping[str, Target], folder: Path) -> dict[str, torch.dtype]:
    """Fill a published state from OpenUni's file and, for what it does not hold, from the parts' folders.

    Returns:
        Types in the files, by published name.

    Raises:
        CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite.
    """
    path = find_weights_or_pth(folder)
    held = stored_names(path)
    types = load_strict({name: value for name, value in state.items() if name in held}, path)
    own = [name for name in state if name not in held and not name.startswith(tuple(f"{part}." for part in PARTS))]
    if own:
        raise CheckpointError(f"{path}: {own[0]}: missing ({len(own)} keys in all) and no base model has it")
    for part in PARTS:
        prefix = f"{part}."
        missing = {name: value for name, value in state.items() if name.startswith(prefix) and name not in held}
        if missing:
            source = _find_base(folder / part, path, missing)
            types |= load_strict(
                missing, source, lambda name, prefix=prefix: None if prefix + name in held else prefix + name
            )
    return types


def _find_base(folder: Path, main: Path, missing: Mapping[str, Target]) -> Path:
    try:
        return find_weights(folder)
    except CheckpointError as error:
        name = next(iter(missing))
        raise CheckpointError(
            f"{main}: {name}: missing ({len(missing)} keys in all), and {folder} has no weights to fill it from; put "
            "the base model's files there"
        ) from error


def _language(values: Json, path: Path) -> LanguageSizes:
    # "dynamic" scaling changes nothing before max_position_embeddings, which no prompt here reaches.
    values = with_rope_theta(values, path)
    scaling = values.get("rope_scaling") or values.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "dynamic"):
        raise CheckpointError(f"{path}: llm_config.rope_scaling is {kind!r}; only default and dynamic are built here")
    return _sizes(LanguageSizes, values, LANGUAGE, path)


def _section(values: Json, name: str, path: Path) -> Json:
    found = values.get(name, {})
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: {name} is {found!r}, expected an object; copy the file from InternVL3's release"
        )
    return found


def _merge(ratio: object, path: Path) -> int:
    """Patches merged along one side, of the share of positions that is left."""
    if not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise CheckpointError(f"{path}: downsample_ratio is {ratio!r}, expected a number above 0 and up to 1")
    return round(1 / ratio)


def _read(kind: type[Kind], path: Path, fixed: Json) -> Kind:
    return _sizes(kind, read_json(path), fixed, path)


def _sizes(kind: type[Kind], values: Json, fixed: Json, path: Path) -> Kind:
    check_fixed(values, fixed, path)
    return converted(known_fields(values, kind), kind, path)
