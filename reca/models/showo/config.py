"""Sizes and settings of a Show-o model, and how they are stored beside a checkpoint. Needs no torch at import time."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from reca.models.errors import CheckpointError
from reca.models.settings import converted, known_fields, read_json, write_json

VICUNA_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""System prompt of the released understanding data; 28 tokens of the Phi-1.5 tokenizer."""


@dataclass(frozen=True)
class PhiSizes:
    """Sizes of the language model; the defaults are those of Phi-1.5.

    Attributes:
        hidden_size: width of the residual stream.
        intermediate_size: width of the MLP.
        layers: number of blocks.
        heads: attention heads; query/key layer norm works on `hidden_size / heads` values.
        kv_heads: key/value heads.
        max_positions: longest sequence.
        rotary_share: share of each head that is rotated.
        rope_theta: rotary base.
        norm_eps: epsilon of every layer norm.
        activation: transformers' name of the MLP activation.
    """

    hidden_size: int = 2048
    intermediate_size: int = 8192
    layers: int = 24
    heads: int = 32
    kv_heads: int = 32
    max_positions: int = 2048
    rotary_share: float = 0.5
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    activation: str = "gelu_new"


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of the CLIP vision tower, named as in transformers; the defaults are openai/clip-vit-large-patch14-336.

    Attributes:
        hidden_size: width, and the width of the understanding features.
        intermediate_size: width of the MLP.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads.
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        projection_dim: width of CLIP's shared space (unused here, part of the published configuration).
        hidden_act: transformers' name of the MLP activation.
        layer_norm_eps: epsilon of every layer norm.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 336
    patch_size: int = 14
    projection_dim: int = 768
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class MagvitConfig:
    """Sizes of the tokenizer; the defaults are the published ones (factor 16, 8192 codes).

    Attributes:
        channels: channels of the finest level.
        encoder_multipliers: channels of each encoder level, finest first, in units of `channels`.
        decoder_multipliers: the same for the decoder, finest first too.
        encoder_blocks: residual blocks of each encoder level.
        decoder_blocks: residual blocks of each decoder level.
        code_bits: latent channels; there are 2**code_bits codes.
        norm_groups: groups of every group norm; divides all channel numbers.
        norm_eps: epsilon of every group norm.
    """

    channels: int = 128
    encoder_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    decoder_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    code_bits: int = 13
    norm_groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        levels = {
            len(self.encoder_multipliers),
            len(self.decoder_multipliers),
            len(self.encoder_blocks),
            len(self.decoder_blocks),
        }
        if len(levels) != 1:
            raise ValueError(f"MagvitConfig: multipliers and blocks disagree on the number of levels: {sorted(levels)}")
        for multiplier in (1, *self.encoder_multipliers, *self.decoder_multipliers):
            if self.channels * multiplier % self.norm_groups:
                raise ValueError(
                    f"MagvitConfig: {self.channels * multiplier} channels are not divisible by "
                    f"norm_groups={self.norm_groups}; lower norm_groups"
                )

    @property
    def factor(self) -> int:
        """Pixels per code along one side."""
        return 2 ** (len(self.encoder_multipliers) - 1)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return 2**self.code_bits


@dataclass(frozen=True)
class Vocabulary:
    """Layout of the vocabulary: text, ten special ids, image codes, mask id last.

    Attributes:
        text_size: text ids, the tokenizer's own added tokens included.
        codes: image codes.
        end_of_text: id used as beginning and as end of every text.
    """

    text_size: int
    codes: int
    end_of_text: int

    @property
    def pad(self) -> int:
        """`[PAD]`."""
        return self.text_size

    @property
    def soi(self) -> int:
        """`<|soi|>`, start of image."""
        return self.text_size + 1

    @property
    def eoi(self) -> int:
        """`<|eoi|>`, end of image."""
        return self.text_size + 2

    @property
    def t2i(self) -> int:
        """`<|t2i|>`, the text-to-image task."""
        return self.text_size + 5

    @property
    def mmu(self) -> int:
        """`<|mmu|>`, the understanding task; reconstruction starts with it too."""
        return self.text_size + 6

    @property
    def image_offset(self) -> int:
        """Id of image code 0."""
        return self.text_size + 10

    @property
    def mask(self) -> int:
        """Id of a masked image position; the last of the vocabulary."""
        return self.image_offset + self.codes

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.mask + 1


@dataclass(frozen=True)
class ShowoConfig:
    """A whole Show-o model; the defaults are the released 256-pixel CLIP variant.

    Attributes:
        text_size: text ids of the tokenizer.
        end_of_text: id used as beginning and as end of every text.
        image_size: side in pixels of the images drawn.
        max_text: M; a caption with its three marks fills a block of M + 1 ids.
        prefix_length: P; template prompt of a reconstruction with its five marks, padded to P ids.
        system_prompt: text before the picture in understanding; may be empty.
        condition: what a reconstruction sees: `clip` features (published main variant) or `vq`, the codes of the
            image at half size (published appendix).
        condition_gradient: let the reconstruction loss train projector and embeddings through its inputs. The release
            builds these inputs without gradient.
        clip_layer: which of CLIP's hidden states are the features; -2 is the one before the last block.
        clip_normalize_understanding: use CLIP's mean and standard deviation in the understanding branch, as the release
            does (which feeds CLIP the plain [-1, 1] image in the reconstruction branch).
        caption_dropout: probability that text-to-image loses its caption.
        min_masking_rate: least share of masked positions.
        projector_hidden: width of the projector's hidden layer.
        phi: language model.
        clip: vision tower, stored as `clip/config.json`.
        magvit: image tokenizer, stored as `magvitv2/config.json`.
    """

    text_size: int = 50295
    end_of_text: int = 50256
    image_size: int = 256
    max_text: int = 128
    prefix_length: int = 128
    system_prompt: str = VICUNA_PROMPT
    condition: Literal["clip", "vq"] = "clip"
    condition_gradient: bool = False
    clip_layer: int = -2
    clip_normalize_understanding: bool = True
    caption_dropout: float = 0.1
    min_masking_rate: float = 0.0
    projector_hidden: int = 2048
    phi: PhiSizes = field(default_factory=PhiSizes)
    clip: ClipSizes = field(default_factory=ClipSizes)
    magvit: MagvitConfig = field(default_factory=MagvitConfig)

    def __post_init__(self) -> None:
        if self.image_size % self.magvit.factor:
            raise ValueError(
                f"ShowoConfig.image_size={self.image_size} is no multiple of the tokenizer factor {self.magvit.factor}"
            )
        if self.drawing_positions > self.phi.max_positions:
            raise ValueError(
                f"ShowoConfig.image_size={self.image_size} takes {self.drawing_positions} positions "
                f"({self.image_tokens} codes, what they are drawn from, and marks), but phi.max_positions="
                f"{self.phi.max_positions}"
            )

    @property
    def vocabulary(self) -> Vocabulary:
        """Layout of the vocabulary."""
        return Vocabulary(self.text_size, self.magvit.codebook_size, self.end_of_text)

    @property
    def image_tokens(self) -> int:
        """N: codes of one image."""
        return (self.image_size // self.magvit.factor) ** 2

    @property
    def drawing_positions(self) -> int:
        """Length of the longest sequence that ends with a picture to draw."""
        if self.condition == "vq":
            before = self.max_text + 3 + (self.image_size // 2 // self.magvit.factor) ** 2
        else:
            before = self.prefix_length + (self.clip.image_size // self.clip.patch_size) ** 2
        return max(before, self.max_text + 1) + self.image_tokens + 2


SHOWO_256 = ShowoConfig()
"""showlab/show-o-w-clip-vit: 256 pixels, 256 codes."""

SHOWO_512 = ShowoConfig(image_size=512)
"""showlab/show-o-w-clip-vit-512x512: 512 pixels, 1024 codes, the same parameter shapes."""


def write_config(config: ShowoConfig, folder: Path) -> None:
    """Write `config.json`, `clip/config.json` and `magvitv2/config.json` under `folder`."""
    main = {name: value for name, value in msgspec.to_builtins(config).items() if name not in ("clip", "magvit")}
    parts = {
        "": {"family": "showo", **main},
        "clip": {"model_type": "clip_vision_model", **msgspec.to_builtins(config.clip)},
        "magvitv2": msgspec.to_builtins(config.magvit),
    }
    for name, values in parts.items():
        write_json(values, folder / name / "config.json")


def read_config(folder: Path) -> ShowoConfig:
    """Read the three files that `write_config` writes, or the ones of a published checkpoint.

    A published `config.json` names only vocabulary and number of image codes, and a published tokenizer names nothing;
    what they leave out has the released value.

    Raises:
        CheckpointError: a file is missing, is no JSON, or holds a field that is unknown or of the wrong type.
    """
    path = folder / "config.json"
    main = read_json(path)
    magvit = read_json(folder / "magvitv2" / "config.json")
    clip = read_json(folder / "clip" / "config.json")
    known = {"clip": known_fields(clip.get("vision_config", clip), ClipSizes)}
    known["magvit"] = {} if "_class_name" in magvit else magvit
    if "num_vq_tokens" in main:
        main = _published(main, path)
    elif main.pop("family", None) != "showo":
        raise CheckpointError(f'{path}: no Show-o configuration (its "family" is not "showo")')
    unknown = sorted(set(main) - set(ShowoConfig.__dataclass_fields__)) + sorted(
        set(known["magvit"]) - set(MagvitConfig.__dataclass_fields__)
    )
    if unknown:
        raise CheckpointError(f"{folder}: unknown fields in config.json or magvitv2/config.json: {', '.join(unknown)}")
    return converted({**main, **known}, ShowoConfig, path)


def _published(main: dict[str, Any], path: Path) -> dict[str, Any]:
    if not main.get("w_clip_vit", False):
        raise CheckpointError(f"{path}: w_clip_vit is not true; only the CLIP variants of Show-o have a projector")
    tokens = main["num_vq_tokens"]
    if not isinstance(tokens, int) or tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
        raise CheckpointError(f"{path}: num_vq_tokens is {tokens!r}, expected the square of a whole number")
    if "llm_vocab_size" not in main:
        raise CheckpointError(f"{path}: llm_vocab_size is missing; use the config.json of the released checkpoint")
    return {"text_size": main["llm_vocab_size"], "image_size": math.isqrt(tokens) * MagvitConfig().factor}
