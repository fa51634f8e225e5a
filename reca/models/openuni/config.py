"""Sizes and settings of an OpenUni model. Needs no torch at import time. How they are stored: `files.py`.

Field names are those of the published configurations, so that their JSON files fill these classes as they are.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LanguageSizes:
    """Sizes of the language model (Qwen2); the defaults are InternVL3-1B's.

    Attributes:
        vocab_size: number of ids.
        hidden_size: width of the residual stream.
        intermediate_size: width of the MLP.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads.
        num_key_value_heads: key/value heads.
        max_position_embeddings: longest sequence.
        rope_theta: rotary base.
        rms_norm_eps: epsilon of every norm.
        hidden_act: transformers' name of the MLP activation.
    """

    vocab_size: int = 151674
    hidden_size: int = 896
    intermediate_size: int = 4864
    num_hidden_layers: int = 24
    num_attention_heads: int = 14
    num_key_value_heads: int = 2
    max_position_embeddings: int = 32768
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of the vision tower; the defaults are InternViT-300M-448px.

    Attributes:
        hidden_size: width.
        intermediate_size: width of the MLP.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads.
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        qkv_bias: whether query, key and value have biases.
        hidden_act: transformers' name of the MLP activation.
        layer_norm_eps: epsilon of the layer norms in the blocks.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class ConnectorSizes:
    """Sizes of the connector; the defaults are OpenUni-B's.

    Attributes:
        intermediate_size: width of the MLP.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads.
        hidden_act: transformers' name of the MLP activation.
        layer_norm_eps: epsilon of every layer norm.
        hidden_size: width; None stands for the language model's.
    """

    intermediate_size: int = 3072
    num_hidden_layers: int = 6
    num_attention_heads: int = 14
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    hidden_size: int | None = None


@dataclass(frozen=True)
class SanaSizes:
    """Sizes of the diffusion transformer, named as in diffusers; the defaults are Sana_600M_512px.

    Attributes:
        in_channels: latent channels.
        out_channels: channels of the velocity; the same number.
        num_attention_heads: heads of the linear self-attention.
        attention_head_dim: width of such a head; heads times this is the width.
        num_layers: number of blocks.
        num_cross_attention_heads: heads of the cross-attention.
        cross_attention_head_dim: width of such a head.
        cross_attention_dim: width of the context inside; the same as the width.
        caption_channels: width of the context given to it.
        mlp_ratio: hidden channels of the feed-forward in units of the width.
        attention_bias: whether the self-attention's projections have biases.
        sample_size: side of the latents it was trained on.
        patch_size: latent pixels per token along one side.
        norm_elementwise_affine: whether the block norms have weights.
        norm_eps: epsilon of the block norms.
        qk_norm: diffusers' name of the query and key norm, or None.
        interpolation_scale: scale of diffusers' sinusoidal position table; None, as in the releases for 512 pixels, for
            no table.
    """

    in_channels: int = 32
    out_channels: int = 32
    num_attention_heads: int = 36
    attention_head_dim: int = 32
    num_layers: int = 28
    num_cross_attention_heads: int = 16
    cross_attention_head_dim: int = 72
    cross_attention_dim: int = 1152
    caption_channels: int = 2304
    mlp_ratio: float = 2.5
    attention_bias: bool = False
    sample_size: int = 16
    patch_size: int = 1
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-6
    qk_norm: str | None = None
    interpolation_scale: float | None = None


@dataclass(frozen=True)
class AutoencoderSizes:
    """Sizes of the autoencoder (DC-AE), named as in diffusers' AutoencoderDC; the defaults are dc-ae-f32c32-sana-1.1.

    Attributes:
        latent_channels: channels of the latents.
        attention_head_dim: width of a head in the attention blocks.
        encoder_block_types: diffusers' name of each level's block, finest level first.
        decoder_block_types: the same for the decoder.
        encoder_block_out_channels: channels of each level, finest first; each level but the first halves the side.
        decoder_block_out_channels: the same for the decoder.
        encoder_layers_per_block: blocks of each level.
        decoder_layers_per_block: the same for the decoder.
        encoder_qkv_multiscales: kernel sizes of each level's multi-scale attention.
        decoder_qkv_multiscales: the same for the decoder.
        upsample_block_type: `pixel_shuffle` or `interpolate`.
        downsample_block_type: `pixel_unshuffle` or `conv`.
        decoder_norm_types: norm of the decoder's levels.
        decoder_act_fns: activation of the decoder's levels.
        encoder_out_shortcut: whether the encoder ends with a shortcut.
        decoder_in_shortcut: whether the decoder begins with a shortcut.
        decoder_conv_act_fn: activation before the last convolution.
        scaling_factor: latents times this have unit variance.
    """

    latent_channels: int = 32
    attention_head_dim: int = 32
    encoder_block_types: str | tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    decoder_block_types: str | tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    encoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers_per_block: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers_per_block: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    encoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    decoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    upsample_block_type: str = "interpolate"
    downsample_block_type: str = "conv"
    decoder_norm_types: str | tuple[str, ...] = "rms_norm"
    decoder_act_fns: str | tuple[str, ...] = "silu"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    decoder_conv_act_fn: str = "relu"
    scaling_factor: float = 0.41407

    @property
    def factor(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** (len(self.encoder_block_out_channels) - 1)


@dataclass(frozen=True)
class FlowSettings:
    """Noise levels of training and the solver of sampling; the defaults are those published with Sana.

    Attributes:
        num_train_timesteps: noise levels in training; the transformer's time runs from 1 to this.
        shift: shift of the training levels. Sana's scheduler file names none, which means 1.
        flow_shift: shift of the sampling levels.
        solver_order: order of DPM-Solver.
        algorithm_type: diffusers' name of the solver's form; its `sde` forms draw noise of their own, which no seed of
            a picture decides.
        solver_type: diffusers' name of the second-order rule.
        lower_order_final: whether the last steps use a lower order.
        euler_at_final: whether the last step is an Euler step.
        final_sigmas_type: `zero` or `sigma_min`, the noise level after the last step.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    flow_shift: float = 3.0
    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver++", "dpmsolver"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


@dataclass(frozen=True)
class OpenUniConfig:
    """A whole OpenUni model; the defaults are OpenUni-B-512.

    Attributes:
        queries: Q, learned queries appended to every prompt.
        image_size: side S in pixels of the images drawn.
        image_context_id: id whose places in a prompt the understanding features take.
        merge: patches merged into one feature along each side.
        vit_input_size: side in pixels of what the vision tower sees; None for the side its position table is made for
            (`vision.image_size`). For another, the table is resized.
        proj_type: where linear layers bring the widths together: after the connector (`enc_proj`, as in the releases),
            before it (`proj_enc`) or both.
        max_prompt: longest prompt in ids, image features included, queries not.
        max_caption: in training, a text-to-image prompt is cut after this many ids.
        caption_dropout: probability that text-to-image training loses its caption.
        activation_checkpointing: compute the activations of language model and Sana again in the backward pass instead
            of keeping them, as the release does.
        language: language model, frozen under RecA.
        vision: vision tower, frozen.
        connector: connector between queries and Sana.
        sana: diffusion transformer.
        vae: autoencoder, frozen.
        flow: noise levels.
    """

    queries: int = 256
    image_size: int = 512
    image_context_id: int = 151667
    merge: int = 2
    vit_input_size: int | None = None
    proj_type: Literal["enc_proj", "proj_enc", "proj_enc_proj"] = "enc_proj"
    max_prompt: int = 2048
    max_caption: int = 128
    caption_dropout: float = 0.1
    activation_checkpointing: bool = True
    language: LanguageSizes = field(default_factory=LanguageSizes)
    vision: VisionSizes = field(default_factory=VisionSizes)
    connector: ConnectorSizes = field(default_factory=ConnectorSizes)
    sana: SanaSizes = field(default_factory=SanaSizes)
    vae: AutoencoderSizes = field(default_factory=AutoencoderSizes)
    flow: FlowSettings = field(default_factory=FlowSettings)

    def __post_init__(self) -> None:
        pixels = self.vae.factor * self.sana.patch_size
        if self.image_size < pixels or self.image_size % pixels:
            raise ValueError(
                f"OpenUniConfig.image_size={self.image_size} is no multiple of {pixels}, the pixels of one token "
                f"(autoencoder factor {self.vae.factor} times Sana's patch_size {self.sana.patch_size})"
            )
        block = self.vision.patch_size * self.merge
        if self.seen_size < block or self.seen_size % block:
            name = "vision.image_size" if self.vit_input_size is None else "vit_input_size"
            raise ValueError(
                f"OpenUniConfig.{name}={self.seen_size} is no multiple of {block}, the pixels of "
                f"one feature (patch_size {self.vision.patch_size} times merge {self.merge})"
            )
        ends = {"enc_proj": self.language.hidden_size, "proj_enc": self.sana.caption_channels}
        if self.connector_width != ends.get(self.proj_type, self.connector_width):
            raise ValueError(
                f"OpenUniConfig.connector.hidden_size={self.connector_width} must be {ends[self.proj_type]} with "
                f"proj_type={self.proj_type!r}, as no layer lies between"
            )
        if self.sana.in_channels != self.vae.latent_channels:
            raise ValueError(
                f"OpenUniConfig: Sana takes {self.sana.in_channels} channels but the autoencoder gives "
                f"{self.vae.latent_channels}; take the two from one release"
            )
        length = self.max_prompt + self.queries
        if length > self.language.max_position_embeddings:
            raise ValueError(
                f"OpenUniConfig: max_prompt + queries = {length} exceeds the language model's "
                f"{self.language.max_position_embeddings} positions; lower max_prompt"
            )

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.image_size // self.vae.factor

    @property
    def image_tokens(self) -> int:
        """T: understanding features of one image."""
        return (self.seen_size // self.vision.patch_size // self.merge) ** 2

    @property
    def seen_size(self) -> int:
        """Side in pixels of what the vision tower sees."""
        return self.vision.image_size if self.vit_input_size is None else self.vit_input_size

    @property
    def connector_width(self) -> int:
        """Width of the connector."""
        return self.language.hidden_size if self.connector.hidden_size is None else self.connector.hidden_size


OPENUNI_B_512 = OpenUniConfig()
"""OpenUni-B-512: InternVL3-1B and Sana-0.6B, 512 pixels."""

OPENUNI_L_512 = OpenUniConfig(
    language=LanguageSizes(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2
    ),
    connector=ConnectorSizes(intermediate_size=8960, num_attention_heads=24),
    sana=SanaSizes(
        num_attention_heads=70,
        num_layers=20,
        num_cross_attention_heads=20,
        cross_attention_head_dim=112,
        cross_attention_dim=2240,
    ),
)
"""OpenUni-L-512: InternVL3-2B and Sana-1.6B, 512 pixels."""
