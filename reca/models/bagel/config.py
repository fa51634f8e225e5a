"""Sizes and settings of a BAGEL model, and how they are stored beside a checkpoint. Needs no torch at import time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from reca.models.errors import CheckpointError
from reca.models.settings import check_fixed, converted, known_fields, read_json, with_rope_theta, write_json


@dataclass(frozen=True)
class LanguageSizes:
    """Sizes of both experts, named as in transformers' Qwen2 configuration; the defaults are Qwen2.5-7B.

    Attributes:
        vocab_size: rows of the embedding; may exceed the tokenizer's length.
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated SiLU MLP.
        num_hidden_layers: number of blocks.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads.
        rms_norm_eps: epsilon of every RMS norm.
        rope_theta: rotary base.
        max_position_embeddings: most tokens one sample may have.
    """

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_position_embeddings: int = 32768

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"LanguageSizes: hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads} and "
                f"num_key_value_heads={self.num_key_value_heads} must divide each other in this order"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of the SigLIP tower, named as in transformers; the defaults are so400m-14-980 as BAGEL uses it.

    Attributes:
        hidden_size: width, and the width of the understanding features.
        intermediate_size: width of the MLP.
        num_hidden_layers: blocks that exist. The published `vit_config.json` says one more: the last is never built.
        num_attention_heads: attention heads.
        image_size: side in pixels of the largest picture; (image_size / patch_size)^2 positions are learned.
        patch_size: side of a patch in pixels.
        layer_norm_eps: epsilon of every layer norm.
    """

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 26
    num_attention_heads: int = 16
    image_size: int = 980
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    @property
    def side(self) -> int:
        """Positions along one side of the position tables."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class VaeSizes:
    """Sizes of the variational autoencoder; the defaults are FLUX.1's.

    Attributes:
        channels: channels of the finest level.
        multipliers: channels of each level, finest first, in units of `channels`.
        blocks: residual blocks of each encoder level (a decoder level has one more).
        latent_channels: channels of a latent.
        norm_groups: groups of every group norm; divides all channel numbers.
        scale: latents are scale * (z - shift).
        shift: see `scale`.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent_channels: int = 16
    norm_groups: int = 32
    scale: float = 0.3611
    shift: float = 0.1159

    def __post_init__(self) -> None:
        for multiplier in (1, *self.multipliers):
            if self.channels * multiplier % self.norm_groups:
                raise ValueError(
                    f"VaeSizes: {self.channels * multiplier} channels are not divisible by "
                    f"norm_groups={self.norm_groups}; lower norm_groups"
                )

    @property
    def factor(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** (len(self.multipliers) - 1)


@dataclass(frozen=True)
class ImageRule:
    """How a picture is resized: aspect ratio kept, sides multiples of `stride`.

    Attributes:
        longest: pixels of the longest side at most.
        shortest: pixels of the shortest side at least, where `longest` allows.
        stride: both sides are multiples of it.
        most: area limit in pixels; the published value is 14 * 14 * 9 * 1024.
    """

    longest: int
    shortest: int
    stride: int
    most: int = 14 * 14 * 9 * 1024


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of the sampler.

    Attributes:
        text: scale against the context without text; 1 switches all guidance off.
        image: scale against the context without pictures; 1 switches it off.
        interval: guidance is on for times t with low < t <= high (t = 1 is noise).
        renorm: which norm may not grow: of the whole picture (`global`), of each token (`channel`), or of each token
            after the text step only (`text_channel`).
        renorm_min: least factor of the renormalisation, 0 to 1; 1 switches it off.
    """

    text: float = 4.0
    image: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    renorm: Literal["global", "channel", "text_channel"] = "global"
    renorm_min: float = 0.0


@dataclass(frozen=True)
class BagelConfig:
    """A whole BAGEL model; the defaults are the released 7B one, set up for RecA.

    Attributes:
        image_size: side in pixels of the square pictures that are encoded and drawn.
        latent_patch_size: side in latent pixels of one latent token.
        max_latent_size: side of the position table of latent tokens.
        max_seen_size: side of the position table of understanding tokens; None: as many as the tower has.
        timestep_shift: shift s of t = s u / (1 + (s - 1) u) in training. RecA: 1.
        sampling_shift: the same for the sampler's grid of times.
        text_dropout: probability that the text of a training sample is left out.
        freeze_understanding: train the generation side only and let no gradient pass through understanding tokens.
        checkpointing: compute activations again in the backward pass instead of keeping them.
        condition: size rule of the picture that RecA reconstructs from.
        seen: size rule of the understanding input of an edit.
        drawn: size rule of the picture of an edit, which is the size of the result.
        drawing: guidance of text-to-image and reconstruction; its `text` is set by each call.
        editing: guidance of edits; its `text` is set by each call.
        language: both experts, stored as `llm_config.json`.
        vision: SigLIP tower, stored as `vit_config.json`.
        vae: autoencoder.
    """

    image_size: int = 1024
    latent_patch_size: int = 2
    max_latent_size: int = 64
    max_seen_size: int | None = None
    timestep_shift: float = 1.0
    sampling_shift: float = 3.0
    text_dropout: float = 0.1
    freeze_understanding: bool = True
    checkpointing: bool = False
    condition: ImageRule = ImageRule(224, 224, 14)
    seen: ImageRule = ImageRule(980, 224, 14)
    drawn: ImageRule = ImageRule(1024, 512, 16)
    drawing: Guidance = Guidance()
    editing: Guidance = Guidance(image=2.0, renorm="text_channel")
    language: LanguageSizes = field(default_factory=LanguageSizes)
    vision: VisionSizes = field(default_factory=VisionSizes)
    vae: VaeSizes = field(default_factory=VaeSizes)

    def __post_init__(self) -> None:
        for name, size, unit in (
            ("image_size", self.image_size, self.token_pixels),
            ("drawn.stride", self.drawn.stride, self.token_pixels),
            ("condition.stride", self.condition.stride, self.vision.patch_size),
            ("seen.stride", self.seen.stride, self.vision.patch_size),
        ):
            if size % unit:
                raise ValueError(f"BagelConfig.{name}={size} is no multiple of the {unit} pixels of one token")
        for name, size, unit, side in (
            ("image_size", self.image_size, self.token_pixels, self.max_latent_size),
            ("drawn.longest", self.drawn.longest, self.token_pixels, self.max_latent_size),
            ("condition.longest", self.condition.longest, self.vision.patch_size, self.seen_side),
            ("seen.longest", self.seen.longest, self.vision.patch_size, self.seen_side),
        ):
            if size > unit * side:
                raise ValueError(
                    f"BagelConfig.{name}={size} is beyond the position table of {side} x {side} tokens of {unit} pixels"
                )

    @property
    def seen_side(self) -> int:
        """Positions along one side of the table of understanding tokens; the tower's own table is counted by it too
        (row * side + column), so it may be larger, and no smaller than its largest position.
        """
        return self.vision.side if self.max_seen_size is None else self.max_seen_size

    @property
    def token_pixels(self) -> int:
        """Pixels per latent token along one side."""
        return self.vae.factor * self.latent_patch_size

    @property
    def token_values(self) -> int:
        """Numbers in one latent token."""
        return self.vae.latent_channels * self.latent_patch_size**2


BAGEL_7B = BagelConfig(checkpointing=True)
"""ByteDance-Seed/BAGEL-7B-MoT, as RecA trains it."""

_PARTS = {"language": "llm_config.json", "vision": "vit_config.json"}

_BUILT: dict[str, dict[str, Any]] = {
    "language": {"hidden_act": "silu", "rope_scaling": None},
    "vision": {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3},
}
"""What these files must say where they say anything. What the released code sets by itself (tied embeddings, query/key
norms, rope in the tower) is not read.
"""


def write_config(config: BagelConfig, folder: Path) -> None:
    """Write `config.json` (ours: the official code does not read it), `llm_config.json` and `vit_config.json`."""
    values = msgspec.to_builtins(config)
    language, vision = values.pop("language"), values.pop("vision")
    files: dict[str, dict[str, Any]] = {
        "config.json": {"family": "bagel", **values},
        _PARTS["language"]: {"model_type": "qwen2", "hidden_act": "silu", "tie_word_embeddings": False, **language},
        _PARTS["vision"]: {
            "model_type": "siglip_vision_model",
            **vision,
            "num_hidden_layers": config.vision.num_hidden_layers + 1,
        },
    }
    for name, content in files.items():
        write_json(content, folder / name)


def read_config(folder: Path) -> BagelConfig:
    """Read the three files that `write_config` writes, or the ones of a published checkpoint.

    A published `config.json` says nothing about the model and may be absent; what the other two leave out has the
    released value.

    Raises:
        CheckpointError: a file is missing, is no JSON, or holds a field that is unknown or of the wrong type.
    """
    mend = (
        "a BAGEL checkpoint has llm_config.json, vit_config.json, ema.safetensors, ae.safetensors and a tokenizer; "
        "copy what is missing from the release"
    )
    language, vision = (read_json(folder / name, mend) for name in _PARTS.values())
    for part, values in (("language", language), ("vision", vision)):
        check_fixed(values, _BUILT[part], folder / _PARTS[part])
    language = with_rope_theta(language, folder / _PARTS["language"])
    check_fixed(language.get("rope_parameters") or {}, {"rope_type": "default"}, folder / _PARTS["language"])
    if isinstance(vision.get("num_hidden_layers"), int):
        vision["num_hidden_layers"] -= 1
    known = {"language": known_fields(language, LanguageSizes), "vision": known_fields(vision, VisionSizes)}
    path = folder / "config.json"
    main = read_json(path) if path.is_file() else {}
    family = main.pop("family", None)
    if family is None:
        main = {"checkpointing": BAGEL_7B.checkpointing}
    elif family != "bagel":
        raise CheckpointError(f'{path}: no BAGEL configuration (its "family" is {family!r}, not "bagel")')
    unknown = sorted(set(main) - set(BagelConfig.__dataclass_fields__))
    if unknown:
        raise CheckpointError(f"{path}: unknown fields: {', '.join(unknown)}")
    return converted({**main, **known}, BagelConfig, f"{folder}: config.json, llm_config.json or vit_config.json")
