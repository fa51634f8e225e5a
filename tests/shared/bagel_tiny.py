"""A tiny BAGEL for tests: 32-pixel pictures of 4 latent tokens, seen as 4 patches."""

from collections.abc import Sequence

import numpy as np
import torch

from reca.models.bagel.config import BagelConfig, ImageRule, LanguageSizes, VaeSizes, VisionSizes
from reca.models.bagel.model import BagelModel
from reca.models.bagel.tokenizer import build_word_tokenizer
from reca.models.base import Example

WORDS = ("a red cat and two blue dogs", "what colour is the cat?", "describe the image in detail", "make it blue")


def tiny_model(seed: int = 0, words: Sequence[str] = WORDS, **changes: object) -> BagelModel:
    """Two layers of width 32. Weights that are zero or one at first are random too, else they would hide errors."""
    tokenizer = build_word_tokenizer(words)
    settings: dict[str, object] = {
        "image_size": 32,
        "max_latent_size": 3,
        "condition": ImageRule(16, 8, 8),
        "seen": ImageRule(24, 8, 8),
        "drawn": ImageRule(48, 16, 16),
        "language": LanguageSizes(
            vocab_size=len(tokenizer) + 3,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
        ),
        "vision": VisionSizes(16, 32, 2, 2, image_size=24, patch_size=8),
        "vae": VaeSizes(8, (1, 1, 2, 1), blocks=1, latent_channels=4, norm_groups=4),
        **changes,
    }
    torch.manual_seed(seed)
    model = BagelModel(BagelConfig(**settings), tokenizer).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if not name.endswith("pos_embed"):
                noise = torch.randn_like(parameter)
                parameter.copy_(1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.2 * noise)
    return model


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """Noise, uint8 [count, 3, H, W]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, *size), dtype=np.uint8))


def examples(model: BagelModel, texts: Sequence[str], seed: int = 0) -> list[Example]:
    """One example of noise pixels for each text."""
    encoded = model.encode(pictures(len(texts), seed))
    return [
        Example(f"key-{row}", text, {name: value[row].numpy() for name, value in encoded.items()})
        for row, text in enumerate(texts)
    ]


def mixed_examples(model: BagelModel, texts: Sequence[str]) -> list[Example]:
    """Examples whose pictures differ in size, down to one latent token."""
    rng, sizes = np.random.default_rng(1), [(2, 3), (1, 1), (3, 2), (3, 3)]
    vae, width = model.config.vae, model.config.vision.hidden_size
    found = list[Example]()
    for row, text in enumerate(texts):
        rows, columns = sizes[row % len(sizes)]
        latent = (vae.latent_channels, 2 * rows, 2 * columns)
        arrays = {
            "latent_mean": rng.standard_normal(latent),
            "latent_std": rng.random(latent),
            "features": rng.standard_normal((columns, rows, width)),
        }
        found.append(Example(f"key-{row}", text, {name: value.astype(np.float32) for name, value in arrays.items()}))
    return found
