"""Sizes and settings of a Harmon model, and how they are stored beside a checkpoint. Needs no torch at import time."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from reca.models.errors import CheckpointError
from reca.models.settings import known_fields, read_json, write_json


@dataclass(frozen=True)
class LlmSizes:
    """Sizes of the Qwen2 language model, named as in transformers; the defaults are Qwen2.5-0.5B-Instruct.

    Attributes:
        vocab_size: ids, the unused ones at the end included.
        hidden_size: width H of the residual stream.
        intermediate_size: width of the MLP.
        num_hidden_layers: number of blocks.
        num_attention_heads: query heads.
        num_key_value_heads: key/value heads.
        max_position_embeddings: longest sequence.
        rope_theta: rotary base.
        rms_norm_eps: epsilon of every RMS norm.
        hidden_act: transformers' name of the MLP activation.
        tie_word_embeddings: whether the output matrix is the input embeddings, as in both releases.
    """

    vocab_size: int = 151936
    hidden_size: int = 896
    intermediate_size: int = 4864
    num_hidden_layers: int = 24
    num_attention_heads: int = 14
    num_key_value_heads: int = 2
    max_position_embeddings: int = 32768
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = True


@dataclass(frozen=True)
class MarSizes:
    """Sizes and settings of the masked autoencoder, named as in the published constructor; defaults are "mar_base".

    Attributes:
        img_size: side in pixels of the images whose latents the position tables are made for (not of those drawn).
        vae_stride: pixels per latent along one side.
        patch_size: latents per token along one side; 1 in both releases.
        encoder_embed_dim: width De of the encoder.
        encoder_depth: encoder blocks.
        encoder_num_heads: encoder heads.
        decoder_embed_dim: width Dd of the decoder.
        decoder_depth: decoder blocks.
        decoder_num_heads: decoder heads.
        mlp_ratio: MLP width in units of the block's width.
        vae_embed_dim: C, latent channels.
        mask_ratio_min: lower end of the mask rate's truncated normal distribution.
        class_num: rows of the unused class table, kept for the checkpoint's sake.
        attn_dropout: dropout of attention weights in training.
        proj_dropout: dropout after the attention and in the MLP in training.
        buffer_size: tokens in front of the image tokens that are never masked.
        diffloss_d: residual blocks of the diffusion head.
        diffloss_w: width of the diffusion head.
        num_sampling_steps: denoising steps per token when drawing.
        diffusion_batch_mul: draws of noise level and noise per masked token in training.
        grad_checkpointing: recompute blocks of MAR, head and language model in the backward pass to save memory.
    """

    img_size: int = 256
    vae_stride: int = 16
    patch_size: int = 1
    encoder_embed_dim: int = 768
    encoder_depth: int = 12
    encoder_num_heads: int = 12
    decoder_embed_dim: int = 768
    decoder_depth: int = 12
    decoder_num_heads: int = 12
    mlp_ratio: float = 4.0
    vae_embed_dim: int = 16
    mask_ratio_min: float = 0.7
    class_num: int = 1000
    attn_dropout: float = 0.1
    proj_dropout: float = 0.1
    buffer_size: int = 64
    diffloss_d: int = 6
    diffloss_w: int = 1024
    num_sampling_steps: int = 100
    diffusion_batch_mul: int = 4
    grad_checkpointing: bool = False

    def __post_init__(self) -> None:
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_embed_dim"), getattr(self, f"{part}_num_heads")
            if width % heads:
                raise ValueError(f"mar.{part}_embed_dim={width} is no multiple of mar.{part}_num_heads={heads}")

    @property
    def native_side(self) -> int:
        """Tokens along one side of the position tables."""
        return self.img_size // self.vae_stride // self.patch_size

    @property
    def token_channels(self) -> int:
        """Numbers in one token: the channels of its latents."""
        return self.vae_embed_dim * self.patch_size**2


MAR_TYPES: dict[str, dict[str, int]] = {
    name: {f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in sizes.items()}
    for name, sizes in {
        "mar_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
        "mar_large": {"embed_dim": 1024, "depth": 16, "num_heads": 16},
        "mar_huge": {"embed_dim": 1280, "depth": 20, "num_heads": 16},
    }.items()
}
"""What the published `mar.type` stands for."""


@dataclass(frozen=True)
class VaeSizes:
    """Sizes of the KL autoencoder, named as in the published constructor; the defaults are KL-16.

    Attributes:
        ch: channels of the finest level; every level's number of channels is a multiple of 32, the norm groups.
        ch_mult: channels of each level, finest first, in units of `ch`.
        num_res_blocks: residual blocks of each encoder level; decoder levels have one more.
        resolution: image side in pixels that `attn_resolutions_encoder` refers to.
        attn_resolutions_encoder: sides in pixels of the encoder levels with attention.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    resolution: int = 256
    attn_resolutions_encoder: tuple[int, ...] = (16,)

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class HarmonConfig:
    """A whole Harmon model; the defaults are the released 0.5B one.

    Attributes:
        image_size: side in pixels of the images encoded and drawn.
        max_text: ids of a text-to-image or reconstruction prompt, its marks included.
        vae_scale: factor from the autoencoder's posterior mean to the latents.
        grad_scale: factor of the gradient that flows from the LLM into the understanding embeddings.
        text_dropout: probability that a drawing prompt becomes "Generate an image." in training.
        guidance_schedule: guidance scale over the iterations of drawing: `constant`, or `linear` from 1 up.
        llm: language model.
        mar: masked autoencoder and diffusion head.
        vae: image autoencoder.
    """

    image_size: int = 512
    max_text: int = 128
    vae_scale: float = 0.2325
    grad_scale: float = 0.1
    text_dropout: float = 0.1
    guidance_schedule: Literal["constant", "linear"] = "constant"
    llm: LlmSizes = field(default_factory=LlmSizes)
    mar: MarSizes = field(default_factory=MarSizes)
    vae: VaeSizes = field(default_factory=VaeSizes)

    def __post_init__(self) -> None:
        if self.mar.vae_stride != self.vae.factor:
            raise ValueError(f"mar.vae_stride is {self.mar.vae_stride}, but the autoencoder's is {self.vae.factor}")
        pixels = self.vae.factor * self.mar.patch_size
        if self.image_size < pixels or self.image_size % pixels:
            raise ValueError(f"image_size is {self.image_size} pixels; it must be a multiple of {pixels}, one token")
        if self.block >= self.llm.max_position_embeddings:
            raise ValueError(
                f"image_size={self.image_size} takes {self.block} positions of the language model, which has "
                f"llm.max_position_embeddings={self.llm.max_position_embeddings}; lower image_size"
            )

    @property
    def side(self) -> int:
        """Tokens along one side of an image."""
        return self.image_size // self.vae.factor // self.mar.patch_size

    @property
    def image_tokens(self) -> int:
        """N: tokens of one image."""
        return self.side**2

    @property
    def block(self) -> int:
        """Positions of a whole image in the language model: its tokens and the buffers."""
        return self.image_tokens + self.mar.buffer_size


HARMON_0_5B = HarmonConfig()
"""wusize/Harmon-0_5B: Qwen2.5-0.5B and mar_base."""

HARMON_1_5B = HarmonConfig(
    llm=LlmSizes(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2
    ),
    mar=msgspec.convert({**MAR_TYPES["mar_huge"], "diffloss_d": 12, "diffloss_w": 1536}, MarSizes),
)
"""wusize/Harmon-1_5B: Qwen2.5-1.5B and mar_huge."""

_OWN = ("image_size", "max_text", "vae_scale", "grad_scale", "text_dropout", "guidance_schedule")


def write_config(config: HarmonConfig, folder: Path) -> None:
    """Write `config.json` as the published one (`llm` a Qwen2 configuration, `mar` the constructor's arguments), with
    two sections of our own, `vae` and `reca`.
    """
    llm = {"model_type": "qwen2", **asdict(config.llm), "use_sliding_window": False}
    own = {name: getattr(config, name) for name in _OWN}
    content = {"model_type": "harmon", "llm": llm, "mar": asdict(config.mar), "vae": asdict(config.vae), "reca": own}
    write_json(content, folder / "config.json")


def read_config(folder: Path) -> HarmonConfig:
    """Read a published `config.json` or what `write_config` wrote. What a published one leaves out has the released
    value, and what it says of matters that have no part here (library versions, remote code) is not read.

    Raises:
        CheckpointError: the file is missing, is no JSON, belongs to another family, or holds a value of a wrong type.
    """
    path = folder / "config.json"
    content = read_json(path, "copy the one of wusize/Harmon-0_5B or -1_5B there")
    if content.get("model_type") != "harmon":
        raise CheckpointError(
            f'{path}: "model_type" is {content.get("model_type")!r}, expected "harmon"; is it another family\'s?'
        )
    try:
        return config_of(content)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def config_of(content: dict[str, Any]) -> HarmonConfig:
    """Configuration of the sections `llm` and `mar`, and `vae` and `reca` where they are given.

    Raises:
        ValueError: a value is missing, of a wrong type, or not implemented.
    """
    for name, default in (("llm", None), ("mar", None), ("vae", {}), ("reca", {})):
        if not isinstance(content.get(name, default), dict):
            raise ValueError(f'no section "{name}"')
    llm, mar = dict(content["llm"]), dict(content["mar"])
    if llm.get("use_sliding_window", False):
        raise ValueError("llm: sliding windows are not part of Harmon")
    if rope := llm.get("rope_parameters"):
        if "rope_theta" not in rope:
            raise ValueError("llm.rope_parameters has no rope_theta; give the base of the rotary embedding there")
        llm["rope_theta"] = rope["rope_theta"]
    kind = mar.get("type")
    if kind is not None and kind not in MAR_TYPES:
        raise ValueError(f"mar.type is {kind!r}, expected one of {', '.join(MAR_TYPES)}")
    mar = {**MAR_TYPES.get(kind or "", {}), **mar}
    # The published constructor takes the number of steps as a string, because it may name several sections.
    steps = str(mar.get("num_sampling_steps", 100))
    if not steps.isdecimal():
        raise ValueError(f"mar.num_sampling_steps is {steps!r}; only a number of evenly spaced steps is built here")
    mar["num_sampling_steps"] = int(steps)
    own, vae = content.get("reca", {}), content.get("vae", {})
    sections = {"llm": known_fields(llm, LlmSizes), "mar": known_fields(mar, MarSizes), "vae": vae}
    unknown = sorted(set(own) - set(_OWN)) + sorted(set(vae) - set(VaeSizes.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown fields in the sections reca or vae: {', '.join(unknown)}")
    return msgspec.convert({**own, **sections}, HarmonConfig)
