"""DeepSeek's own layout of Janus-Pro (`model_type` `multi_modality`, `deepseek-ai/Janus-Pro-1B`): sizes and names.

Names follow transformers' `convert_janus_weights_to_hf.py`, and for the image tokenizer the authors' `vq_model.py`;
sizes follow their `modeling_vlm.py`. A checkpoint that came in this layout goes out in it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import torch
from torch import Tensor
from transformers import JanusConfig

from reca.models.checkpoint import Target, find_weights, read_tensors
from reca.models.errors import CheckpointError
from reca.models.janus.config import CONFIG, PREPROCESSOR, PROCESSOR, config_of
from reca.models.janus.tokenizer import Marks
from reca.models.settings import read_json

KIND = "multi_modality"

UNUSED = ("vision_model.vision_tower.attn_pool.", "gen_vision_model.quantize.codebook_used")
"""SigLIP's pooling head and a training statistic of the codebook: stored, but no part of the model. They are kept as
they are, and written again."""

RULES = (
    (r"^model\.vision_model\.embeddings\.patch_embedding\.", "vision_model.vision_tower.patch_embed.proj."),
    (r"^model\.vision_model\.embeddings\.position_embedding\.weight$", "vision_model.vision_tower.pos_embed"),
    (r"^model\.vision_model\.post_layernorm\.", "vision_model.vision_tower.norm."),
    (r"^model\.vision_model\.encoder\.layers\.", "vision_model.vision_tower.blocks."),
    (r"^(vision_model\..*)\.layer_norm([12])\.", r"\1.norm\2."),
    (r"^(vision_model\..*)\.self_attn\.projection_layer\.", r"\1.attn.proj."),
    (r"^(vision_model\..*)\.self_attn\.[qkv]_proj\.", r"\1.attn.qkv."),
    (r"^model\.vqmodel\.", "gen_vision_model."),
    (r"^(gen_vision_model\.encoder)\.down\.", r"\1.conv_blocks."),
    (r"^(gen_vision_model\.decoder)\.up\.", r"\1.conv_blocks."),
    (r"\.conv_blocks\.(\d+)\.block\.", r".conv_blocks.\1.res."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
    (r"^model\.aligner\.", "aligner."),
    (r"^model\.generation_aligner\.", "gen_aligner."),
    (r"^model\.generation_embeddings\.", "gen_embed."),
    (r"^model\.generation_head\.proj_out\.", "gen_head.output_mlp_projector."),
    (r"^model\.generation_head\.", "gen_head."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
"""transformers' names to DeepSeek's, one after another. Levels of the decoder have the same order in both."""

Params = TypeVar("Params")


@dataclass(frozen=True)
class Section(Generic[Params]):
    """One part of DeepSeek's `config.json`: the name of a class of theirs, and what it is given."""

    cls: str
    params: Params


@dataclass(frozen=True)
class Tower:
    """SigLIP. Defaults are those of `siglip_large_patch16_384`, which published files only name; other sizes can be
    given under the names that the authors' `siglip_vit.py` has for them.
    """

    model_name: str
    image_size: int
    select_feature: str = "same"
    select_layer: int = -1
    width: int = 1024
    layers: int = 24
    heads: int = 16
    patch_size: int = 16
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class Codes:
    """The image tokenizer. Defaults are those of `VQ-16`, under the names of `Encoder` in `vq_model.py`."""

    image_token_size: int
    n_embed: int
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256


@dataclass(frozen=True)
class Projector:
    """An aligner."""

    input_dim: int
    n_embed: int
    depth: int
    projector_type: str


@dataclass(frozen=True)
class Head:
    """The generation head."""

    image_token_embed: int
    image_token_size: int
    n_embed: int


@dataclass(frozen=True)
class Sections:
    """DeepSeek's `config.json`, as far as it says what to build."""

    vision_config: Section[Tower]
    aligner_config: Section[Projector]
    gen_vision_config: Section[Codes]
    gen_aligner_config: Section[Projector]
    gen_head_config: Section[Head]
    language_config: dict[str, Any]


@dataclass(frozen=True)
class Original:
    """What a checkpoint in DeepSeek's layout holds beside the model.

    Attributes:
        files: content of its small files, by name.
        unused: tensors that no part of the model is made of (`UNUSED`), by name, in their own types.
    """

    files: Mapping[str, bytes]
    unused: Mapping[str, Tensor]


def read_original(folder: Path) -> Original | None:
    """What belongs to the layout, `unused` still to be filled; None for a folder in transformers' layout.

    Raises:
        CheckpointError: `config.json` is missing or no JSON, or the weights are broken.
    """
    if read_json(folder / CONFIG).get("model_type") != KIND:
        return None
    small = (folder / name for name in (CONFIG, PROCESSOR, PREPROCESSOR))
    stored = read_tensors(find_weights(folder))
    return Original(
        files={path.name: path.read_bytes() for path in small if path.is_file()},
        unused={name: torch.empty_like(value) for name, value in stored if name.startswith(UNUSED)},
    )


def original_config(folder: Path, marks: Marks) -> JanusConfig:
    """Sizes that a `config.json` in DeepSeek's layout implies.

    Args:
        folder: the checkpoint.
        marks: of its tokenizer; this layout has no ids in its configuration.

    Raises:
        CheckpointError: naming the field, when one is missing, of the wrong type, or asks for what is not built here.
    """
    path = folder / CONFIG
    try:
        parts = msgspec.convert(read_json(path), Sections)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: {error}; only Janus-Pro is read in this layout") from error
    _check(parts, path)
    tower, codes = parts.vision_config.params, parts.gen_vision_config.params
    side = tower.image_size // max(tower.patch_size, 1)
    language = {name: value for name, value in parts.language_config.items() if not name.startswith("_")}
    ends = {"bos_token_id": marks.start, "eos_token_id": marks.end, "pad_token_id": marks.pad}
    values = {
        "text_config": {**language, "model_type": "llama", **ends},
        "vision_config": {
            "hidden_size": tower.width,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "image_size": tower.image_size,
            "patch_size": tower.patch_size,
            "mlp_ratio": tower.mlp_ratio,
            "num_image_tokens": side**2,
            "projection_dim": parts.aligner_config.params.n_embed,
            "depth": parts.aligner_config.params.depth,
        },
        "vq_config": {
            "embed_dim": codes.n_embed,
            "num_embeddings": codes.image_token_size,
            "latent_channels": codes.z_channels,
            "base_channels": codes.ch,
            "channel_multiplier": list(codes.ch_mult),
            "num_res_blocks": codes.num_res_blocks,
            "projection_dim": parts.gen_aligner_config.params.n_embed,
            "num_hidden_layers": parts.gen_aligner_config.params.depth,
            "image_token_embed_dim": parts.gen_head_config.params.image_token_embed,
        },
        "image_token_id": marks.image,
    }
    return config_of(values, str(path))


def original_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Target]:
    """Tensors of transformers' names, of any shape and type, by DeepSeek's. Memory is shared; query, key and value of
    SigLIP are stored joined, and its position table has a batch axis.
    """
    found: dict[str, Target] = {}
    for ours, value in tensors.items():
        name = original_name(ours)
        if name.endswith(".pos_embed"):
            found[name] = value[None]
        elif ".attn.qkv." in name:
            found.setdefault(name, tuple(tensors[re.sub("[qkv]_proj", f"{part}_proj", ours)] for part in "qkv"))
        else:
            found[name] = value
    return found


def original_name(name: str) -> str:
    """DeepSeek's name of one of transformers' names. Layer n of an aligner is module 2n of a sequence, activations
    being the odd ones.
    """
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    name = re.sub(r"^((?:gen_)?aligner)\.fc1\.", r"\1.layers.0.", name)
    return re.sub(
        r"^((?:gen_)?aligner)\.hidden_layers\.(\d+)\.",
        lambda match: f"{match[1]}.layers.{2 * int(match[2]) + 2}.",
        name,
    )


def _check(parts: Sections, path: Path) -> None:
    tower, codes, head = parts.vision_config.params, parts.gen_vision_config.params, parts.gen_head_config.params
    seen, drawn = parts.aligner_config.params, parts.gen_aligner_config.params
    expected: dict[str, tuple[object, object]] = {
        "vision_config.cls": (parts.vision_config.cls, "CLIPVisionTower"),
        "vision_config.params.model_name": (tower.model_name, "siglip_large_patch16_384"),
        "vision_config.params.select_feature": (tower.select_feature, "same"),
        "vision_config.params.select_layer": (tower.select_layer, -1),
        "aligner_config.cls": (parts.aligner_config.cls, "MlpProjector"),
        "aligner_config.params.projector_type": (seen.projector_type, "mlp_gelu"),
        "aligner_config.params.input_dim": (seen.input_dim, tower.width),
        "gen_vision_config.cls": (parts.gen_vision_config.cls, "VQ-16"),
        "gen_aligner_config.cls": (parts.gen_aligner_config.cls, "MlpProjector"),
        "gen_aligner_config.params.projector_type": (drawn.projector_type, "mlp_gelu"),
        "gen_aligner_config.params.input_dim": (drawn.input_dim, codes.n_embed),
        "gen_head_config.cls": (parts.gen_head_config.cls, "vision_head"),
        "gen_head_config.params.n_embed": (head.n_embed, drawn.n_embed),
        "gen_head_config.params.image_token_size": (head.image_token_size, codes.image_token_size),
    }
    for field, (found, needed) in expected.items():
        if found != needed:
            raise CheckpointError(
                f"{path}: {field} is {found!r}, but only {needed!r} is built here with the other fields"
            )
