"""A tiny Show-o for tests."""

from collections.abc import Sequence

import numpy as np
import torch

from reca.models.base import Example
from reca.models.showo.config import ClipSizes, MagvitConfig, PhiSizes, ShowoConfig
from reca.models.showo.model import ShowoModel
from reca.models.words import build_word_tokenizer

WORDS = ("a red cat and two blue dogs", "what colour is the cat?", "describe the image in detail", "answer briefly")


def tiny_model(seed: int = 0, **changes: object) -> ShowoModel:
    """Two layers, 16-pixel images, 16 codes in a picture, 4 understanding features."""
    tokenizer = build_word_tokenizer(WORDS)
    settings = {
        "text_size": len(tokenizer),
        "end_of_text": tokenizer.eos_token_id,
        "image_size": 16,
        "max_text": 12,
        "prefix_length": 16,
        "system_prompt": "answer briefly",
        "clip_normalize_understanding": False,
        "projector_hidden": 32,
        "phi": PhiSizes(32, 64, layers=2, heads=4, kv_heads=4, max_positions=64),
        "clip": ClipSizes(16, 32, 2, 2, image_size=16, patch_size=8, projection_dim=8),
        "magvit": MagvitConfig(8, (1, 1, 2), (1, 1, 2), (1, 1, 1), (1, 1, 1), code_bits=5, norm_groups=4),
        **changes,
    }
    torch.manual_seed(seed)
    return ShowoModel(ShowoConfig(**settings), tokenizer).eval()  # pyright: ignore[reportArgumentType]


def examples(model: ShowoModel, texts: Sequence[str], seed: int = 0) -> list[Example]:
    """One example of noise pixels for each text."""
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (len(texts), 3, 16, 16), dtype=np.uint8))
    encoded = model.encode(pixels)
    return [
        Example(f"key-{row}", text, {name: value[row].numpy() for name, value in encoded.items()})
        for row, text in enumerate(texts)
    ]
