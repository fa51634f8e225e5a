"""Sizes and settings of a Janus-Pro model, read from and written to the files of the published hub layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

from reca.models.errors import CheckpointError
from reca.models.settings import converted, known_fields, read_json, write_json

CONFIG = "config.json"
PROCESSOR = "processor_config.json"
PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Processing:
    """What the published processor adds to the model, from `processor_config.json`.

    Attributes:
        image_mean: mean of each channel that the understanding encoder expects, for pixels in [0, 1].
        image_std: standard deviation of each channel, for pixels in [0, 1].
        system_prompt: put the published system prompt before a question (never before a caption).
    """

    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    system_prompt: bool = True


def janus_pro_1b() -> JanusConfig:
    """Janus-Pro-1B: the sizes of `deepseek-community/Janus-Pro-1B`, 2,076,636,811 parameters.

    Published as 2.09 billion: the original files also hold SigLIP's pooling head (12.6 million), which neither the
    model nor transformers' layout uses.
    """
    return _published(hidden_size=2048, intermediate_size=5632, layers=24, heads=16)


def janus_pro_7b() -> JanusConfig:
    """Janus-Pro-7B: the sizes of `deepseek-community/Janus-Pro-7B`, 7,407,773,323 parameters (published as 7.42
    billion with the unused pooling head). Its language model is that of DeepSeek-LLM-7B, 6,910,365,696 parameters.
    """
    return _published(hidden_size=4096, intermediate_size=11008, layers=30, heads=32)


@dataclass(frozen=True)
class Sizes:
    """What the rest of the room needs of a configuration.

    Attributes:
        image: side of the square image in pixels.
        features: C, understanding features of one image.
        codes: N, codes of one image.
        codebook: K, possible codes.
        vocabulary: text ids.
        context: longest sequence.
        image_token: id of the place of an understanding feature.
    """

    image: int
    features: int
    codes: int
    codebook: int
    vocabulary: int
    context: int
    image_token: int


def sizes_of(config: JanusConfig, source: str) -> Sizes:
    """Sizes of a configuration whose parts fit together.

    Args:
        config: configuration.
        source: where it comes from, for the message.

    Raises:
        CheckpointError: naming the field, what was found and what is needed.
    """
    parts: list[Any] = [config.text_config, config.vision_config, config.vq_config]
    text, vision, vq = parts
    if not isinstance(vision.image_size, int) or not isinstance(vision.patch_size, int):
        raise CheckpointError(f"{source}: vision_config.image_size and patch_size must be whole numbers of pixels")
    side = vision.image_size // vision.patch_size
    needed: dict[str, tuple[int, int]] = {
        "vision_config.image_size": (vision.image_size, max(side, 1) * vision.patch_size),
        "vision_config.num_image_tokens": (vision.num_image_tokens, side**2),
        "vision_config.projection_dim": (vision.projection_dim, text.hidden_size),
        "vq_config.projection_dim": (vq.projection_dim, text.hidden_size),
        "vq_config.image_token_embed_dim": (vq.image_token_embed_dim, text.hidden_size),
        "vision_config.patch_size": (vision.patch_size, 2 ** (len(vq.channel_multiplier) - 1)),
    }
    for field, (found, expected) in needed.items():
        if found != expected:
            raise CheckpointError(f"{source}: {field} is {found}, the other sizes need {expected}")
    held = vision.num_image_tokens + vq.num_patches**2
    if text.max_position_embeddings <= held:
        raise CheckpointError(
            f"{source}: text_config.max_position_embeddings is {text.max_position_embeddings}, but a picture of "
            f"{vision.image_size} pixels and its reconstruction take {held} positions and their prompt"
        )
    if not 0 <= config.image_token_id < text.vocab_size:
        raise CheckpointError(
            f"{source}: image_token_id is {config.image_token_id}, but the vocabulary has {text.vocab_size} ids"
        )
    return Sizes(
        image=vision.image_size,
        features=vision.num_image_tokens,
        codes=vq.num_patches**2,
        codebook=vq.num_embeddings,
        vocabulary=text.vocab_size,
        context=text.max_position_embeddings,
        image_token=config.image_token_id,
    )


def read_config(folder: Path) -> JanusConfig:
    """Read `config.json` in transformers' layout.

    Raises:
        CheckpointError: it is missing, no JSON, of another model, or its sizes do not fit together.
    """
    path = folder / CONFIG
    values = read_json(path)
    kind = values.get("model_type")
    if kind != "janus":
        raise CheckpointError(f'{path}: no Janus configuration: model_type is {kind!r}, expected "janus"')
    return config_of(values, str(path))


def config_of(values: Mapping[str, Any], source: str) -> JanusConfig:
    """The configuration of fields as transformers names them. `source` is what they are from.

    Raises:
        CheckpointError: naming `source`, when a field has the wrong type, or the sizes do not fit together.
    """
    try:
        config = JanusConfig.from_dict(dict(values))
    except Exception as error:  # transformers raises bare exceptions of several libraries on fields of a wrong type
        raise CheckpointError(f"{source}: {error}") from error
    sizes_of(config, source)
    return config


def read_processing(folder: Path) -> Processing:
    """Read `processor_config.json`, and `preprocessor_config.json` where the image settings are in a file of their own.

    What they do not say has the released value.

    Raises:
        CheckpointError: no JSON, or a field of the wrong type.
    """
    found: dict[str, Any] = {}
    if (folder / PREPROCESSOR).is_file():
        found.update(read_json(folder / PREPROCESSOR))
    if (folder / PROCESSOR).is_file():
        processor = read_json(folder / PROCESSOR)
        images = processor.get("image_processor") or {}
        if not isinstance(images, dict):
            raise CheckpointError(f"{folder / PROCESSOR}: image_processor is {images!r}, expected an object")
        found.update(images)
        if "use_default_system_prompt" in processor:
            found["system_prompt"] = processor["use_default_system_prompt"]
    return converted(known_fields(found, Processing), Processing, folder / PROCESSOR)


def write_processing(processing: Processing, sizes: Sizes, folder: Path) -> None:
    """Write `processor_config.json` as transformers' `JanusProcessor` reads it.

    Args:
        processing: pixel statistics and system prompt.
        sizes: number of features and side of the image.
        folder: where.
    """
    values: Mapping[str, Any] = {
        "processor_class": "JanusProcessor",
        "num_image_tokens": sizes.features,
        "use_default_system_prompt": processing.system_prompt,
        "image_processor": {
            "image_processor_type": "JanusImageProcessor",
            "image_mean": processing.image_mean,
            "image_std": processing.image_std,
            "size": {"height": sizes.image, "width": sizes.image},
        },
    }
    write_json(values, folder / PROCESSOR, indent=2)


def _published(hidden_size: int, intermediate_size: int, layers: int, heads: int) -> JanusConfig:
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=102_400,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=16_384,
            bos_token_id=100_000,
            eos_token_id=100_001,
            pad_token_id=100_015,
        ),
        vision_config=JanusVisionConfig(projection_dim=hidden_size),
        vq_config=JanusVQVAEConfig(projection_dim=hidden_size, image_token_embed_dim=hidden_size),
        image_token_id=100_581,
        tie_word_embeddings=False,
    )
