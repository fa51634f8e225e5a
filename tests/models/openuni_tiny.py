"""A tiny OpenUni for tests."""

from collections.abc import Sequence

import numpy as np
import torch

from reca.models.base import Example
from reca.models.openuni.config import (
    AutoencoderSizes,
    ConnectorSizes,
    LanguageSizes,
    OpenUniConfig,
    SanaSizes,
    VisionSizes,
)
from reca.models.openuni.model import OpenUniModel
from reca.models.openuni.tokenizer import IMAGE_CONTEXT, build_chat_tokenizer

WORDS = ("a red cat and two blue dogs", "what colour is the cat?", "describe the image in detail")
SIDE = 32

VAE = AutoencoderSizes(
    latent_channels=4,
    attention_head_dim=4,
    encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
    decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
    encoder_block_out_channels=(8, 8, 16),
    decoder_block_out_channels=(8, 8, 16),
    encoder_layers_per_block=(1, 1, 1),
    decoder_layers_per_block=(1, 1, 1),
    encoder_qkv_multiscales=((), (), (5,)),
    decoder_qkv_multiscales=((), (), (5,)),
)
SANA = SanaSizes(
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_cross_attention_heads=4,
    cross_attention_head_dim=8,
    cross_attention_dim=32,
    caption_channels=24,
    sample_size=8,
)


def tiny_model(seed: int = 0, **changes: object) -> OpenUniModel:
    """Two layers everywhere, 32-pixel images, latents 4 x 8 x 8, 4 understanding features, 5 queries."""
    tokenizer = build_chat_tokenizer(WORDS)
    settings = {
        "queries": 5,
        "image_size": SIDE,
        "image_context_id": tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT),
        "max_prompt": 40,
        "max_caption": 24,
        "activation_checkpointing": False,
        "language": LanguageSizes(len(tokenizer), 32, 48, 2, 4, 2, max_position_embeddings=64),
        "vision": VisionSizes(16, 32, 2, 2, image_size=28, patch_size=7),
        "connector": ConnectorSizes(48, 2, 2),
        "sana": SANA,
        "vae": VAE,
        **changes,
    }
    torch.manual_seed(seed)
    return OpenUniModel(OpenUniConfig(**settings), tokenizer).eval()  # pyright: ignore[reportArgumentType]


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Noise pixels."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8))


def examples(model: OpenUniModel, texts: Sequence[str], seed: int = 0) -> list[Example]:
    """One example of noise pixels for each text."""
    encoded = model.encode(pictures(len(texts), seed))
    return [
        Example(f"key-{row}", text, {name: value[row].numpy() for name, value in encoded.items()})
        for row, text in enumerate(texts)
    ]
