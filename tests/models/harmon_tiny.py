"""A tiny Harmon for tests."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from reca.models.base import Example, Task
from reca.models.harmon.config import HarmonConfig, LlmSizes, MarSizes, VaeSizes
from reca.models.harmon.model import HarmonModel
from reca.models.harmon.text import build_word_tokenizer

WORDS = ("a red cat and two blue dogs", "what colour is the cat?", "describe the image in detail", "answer briefly")
TEXTS: dict[Task, list[str]] = {
    "reconstruction": ["describe the image", "describe the image in detail", "the cat"],
    "text_to_image": ["a red cat", "two blue dogs and a cat", ""],
    "image_to_text": ["what colour is the cat?\nred", "is the cat blue?\nblue and red", "what is the cat?\na dogs"],
}
TASKS = list(TEXTS)


def tiny_config(mar: dict[str, object] | None = None, **changes: object) -> HarmonConfig:
    """Two blocks everywhere, 16-pixel images of 4 x 4 latents, position tables for 2 x 2."""
    sizes: dict[str, object] = {
        "img_size": 8,
        "vae_stride": 4,
        "vae_embed_dim": 4,
        "class_num": 3,
        "buffer_size": 3,
        "diffloss_d": 2,
        "diffloss_w": 16,
        "num_sampling_steps": 5,
        "diffusion_batch_mul": 2,
        **{f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in WIDTHS.items()},
        **(mar or {}),
    }
    settings: dict[str, object] = {
        "image_size": 16,
        "max_text": 24,
        "llm": LlmSizes(64, 32, 64, 2, 4, 2, max_position_embeddings=96),
        "mar": MarSizes(**sizes),  # pyright: ignore[reportArgumentType]
        "vae": VaeSizes(32, (1, 1, 1), 1, resolution=16, attn_resolutions_encoder=(4,)),
        **changes,
    }
    return HarmonConfig(**settings)  # pyright: ignore[reportArgumentType]


WIDTHS = {"embed_dim": 24, "depth": 2, "num_heads": 4}


def tiny_model(seed: int = 0, mar: dict[str, object] | None = None, **changes: object) -> HarmonModel:
    """Random weights, those that start at zero included."""
    tokenizer = build_word_tokenizer(WORDS)
    torch.manual_seed(seed)
    model = HarmonModel(tiny_config(mar, **changes), tokenizer).eval()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return model


def with_latents(model: HarmonModel, texts: Sequence[str], seed: int = 0) -> list[Example]:
    """One example of noise pixels for each text."""
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (len(texts), 3, 16, 16), dtype=np.uint8))
    latents = model.encode(pixels)["latents"].numpy()
    return [Example(f"key-{row}", text, {"latents": latents[row]}) for row, text in enumerate(texts)]


def all_draws(
    model: HarmonModel, task: Task, batch: dict[str, Tensor], seeds: Sequence[int], shared: int = 5
) -> dict[str, Tensor]:
    """Draws of the rows and those shared by the whole batch."""
    return {**model.draw(task, batch, seeds), **model.draw_shared(task, shared)}


def with_config(model: HarmonModel, **changes: object) -> HarmonModel:
    """The same model with other settings."""
    model.config = model.network.config = replace(model.config, **changes)  # pyright: ignore[reportArgumentType]
    return model
